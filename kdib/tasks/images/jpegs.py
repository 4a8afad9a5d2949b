"""Images stored as concatenated JPEG files in an .npz: a small, lossy substitute for CIFAR-10 in tests.

The arrays are `jpeg` uint8 (the bytes of all files), `offset` int [N + 1] (file i is jpeg[offset[i]:offset[i + 1]]),
`label` [N], and `names`, the classes.
"""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np

from kdib.tasks.images.sets import NAMES, SHAPES, Images, Source, checked, wrong

FILES = {"train": "cifar10_jpeg_train_*.npz", "test": "cifar10_jpeg_test_*.npz"}
ARRAYS = ("jpeg", "offset", "label", "names")


def read(name: str, folder: Path) -> Source:
    """The set from the two files in `folder`.

    Raises:
      FileNotFoundError: there is not exactly one file for each split.
      ValueError: a file is damaged or its arrays do not match; the message names the file.
    """
    train, test = (images(name, _only(folder, pattern)) for pattern in FILES.values())
    return Source(train, test, f"lossy JPEG images in {folder}; accuracies on them are not accuracies on CIFAR-10")


def find(name: str, root: Path) -> Path | None:
    """The folder with such files, `root`/name or `root`; None if neither has any."""
    places = (root / name, root)
    return next((place for place in places if any(any(place.glob(p)) for p in FILES.values())), None)


def _only(folder: Path, pattern: str) -> Path:
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        raise FileNotFoundError(f"{folder}: found {len(files)} files {pattern}, expected one")
    return files[0]


def images(name: str, file: Path) -> Images:
    """The images of one file. Raises ValueError, naming the file, if it is damaged."""
    arrays = _arrays(file)
    offset_M, label_N = arrays["offset"], arrays["label"].astype(np.int32)
    if tuple(arrays["names"]) != NAMES[name]:
        raise wrong(file, f"the classes {', '.join(map(str, arrays['names']))}", ", ".join(NAMES[name]))
    if len(offset_M) != len(label_N) + 1:
        raise wrong(file, f"{len(offset_M)} offsets and {len(label_N)} labels", "one offset more than labels")
    if offset_M[0] != 0 or offset_M[-1] != len(arrays["jpeg"]) or np.any(np.diff(offset_M) < 1):
        found = f"offsets from {offset_M[0]} to {offset_M[-1]}"
        raise wrong(file, found, f"increasing ones from 0 to {len(arrays['jpeg'])}, the bytes there are")
    data = arrays["jpeg"].tobytes()
    parts = [data[start:end] for start, end in pairwise(offset_M)]
    decoded = [_decoded(part, f"{file}, picture {i}", SHAPES[name]) for i, part in enumerate(parts)]
    return checked(Images(np.stack(decoded), label_N), name, file)


def _arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored}
    except Exception as error:  # zip, zlib and numpy raise different errors for a damaged file
        raise wrong(file, f"{type(error).__name__}: {error}", "an undamaged .npz file") from error
    if missing := [name for name in ARRAYS if name not in arrays]:
        raise wrong(file, f"no array {missing[0]!r}", f"the arrays {', '.join(ARRAYS)}")
    return arrays


def _decoded(data: bytes, place: str, shape: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    try:
        image_HxWxC = np.asarray(Image.open(io.BytesIO(data)))
    except (OSError, SyntaxError) as error:
        raise wrong(place, f"{type(error).__name__}: {error}", "a whole JPEG file") from error
    if image_HxWxC.shape != shape:
        raise wrong(place, f"the shape {image_HxWxC.shape}", str(shape))
    return image_HxWxC
