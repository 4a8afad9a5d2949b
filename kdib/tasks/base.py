"""Dataset and Task, the two types through which every task provides data to training and to the properties."""

import base64
import io
import mmap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

PIECE = 1024  # rows read from a memory-mapped file at a time


class Dataset(NamedTuple):
    """N examples with their groups.

    `inputs` are arrays [N, ...] by name, from whose rows batches are made. They contain at least `label` and `id` [N]
    int32 (0..N-1, the row of the example). `kdib.models.base.Batch` lists the keys of every task.

    The training set of a language model has a `label` [N, L] with a `mask` [N, L]. Its other sets are forced choices
    between the tokens `choices` [N, 2] at `position` [N]: the prediction is the larger of their two logits, `label` [N]
    is the index of the right token, and `target` [N, L] are the next tokens.

    `groups` are columns [N] int32 by which a property may split its accuracy, such as the number of attractors; an
    example with -1 is in no group of that column. `words` maps token ids to text.
    """

    inputs: Mapping[str, np.ndarray]
    groups: Mapping[str, np.ndarray]
    words: Sequence[str] = ()

    def shown(self, i: int) -> dict[str, str]:
        """Example `i` for display: {"text": its words} or {"png": base64, "alt": a description}.

        Raises:
          ValueError: if the example has neither an image nor tokens with words.
        """
        if "image" in self.inputs:
            return {"png": _png(self.inputs["image"][i]), "alt": f"test picture {i}"}
        if "tokens" not in self.inputs or not self.words:
            raise ValueError(f"cannot show an example of {', '.join(self.inputs)}: no image, and no tokens with words")
        whole = "position" in self.inputs  # skip the start token of a language model and stop after the verb
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
    """`rows` (indices or a slice) of every column [N, ...], copied into memory.

    A column on disk is mapped anew for every PIECE rows. Reading a page also loads the pages around it, and with a
    single mapping they would accumulate in the memory of the process.
    """
    return {name: _rows(column, rows) for name, column in inputs.items()}


def _rows(column: Any, rows: Any) -> np.ndarray:
    whole = isinstance(getattr(column, "base", None), mmap.mmap) and column.flags.c_contiguous
    if not isinstance(column, np.memmap) or column.filename is None or not whole:
        return np.array(column[rows])  # numpy does not record where in the file a view begins
    pieces = [rows] if isinstance(rows, slice) else np.split(rows, range(PIECE, len(rows), PIECE))
    mapped = (np.memmap(column.filename, column.dtype, "r", column.offset, column.shape) for _ in pieces)
    return np.concatenate([anew[piece] for anew, piece in zip(mapped, pieces, strict=True)])


def cut(inputs: Mapping[str, Any], length: int) -> dict[str, Any]:
    """Cut per-token arrays [N, L, ...] to the first `length` of L tokens and leave all other arrays unchanged."""
    full = inputs["tokens"].shape[1]
    return {n: v[:, :length] if v.ndim > 1 and v.shape[1] == full else v for n, v in inputs.items()}


class Task(NamedTuple):
    """Everything that a study needs to know about its task.

    `tests` maps names to test sets. The first is in-distribution, most others are out-of-distribution, and none may be
    used for selection. `watched` are further validation sets, on which every snapshot is evaluated. `shapes` are the
    keywords of `kdib.models.build` that describe the inputs. `input_digest` is a hash of the meaning of the inputs,
    such as the numbering of the vocabulary: a network accepts only inputs with the digest that it was trained on.
    `num_classes` is None if networks predict the next token. `facts` is JSON-serializable and shown in the report:
    sizes, coverage, baselines, examples.
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
