"""The types that every image source returns, and the names, classes and shapes of the sets."""

from typing import NamedTuple

import numpy as np

NUMERALS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAMES: dict[str, tuple[str, ...]] = {  # classes by label, for sets from files
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
    """N labelled images."""

    image: np.ndarray  # uint8 [N, H, W, C]
    label: np.ndarray  # int32 [N]


class Source(NamedTuple):
    """The training and test split of a set, and a description of their origin."""

    train: Images
    test: Images
    origin: str


def checked(images: Images, name: str, place: object) -> Images:
    """Return `images` after checking shape, number and labels against the set `name`.

    For "mnist_corrupted/scale" the part before the slash counts. Raises ValueError, naming the `place` of the images.
    """
    known = name.partition("/")[0]
    shape, n_classes = SHAPES[known], len(NAMES[known])
    if images.image.shape[1:] != shape or not len(images.image):
        raise wrong(place, f"images of shape {images.image.shape}", f"[N, {', '.join(map(str, shape))}] with N >= 1")
    if len(images.image) != len(images.label):
        raise wrong(place, f"{len(images.image)} images and {len(images.label)} labels", "equal numbers")
    if not 0 <= images.label.min() <= images.label.max() < n_classes:
        raise wrong(place, f"labels {images.label.min()}..{images.label.max()}", f"0..{n_classes - 1}")
    return images


def wrong(place: object, found: str, expected: str) -> ValueError:
    """The error for a file whose contents are wrong."""
    return ValueError(f"{place}: found {found}, expected {expected}")
