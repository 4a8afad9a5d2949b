"""The TFDS builder of `kdib_agreement`: what a corpus holds, as features. tfds.py prepares and reads it.

It has a file of its own since TFDS registers a class once, and `python -m` would run that of its module twice.
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
SPLIT = "train"  # as in every set of TFDS that is not divided; a study divides the sentences itself
FIELDS = ("sentence", *Examples._fields[1:])
WORDS = ("sentence", "tags")  # words with a space between them, as in the tables
TEXTS = (*WORDS, "verb_alternative", "source")


class _LocalInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Nothing: this set is in no bucket. TFDS would leave a temporary folder, and may ask the network."""


class KdibAgreement(tfds.core.GeneratorBasedBuilder):
    """Sentences with the number of one verb, and what stands between it and its subject."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, path: str | Path | None = None, **options: Any):
        """`path` is needed to prepare the set, not to read it."""
        self.path = path
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, Any] = dict.fromkeys(FIELDS, np.int32) | {name: tfds.features.Text() for name in TEXTS}
        features["label"] = tfds.features.ClassLabel(names=["singular", "plural"])
        return _LocalInfo(
            builder=self,
            description="Subject-verb agreement: the columns of kdib.tasks.agreement.encoding.Examples.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # what is read back is what corpus.read gave, in its order
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        if self.path is None:
            raise ValueError(f"{self.name}: found no path, expected that of a corpus")
        return {SPLIT: self._generate_examples(corpus.blocks(self.path, BLOCK))}

    def _generate_examples(self, blocks: Iterable[Examples]) -> Iterator[tuple[int, dict[str, Any]]]:
        rows = chain.from_iterable(zip(*block, strict=True) for block in blocks)
        for i, row in enumerate(rows):
            example = dict(zip(FIELDS, row, strict=True))
            yield i, example | {name: " ".join(example[name]) for name in WORDS}
