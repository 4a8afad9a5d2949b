"""Image augmentations: a new view of every image in every epoch, which can be reproduced from (run, epoch, id).

An augmentation takes a key and the range of its random parameters: `AUGMENTATIONS["rotate"](key, image, degrees=15.0)`.
Its knobs are Python numbers in the ranges of `KNOBS`, otherwise it raises ValueError. Images are [H, W, C] floats in
[0, 1].
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdib.fields import known
from kdib.ranges import AT_LEAST_0, AT_LEAST_1, COUNT, POSITIVE, SHARE, Range, check
from kdib.tasks.images.transforms import colour_jitter, crop_resize, rotate, scale, shear, shift, shift_subpixel

Batch = Mapping[str, jax.Array]

KNOBS: Mapping[str, Range] = {  # a knob means the same in every augmentation
    "pixels": COUNT,
    "distance": AT_LEAST_0,
    "degrees": AT_LEAST_0,
    "factor": AT_LEAST_1,
    "amount": AT_LEAST_0,
    "area": Range(0, 1, above=True),
    "aspect": AT_LEAST_1,
    "brightness": AT_LEAST_0,
    "contrast": AT_LEAST_0,
    "saturation": AT_LEAST_0,
    "hue": Range(0, 0.5),
    "probability": SHARE,
    "alpha": POSITIVE,
}


def check_knobs(where: str, knobs: Mapping[str, float]) -> None:
    """Raise ValueError for a knob of an augmentation that is out of range."""
    for knob, value in knobs.items():
        check(f"{where}: {knob}", value, KNOBS[knob])


def _checked(augmentation: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(augmentation)
    def change(*args, **knobs):
        check_knobs(augmentation.__name__.removeprefix("random_"), knobs)
        return augmentation(*args, **knobs)

    return change


@_checked
def mixup(
    key: jax.Array, images_NxHxWxC: jax.Array, labels_NxK: jax.Array, *, alpha: float = 0.2
) -> tuple[jax.Array, jax.Array]:
    """Mix each image and label with weight w with those of another example, with one w ~ Beta(alpha, alpha) per batch.

    Args:
      key: draws w and the pairs.
      images_NxHxWxC: [N, H, W, C] floats.
      labels_NxK: [N, K], one-hot or probabilities.
      alpha: > 0; towards 0 nothing is mixed, at 1 w is uniform.

    Reference: Zhang, Cisse, Dauphin, Lopez-Paz, mixup: Beyond Empirical Risk Minimization, ICLR (2018).
    """
    for_weight, for_order = jax.random.split(key)
    weight = jax.random.beta(for_weight, alpha, alpha)
    order_N = jax.random.permutation(for_order, len(images_NxHxWxC))
    mixed = [weight * values + (1 - weight) * values[order_N] for values in (images_NxHxWxC, labels_NxK)]
    return mixed[0], mixed[1]


@_checked
def random_shift(key: jax.Array, image: jax.Array, *, pixels: int = 2) -> jax.Array:
    """Shift by a whole number of pixels, uniform in [-pixels, pixels] on each axis."""
    dy, dx = jax.random.randint(key, (2,), -int(pixels), int(pixels) + 1)
    return shift(image, dy, dx, reach=int(pixels))


@_checked
def random_shift_subpixel(key: jax.Array, image: jax.Array, *, distance: float = 2.0) -> jax.Array:
    """Shift by fractions of pixels, uniform in [-distance, distance] on each axis; bilinear."""
    for_y, for_x = jax.random.split(key)
    return shift_subpixel(image, _uniform(for_y, distance), _uniform(for_x, distance))


@_checked
def random_rotate(key: jax.Array, image: jax.Array, *, degrees: float = 15.0) -> jax.Array:
    """Rotate by an angle uniform in [-degrees, degrees]."""
    return rotate(image, _uniform(key, degrees))


@_checked
def random_scale(key: jax.Array, image: jax.Array, *, factor: float = 1.2) -> jax.Array:
    """Scale by a log-uniform factor between 1 / factor and factor."""
    return scale(image, jnp.exp(_uniform(key, 1.0) * jnp.log(factor)))


@_checked
def random_shear(key: jax.Array, image: jax.Array, *, amount: float = 0.2) -> jax.Array:
    """Shear by an amount uniform in [-amount, amount]."""
    return shear(image, _uniform(key, amount))


@_checked
def random_crop_resize(key: jax.Array, image: jax.Array, *, area: float = 0.5, aspect: float = 4 / 3) -> jax.Array:
    """Crop a box at a random place and resize it to the size of the image.

    Its share of the image is uniform in [area, 1], and its aspect ratio log-uniform between 1 / aspect and aspect, both
    before sides that exceed the image are cut. Reference: torchvision's RandomResizedCrop, which draws again instead.
    """
    rows, columns = image.shape[:2]
    for_area, for_aspect, for_place = jax.random.split(key, 3)
    share = jax.random.uniform(for_area, minval=area, maxval=1.0)
    stretch = jnp.exp(0.5 * _uniform(for_aspect, 1.0) * jnp.log(aspect))
    height = rows * jnp.minimum(jnp.sqrt(share) * stretch, 1.0)
    width = columns * jnp.minimum(jnp.sqrt(share) / stretch, 1.0)
    place_y, place_x = jax.random.uniform(for_place, (2,))
    return crop_resize(image, place_y * (rows - height), place_x * (columns - width), height, width)


@_checked
def random_colour_jitter(
    key: jax.Array,
    image: jax.Array,
    *,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
    hue: float = 0.05,
) -> jax.Array:
    """Jitter the colours by factors uniform in [1 - knob, 1 + knob], at least 0, and turn the hue by [-hue, hue] turns.

    The default of `hue` is a quarter of the others, as in SimCLR (Chen, Kornblith, Norouzi, Hinton, 2020).
    """
    *keys, for_hue = jax.random.split(key, 4)
    knobs = zip(keys, (brightness, contrast, saturation), strict=True)
    dark, flat, grey = (jnp.maximum(1 + _uniform(k, knob), 0) for k, knob in knobs)
    return colour_jitter(image, dark, flat, grey, _uniform(for_hue, hue))


@_checked
def random_flip(key: jax.Array, image: jax.Array, *, probability: float = 0.5) -> jax.Array:
    """Mirror the image horizontally with this probability; not suitable for digits and letters."""
    return jnp.where(jax.random.bernoulli(key, float(probability)), image[:, ::-1], image)


# (key, image [H, W, C] of floats in [0, 1], **knobs) -> image; jax.vmap over keys and images for a batch.
AUGMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "shift": random_shift,
    "shift_subpixel": random_shift_subpixel,
    "rotate": random_rotate,
    "scale": random_scale,
    "shear": random_shear,
    "crop_resize": random_crop_resize,
    "colour_jitter": random_colour_jitter,
    "flip": random_flip,
}
KNOWN: Mapping[str, Callable] = AUGMENTATIONS | {"mixup": mixup}


def augmentation(name: str, **knobs: float) -> Callable[[jax.Array, Batch], Batch]:
    """The function (key, batch) -> batch that augments each image with its own key and returns floats in [0, 1].

    The key of an example is `key` folded with its id, so a view depends neither on the batch nor on the position in it.
    "mixup" is the exception: it mixes the images of a batch in pairs, with a key from the first id. It does not mix
    labels, so kdib.checks rejects it for losses that read them. Equal arguments return the same object.

    Raises:
      ValueError: for an unknown augmentation or knob, listing the known ones, and for a knob out of range.
    """
    known("augmentation", name, KNOWN)
    parameters = inspect.signature(KNOWN[name]).parameters.values()
    for knob in knobs:
        known(f"augmentation {name!r}", knob, [p.name for p in parameters if p.kind is p.KEYWORD_ONLY])
    check_knobs(f"augmentation {name!r}", knobs)
    return _augmentation(name, tuple(sorted(knobs.items())))


@functools.cache
def _augmentation(name: str, knobs: tuple[tuple[str, float], ...]) -> Callable[[jax.Array, Batch], Batch]:
    change = functools.partial(KNOWN[name], **dict(knobs))

    def mix(key: jax.Array, batch: Batch) -> Batch:
        image_BxHxWxC = batch["image"].astype(jnp.float32) / 255
        nothing_Bx0 = jnp.zeros((len(image_BxHxWxC), 0))  # instead of labels
        return {**batch, "image": change(jax.random.fold_in(key, batch["id"][0]), image_BxHxWxC, nothing_Bx0)[0]}

    def augment(key: jax.Array, batch: Batch) -> Batch:
        keys_B = jax.vmap(lambda example: jax.random.fold_in(key, example))(batch["id"])
        image_BxHxWxC = batch["image"].astype(jnp.float32) / 255
        return {**batch, "image": jax.vmap(change)(keys_B, image_BxHxWxC)}

    return mix if name == "mixup" else augment


def _uniform(key: jax.Array, knob: float) -> jax.Array:
    return jax.random.uniform(key, minval=-knob, maxval=knob)
