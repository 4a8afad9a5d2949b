"""Read MNIST and Fashion-MNIST from their four IDX files, plain or gzipped.

Reference: LeCun, Cortes & Burges, "The MNIST database", for the format; Xiao, Rasul & Vollgraf 2017 for Fashion-MNIST.
"""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kdib.tasks.images.sets import Images, Source, checked, wrong

MEMBERS = {"train": "train", "test": "t10k"}
KINDS = {"images": 3, "labels": 1}  # number of axes, the last byte of the magic number
BYTES = 0x08  # the third byte of the magic number, for unsigned bytes
FOLDERS = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw"}  # the folders of torchvision
DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}  # package dataset-fashion-mnist
MD5 = {  # of the uncompressed file of training images
    "6bbc9ace898e44ae57da46a324031adb": "mnist",
    "f4a8712d7a061bf5bd6d2ca38dc4d50a": "fashion_mnist",
}


def array(file: Path, n_axes: int) -> np.ndarray:
    """The uint8 array of an IDX `file`, plain or gzipped.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is truncated or too long, is not of unsigned bytes, or does not have `n_axes` axes.
    """
    data = _bytes(file)
    head = 4 + 4 * n_axes
    if data[:4] != bytes([0, 0, BYTES, n_axes]):
        magic = f"0x{BYTES << 8 | n_axes:08x} (unsigned bytes, {n_axes} axes)"
        raise wrong(file, f"the magic number 0x{data[:4].hex()}", magic)
    if len(data) < head:
        raise wrong(file, f"{len(data)} bytes", f"a head of {head}")
    shape = struct.unpack(f">{n_axes}I", data[4:head])
    if len(data) - head != math.prod(shape):
        raise wrong(file, f"{len(data) - head} bytes after the head", f"{math.prod(shape)}, for the shape {shape}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _bytes(file: Path) -> bytes:
    data = file.read_bytes()
    if file.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise wrong(file, f"{type(error).__name__}: {error}", "an undamaged gzip file") from error


def read(name: str, folder: Path) -> Source:
    """The set `name` from the four files in `folder`.

    Raises:
      FileNotFoundError: one of the four files is missing; the message names it.
      ValueError: a file is damaged, or the files do not match or belong to another set.
    """
    _check_content(name, folder)
    return Source(_split(name, folder, "train"), _split(name, folder, "test"), f"IDX files in {folder}")


def _split(name: str, folder: Path, split: str) -> Images:
    files = {kind: _file(folder, split, kind) for kind in KINDS}
    image_NxHxW, label_N = (array(file, KINDS[kind]) for kind, file in files.items())
    images = Images(image_NxHxW[..., None], label_N.astype(np.int32))
    return checked(images, name, " and ".join(map(str, files.values())))


def _check_content(name: str, folder: Path) -> None:
    file = _file(folder, "train", "images")
    if _known(file) not in (name, ""):
        raise wrong(file, f"the images of {_known(file)}", f"those of {name}")


def _known(file: Path) -> str:
    """The name of the set with these training images, "" if unknown; MNIST and Fashion-MNIST share file names."""
    return MD5.get(hashlib.md5(_bytes(file), usedforsecurity=False).hexdigest(), "")


# ---- finding the files


def find(name: str, root: Path) -> Path | None:
    """The folder at or below `root` with IDX files of the set `name`; None if there is none.

    The candidates are `root`/name, the folder of torchvision such as `root`/MNIST/raw, and `root` itself. A folder with
    another set is skipped. A folder with damaged files is not skipped, so that reading it reports the damage.
    """
    return next((folder for folder in _folders(name, root) if _content(folder) in (name, "")), None)


def others(name: str, root: Path) -> list[str]:
    """Descriptions of the folders that `find` skipped."""
    return [f"{folder} holds {known}" for folder in _folders(name, root) if (known := _content(folder)) != name]


def _folders(name: str, root: Path) -> list[Path]:
    return [folder for folder in (root / name, root / FOLDERS[name], root) if any(_present(folder))]


def _content(folder: Path) -> str:
    """The name of the set in a folder; "" if unknown."""
    try:
        return _known(_file(folder, "train", "images"))
    except (FileNotFoundError, ValueError):
        return ""


def installed(name: str) -> Path | None:
    """The folder in which a Debian package installed the set `name`; None if there is none."""
    return next((folder for folder in [DEBIAN[name]] if any(_present(folder))), None) if name in DEBIAN else None


def _present(folder: Path) -> Iterator[Path]:
    for split in MEMBERS:
        for kind in KINDS:
            yield from (file for file in _candidates(folder, split, kind) if file.is_file())


def _candidates(folder: Path, split: str, kind: str) -> list[Path]:
    stems = [f"{MEMBERS[split]}-{kind}{dot}idx{KINDS[kind]}-ubyte" for dot in "-."]  # some tools write a dot
    return [folder / f"{stem}{suffix}" for suffix in ("", ".gz") for stem in stems]


def _file(folder: Path, split: str, kind: str) -> Path:
    files = _candidates(folder, split, kind)
    for file in files:
        if file.is_file():
            return file
    raise FileNotFoundError(f"found no {files[0]}, neither plain nor .gz, expected all four files of the set")
