"""TFDS's sets mnist and fashion_mnist, built from local IDX files without TensorFlow; tfds.py prepares and reads them.

TFDS's own builders need TensorFlow to encode the pictures and the network to fetch them. What these write has the
name, version and features of TFDS's sets, so `tfds.load` and `tfds.data_source` read it as theirs.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from kdib.tasks.images import idx
from kdib.tasks.images.sets import Images


class _LocalInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Nothing: these files are local. TFDS would leave a temporary folder, and may ask the network."""


class _FromIdx(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The pictures of four IDX files, in their order."""

    VERSION = tfds.core.Version("3.0.1")

    def __init__(self, *, path: Path, **options: Any):
        """`path` is the folder of the files."""
        self.path = path
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(28, 28, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return _LocalInfo(
            builder=self,
            description="Prepared from local IDX files by kdib.tasks.images.tfds.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # what is read back is what idx.read gave, in its order
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        source = idx.read(self.name, self.path)
        return {split: self._generate_examples(getattr(source, split)) for split in idx.MEMBERS}

    def _generate_examples(self, images: Images) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image_HxWxC, label) in enumerate(zip(*images, strict=True)):
            yield i, {"image": _png(image_HxWxC[..., 0]), "label": int(label)}


class Mnist(_FromIdx, skip_registration=True):
    """LeCun, Cortes & Burges's digits."""

    name = "mnist"


class FashionMnist(_FromIdx, skip_registration=True):
    """Xiao, Rasul & Vollgraf's clothes."""

    name = "fashion_mnist"


BUILDERS: dict[str, type[_FromIdx]] = {"mnist": Mnist, "fashion_mnist": FashionMnist}


def _png(image_HxW: np.ndarray) -> io.BytesIO:
    """A file of its own: TFDS takes its bytes as they are, where it would ask TensorFlow to encode an array."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image_HxW).save(file, "PNG")
    file.seek(0)
    return file
