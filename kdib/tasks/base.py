"""The two types in which every task hands its data to training and to the properties."""

import base64
import io
import mmap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

PIECE = 1024  # rows that are read from a mapped file together


class Dataset(NamedTuple):
    """N examples and what is known of them.

    `inputs` are what a model sees, batched along the leading axis: at least `label` [N] int32 and `id` [N] int32
    (0..N-1, the row of the example), beside the task's own arrays. A language model is trained on a `label` [N, L] with
    a `mask` [N, L], and tested by `choices` [N, 2] at `position` [N]: its answer is the logits of these two tokens, and
    `label` [N] is the right one; `target` [N, L] are the tokens to predict. `groups` are columns [N] int32 by which a
    property may split its accuracy, such as the number of attractors; -1 puts an example in no group of that column.
    `words` says what the tokens are.
    """

    inputs: Mapping[str, np.ndarray]
    groups: Mapping[str, np.ndarray]
    words: Sequence[str] = ()

    def shown(self, i: int) -> dict[str, str]:
        """Example `i` for a reader: {"text": its words} or {"png": base64, "alt": what it is}.

        Raises:
          ValueError: if it has neither a picture nor tokens with their words.
        """
        if "image" in self.inputs:
            return {"png": _png(self.inputs["image"][i]), "alt": f"test picture {i}"}
        if "tokens" not in self.inputs or not self.words:
            raise ValueError(f"cannot show an example of {', '.join(self.inputs)}: no image, no tokens with words")
        whole = "position" in self.inputs  # a language model's begin with a token of their own, and end after the verb
        words = slice(1, self.inputs["position"][i] + 1) if whole else slice(self.inputs["length"][i] - 1)
        return {"text": " ".join(self.words[int(token)] for token in self.inputs["tokens"][i, words])}

    @property
    def size(self) -> int:
        """N, the number of examples."""
        return len(self.inputs["label"])


def _png(image_HxWxC: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image_HxWxC.squeeze(-1) if image_HxWxC.shape[-1] == 1 else image_HxWxC).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def gather(inputs: Mapping[str, Any], rows: Any) -> dict[str, np.ndarray]:
    """`rows` (indices or a slice) of every column [N, ...], in memory.

    A column on the disk is mapped for a piece of the rows at a time: with every page that is read come those around it,
    and they would pile up in the process.
    """
    return {name: _rows(column, rows) for name, column in inputs.items()}


def _rows(column: Any, rows: Any) -> np.ndarray:
    whole = isinstance(getattr(column, "base", None), mmap.mmap) and column.flags.c_contiguous
    if not isinstance(column, np.memmap) or column.filename is None or not whole:
        return np.array(column[rows])  # of a view numpy does not tell where in the file it begins
    pieces = [rows] if isinstance(rows, slice) else np.split(rows, range(PIECE, len(rows), PIECE))
    mapped = (np.memmap(column.filename, column.dtype, "r", column.offset, column.shape) for _ in pieces)
    return np.concatenate([anew[piece] for anew, piece in zip(mapped, pieces, strict=True)])


def cut(inputs: Mapping[str, Any], length: int) -> dict[str, Any]:
    """Arrays [N, L, ...] of a value for each of the L tokens, cut to the first `length`; the others as they are."""
    full = inputs["tokens"].shape[1]
    return {n: v[:, :length] if v.ndim > 1 and v.shape[1] == full else v for n, v in inputs.items()}


class Task(NamedTuple):
    """Everything a study needs to know of its task.

    `tests` maps a name to a test set; the first is in distribution, the others mostly out of it, and none of them
    may select anything. `watched` are further validation sets, whose metrics every snapshot has. `shapes` is what a
    network must know of the inputs, as keywords of `kdib.models.build`. `input_digest` is a hash of what the inputs
    mean, such as the numbering of the vocabulary: a network may only be shown inputs of the digest that it was
    trained on. `num_classes` is None where networks predict the next token. `facts` is JSON-able and printed by the
    report: sizes, coverage, baselines, examples.
    """

    name: str
    train: Dataset
    validation: Dataset
    tests: Mapping[str, Dataset]
    num_classes: int | None
    input_digest: str
    facts: Mapping[str, Any]
    shapes: Mapping[str, Any]
    watched: Mapping[str, Dataset] = MappingProxyType({})
