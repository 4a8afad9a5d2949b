"""What every source of pictures answers, and what the sources are called."""

from typing import NamedTuple

import numpy as np

NUMERALS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAMES: dict[str, tuple[str, ...]] = {  # the classes of each set that files hold, in the order of their labels
    "mnist": NUMERALS,
    "fashion_mnist": CLOTHES,
    "cifar10": CIFAR10,
    "svhn_cropped": NUMERALS,
    "cifar10_jpeg": CIFAR10,
    "mnist_corrupted": NUMERALS,
}
SHAPES: dict[str, tuple[int, ...]] = dict.fromkeys(("mnist", "fashion_mnist", "mnist_corrupted"), (28, 28, 1))
SHAPES |= dict.fromkeys(("cifar10", "svhn_cropped", "cifar10_jpeg"), (32, 32, 3))


class Images(NamedTuple):
    """N labelled pictures."""

    image: np.ndarray  # uint8 [N, H, W, C]
    label: np.ndarray  # int32 [N]


class Source(NamedTuple):
    """The two sets that files hold, and in words where they came from."""

    train: Images
    test: Images
    origin: str


def checked(images: Images, name: str, place: object) -> Images:
    """`images`, after their shape, number and labels were found to be those of the set `name`.

    Of "mnist_corrupted/scale" the first part counts. Raises ValueError, naming the `place` that they were read from.
    """
    known = name.partition("/")[0]
    shape, n_classes = SHAPES[known], len(NAMES[known])
    if images.image.shape[1:] != shape or not len(images.image):
        raise wrong(place, f"images of shape {images.image.shape}", f"[N, {', '.join(map(str, shape))}] with N >= 1")
    if len(images.image) != len(images.label):
        raise wrong(place, f"{len(images.image)} images and {len(images.label)} labels", "as many of each")
    if not 0 <= images.label.min() <= images.label.max() < n_classes:
        raise wrong(place, f"labels {images.label.min()}..{images.label.max()}", f"0..{n_classes - 1}")
    return images


def wrong(place: object, found: str, expected: str) -> ValueError:
    """The error of a file that is there and not what it should be."""
    return ValueError(f"{place}: found {found}, expected {expected}")
