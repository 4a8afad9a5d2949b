"""Locate image data sets on disk: in a given folder, in that of a system package, or in that of TFDS. No downloads."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdib.tasks.images import idx, jpegs
from kdib.tasks.images.sets import Images, Source

VARIABLE = "KDIB_DATA_DIR"
BY_TFDS = "on a machine with TensorFlow, `tfds build {}` prepares a folder to copy here"
TO_BE_HAD = {
    "mnist": "its four files (train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, and t10k- likewise) are at "
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion_mnist": "its four files are at https://github.com/zalandoresearch/fashion-mnist, and in Debian's package "
    "dataset-fashion-mnist",
    "cifar10": BY_TFDS.format("cifar10"),
    "svhn_cropped": BY_TFDS.format("svhn_cropped"),
    "cifar10_jpeg": "its two .npz files are part of the test data of kdib",
}


def read(name: str, data_dir: str) -> Source:
    """The set `name` from the folder `data_dir`; "" means $KDIB_DATA_DIR, the system's folder, or the folder of TFDS.

    The search looks for the original files of the set in and below the folder, and then for a set prepared by TFDS. It
    reads the first match. If that is damaged, no other replaces it.

    Raises:
      FileNotFoundError: the set was not found; the message lists the places searched and the remedies.
      ValueError: a file is damaged; the message names it.
    """
    looked: list[str] = []
    for found in _places(name, data_dir, looked):
        return found
    where = "; ".join(looked)
    raise FileNotFoundError(
        f"config.task.source={name!r}: found no such set ({where}). Give its folder as config.task.data_dir or "
        f"${VARIABLE}; {TO_BE_HAD[name]}; or set config.task.source='digits', which needs no file"
    )


def corrupted(name: str, data_dir: str) -> Images:
    """The test images of a corruption of the published MNIST-C, prepared by TFDS as "mnist_corrupted/<name>".

    The search covers the same places as `read` for prepared sets. Raises as `read`.
    """
    looked: list[str] = []
    for builder in _builders(f"mnist_corrupted/{name}", _folder(data_dir), data_dir, looked):
        from kdib.tasks.images import tfds

        return tfds.images(f"mnist_corrupted/{name}", builder, "test")
    raise FileNotFoundError(
        f"config.task.corrupted: found no set {name!r} ({'; '.join(looked)}). "
        f"Give its folder as config.task.data_dir or ${VARIABLE}; {BY_TFDS.format(f'mnist_corrupted/{name}')}"
    )


def _folder(data_dir: str) -> Path | None:
    root = data_dir or os.environ.get(VARIABLE, "")
    return Path(root).expanduser() if root else None


def _places(name: str, data_dir: str, looked: list[str]) -> Iterator[Source]:
    """The set from every place that has it, in order of preference, read only when the iterator reaches the place."""
    folder = _folder(data_dir)
    looked.append(f"looked in {folder}" if folder else f"neither data_dir nor ${VARIABLE} is set")
    own = jpegs if name == "cifar10_jpeg" else idx if name in idx.FOLDERS else None
    if own and folder and (place := own.find(name, folder)):
        yield own.read(name, place)
    elif own is idx and folder:
        looked += idx.others(name, folder)
    if own is idx and not data_dir and (place := idx.installed(name)):
        yield idx.read(name, place)
    if own is not jpegs:
        for builder in _builders(name, folder, data_dir, looked):
            from kdib.tasks.images import tfds

            yield tfds.source(name, builder)


def _builders(name: str, folder: Path | None, data_dir: str, looked: list[str]) -> Iterator[Any]:
    """The builders of a set that TFDS prepared in `folder` or, if no `data_dir` is given, in its default folder."""
    try:
        from kdib.tasks.images import tfds
    except ModuleNotFoundError as error:
        looked.append(f"TFDS is not available, {error}: pip install 'kdib[tfds]'")
        return
    for place in [folder] * (folder is not None) + [None] * (not data_dir):
        looked.append(f"TFDS has none prepared in {place or 'its default folder'}")
        if builder := tfds.find(name, place):
            yield builder
