"""What an augmented fit sees of its images: a new view every epoch, which can be replayed from (run, epoch, id)."""

import functools
import inspect
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from kdib.config import known
from kdib.tasks.images.transforms import AUGMENTATIONS

Batch = Mapping[str, jax.Array]


def augmentation(name: str, **knobs: float) -> Callable[[jax.Array, Batch], Batch]:
    """fn(key, batch) -> batch, its images [B, H, W, C] as floats in [0, 1], each augmented with a key of its own.

    An example's key is `key` folded with its id, so that a view depends neither on the batch nor on its place there.
    Equal arguments give the same object.

    Raises:
      ValueError: for an unknown augmentation or knob, listing the known ones.
    """
    known("config.fits: augment.name", name, AUGMENTATIONS)
    parameters = inspect.signature(AUGMENTATIONS[name]).parameters.values()
    for knob in knobs:
        known(f"config.fits: augment {name!r}", knob, [p.name for p in parameters if p.kind is p.KEYWORD_ONLY])
    return _augmentation(name, tuple(sorted(knobs.items())))


@functools.cache
def _augmentation(name: str, knobs: tuple[tuple[str, float], ...]) -> Callable[[jax.Array, Batch], Batch]:
    change = functools.partial(AUGMENTATIONS[name], **dict(knobs))

    def augment(key: jax.Array, batch: Batch) -> Batch:
        keys_B = jax.vmap(lambda example: jax.random.fold_in(key, example))(batch["id"])
        image_BxHxWxC = batch["image"].astype(jnp.float32) / 255
        return {**batch, "image": jax.vmap(change)(keys_B, image_BxHxWxC)}

    return augment
