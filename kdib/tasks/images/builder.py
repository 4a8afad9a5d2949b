"""TFDS builders of mnist and fashion_mnist from local IDX files without TensorFlow; tfds.py prepares and reads them.

The builders of TFDS itself need TensorFlow to encode the images and the network to download them. The sets written here
have the name, version and features of the original ones, so `tfds.load` and `tfds.data_source` can read them.
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
        """Do nothing, because the files are local. TFDS would leave a temporary folder and might use the network."""


class _FromIdx(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The images of four IDX files, in the order of the files."""

    VERSION = tfds.core.Version("3.0.1")

    def __init__(self, *, path: Path, **options: Any):
        """`path` is the folder with the IDX files."""
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
            disable_shuffling=True,  # keeps the images in the order of idx.read
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        source = idx.read(self.name, self.path)
        return {split: self._generate_examples(getattr(source, split)) for split in idx.MEMBERS}

    def _generate_examples(self, images: Images) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (image_HxWxC, label) in enumerate(zip(*images, strict=True)):
            yield i, {"image": _png(image_HxWxC[..., 0]), "label": int(label)}


class Mnist(_FromIdx, skip_registration=True):
    """The digits of LeCun, Cortes & Burges."""

    name = "mnist"


class FashionMnist(_FromIdx, skip_registration=True):
    """The clothes of Xiao, Rasul & Vollgraf."""

    name = "fashion_mnist"


BUILDERS: dict[str, type[_FromIdx]] = {"mnist": Mnist, "fashion_mnist": FashionMnist}


def _png(image_HxW: np.ndarray) -> io.BytesIO:
    """The image as a PNG file. TFDS copies the bytes of a file, but would call TensorFlow to encode an array."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image_HxW).save(file, "PNG")
    file.seek(0)
    return file
