"""What an augmented fit sees of its images: a new view every epoch, which can be replayed from (run, epoch, id)."""

import functools
import inspect
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from kdib.config import known
from kdib.tasks.images.transforms import AUGMENTATIONS, check_knobs, mixup

KNOWN: Mapping[str, Callable] = AUGMENTATIONS | {"mixup": mixup}
Batch = Mapping[str, jax.Array]


def augmentation(name: str, **knobs: float) -> Callable[[jax.Array, Batch], Batch]:
    """fn(key, batch) -> batch, its images [B, H, W, C] as floats in [0, 1], each augmented with a key of its own.

    An example's key is `key` folded with its id, so that a view depends neither on the batch nor on its place there.
    "mixup" alone mixes the images of a batch in pairs, with a key from its first id; labels are not mixed, so that
    kdib.checks refuses it to a loss that reads them. Equal arguments give the same object.

    Raises:
      ValueError: for an unknown augmentation or knob, listing the known ones; for a knob out of its range.
    """
    known("config.fits: augment.name", name, KNOWN)
    parameters = inspect.signature(KNOWN[name]).parameters.values()
    for knob in knobs:
        known(f"config.fits: augment {name!r}", knob, [p.name for p in parameters if p.kind is p.KEYWORD_ONLY])
    check_knobs(f"config.fits: augment {name!r}", knobs)
    return _augmentation(name, tuple(sorted(knobs.items())))


@functools.cache
def _augmentation(name: str, knobs: tuple[tuple[str, float], ...]) -> Callable[[jax.Array, Batch], Batch]:
    change = functools.partial(KNOWN[name], **dict(knobs))

    def mix(key: jax.Array, batch: Batch) -> Batch:
        image_BxHxWxC = batch["image"].astype(jnp.float32) / 255
        nothing_Bx0 = jnp.zeros((len(image_BxHxWxC), 0))  # in the place of labels
        return {**batch, "image": change(jax.random.fold_in(key, batch["id"][0]), image_BxHxWxC, nothing_Bx0)[0]}

    def augment(key: jax.Array, batch: Batch) -> Batch:
        keys_B = jax.vmap(lambda example: jax.random.fold_in(key, example))(batch["id"])
        image_BxHxWxC = batch["image"].astype(jnp.float32) / 255
        return {**batch, "image": jax.vmap(change)(keys_B, image_BxHxWxC)}

    return mix if name == "mixup" else augment
