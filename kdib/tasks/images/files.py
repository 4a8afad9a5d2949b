"""Where the sets of pictures that are not generated lie: a folder, the system's, or TFDS's. Nothing is downloaded."""

import os
from collections.abc import Iterator
from pathlib import Path

from kdib.tasks.images import idx, jpegs
from kdib.tasks.images.sets import Source

VARIABLE = "KDIB_DATA_DIR"
BY_TFDS = "on a machine with TensorFlow, `tfds build {}` prepares a folder to copy here"
TO_BE_HAD = {
    "mnist": "its four files (train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, and t10k- likewise) are at "
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion_mnist": "its four files are at https://github.com/zalandoresearch/fashion-mnist, and in Debian's package "
    "dataset-fashion-mnist",
    "cifar10": BY_TFDS.format("cifar10"),
    "svhn_cropped": BY_TFDS.format("svhn_cropped"),
    "cifar10_jpeg": "its two .npz files come with the data that kdib is tested on",
}


def read(name: str, data_dir: str) -> Source:
    """The set `name` from the folder `data_dir`; "": from $KDIB_DATA_DIR, the system's folder, or TFDS's own.

    Both are looked into for the set's own files, at and below the folder, and then for a set prepared by TFDS. The
    first that is there is read; if it is damaged, no other takes its place.

    Raises:
      FileNotFoundError: it is nowhere; the message says where it was looked for, and the remedies.
      ValueError: a damaged file, which is named.
    """
    looked: list[str] = []
    for found in _places(name, data_dir, looked):
        return found
    where = "; ".join(looked)
    raise FileNotFoundError(
        f"config.task.source={name!r}: found no such set ({where}). Give its folder as config.task.data_dir or "
        f"${VARIABLE}; {TO_BE_HAD[name]}; or set config.task.source='digits', which needs no file"
    )


def _places(name: str, data_dir: str, looked: list[str]) -> Iterator[Source]:
    """What there is of the set, in the order of preference, read only when it is asked for."""
    root = data_dir or os.environ.get(VARIABLE, "")
    folder = Path(root).expanduser() if root else None
    looked.append(f"looked in {folder}" if folder else f"neither data_dir nor ${VARIABLE} is set")
    own = jpegs if name == "cifar10_jpeg" else idx if name in idx.FOLDERS else None
    if own and folder and (place := own.find(name, folder)):
        yield own.read(name, place)
    elif own is idx and folder:
        looked += idx.others(name, folder)
    if own is idx and not data_dir and (place := idx.installed(name)):
        yield idx.read(name, place)
    if own is not jpegs:
        yield from _prepared(name, folder, data_dir, looked)


def _prepared(name: str, folder: Path | None, data_dir: str, looked: list[str]) -> Iterator[Source]:
    try:
        from kdib.tasks.images import tfds
    except ModuleNotFoundError as error:
        looked.append(f"TFDS could not be asked, {error}: pip install 'kdib[tfds]'")
        return
    for place in [folder] * (folder is not None) + [None] * (not data_dir):
        looked.append(f"TFDS has none prepared in {place or 'its default folder'}")
        if builder := tfds.find(name, place):
            yield tfds.source(name, builder)
