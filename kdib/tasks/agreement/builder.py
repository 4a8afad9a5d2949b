"""The TFDS builder of `kdib_agreement`, which defines the features of a corpus. tfds.py prepares and reads the set.

The builder needs a separate module: TFDS registers a class only once, but `python -m` would define the classes of the
executed module twice.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from kdib.tasks.agreement import corpus
from kdib.tasks.agreement.encoding import Examples

BLOCK = 10_000  # sentences in memory at a time
SPLIT = "train"  # TFDS's name for undivided data; a study divides the sentences itself
FIELDS = ("sentence", *Examples._fields[1:])
WORDS = ("sentence", "tags")  # words joined by spaces, as in the tables
TEXTS = (*WORDS, "verb_alternative", "source")


class _LocalInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Do nothing, because this set is in no bucket. TFDS would leave a temporary folder and may use the network."""


class KdibAgreement(tfds.core.GeneratorBasedBuilder):
    """Sentences with the number of one verb and the nouns between the verb and its subject."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, path: str | Path | None = None, **options: Any):
        """`path` is required to prepare the set, but not to read it."""
        self.path = path
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = dict.fromkeys(FIELDS, np.int32) | {name: tfds.features.Text() for name in TEXTS}
        features["label"] = tfds.features.ClassLabel(names=["singular", "plural"])
        return _LocalInfo(
            builder=self,
            description="Subject-verb agreement: the columns of kdib.tasks.agreement.encoding.Examples.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # keeps the sentences in the order of corpus.read
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        if self.path is None:
            raise ValueError(f"{self.name}: found no path, expected the path of a corpus")
        return {SPLIT: self._generate_examples(corpus.blocks(self.path, BLOCK))}

    def _generate_examples(self, blocks: Iterable[Examples]) -> Iterator[tuple[int, dict[str, Any]]]:
        rows = chain.from_iterable(zip(*block, strict=True) for block in blocks)
        for i, row in enumerate(rows):
            example = dict(zip(FIELDS, row, strict=True))
            yield i, example | {name: " ".join(example[name]) for name in WORDS}
