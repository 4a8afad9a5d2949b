"""Schedules of a term's weight: module-level functions of the step that answer a factor.

Their hyper-parameters are arrays, so that schedules can be swept and stacked without another compilation; an
optax schedule is a closure, which can be neither. All steps are counted in optimiser steps.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def constant(step: ArrayLike) -> jax.Array:
    """The factor 1 at every step.

    >>> print(constant(1000))
    1.0
    """
    return jnp.ones_like(jnp.asarray(step), jnp.float32)


def linear(
    step: ArrayLike,
    *,
    stop: ArrayLike,
    start: ArrayLike = 0.0,
    initial: ArrayLike = 1.0,
    final: ArrayLike = 0.0,
) -> jax.Array:
    """`initial` up to step `start`, `final` from step `stop`, a line between; start = stop is a jump.

    >>> print(linear(25, stop=100), linear(1000, stop=100))
    0.75 0.0
    """
    return _between(initial, final, _progress(step, start, stop))


def cosine(
    step: ArrayLike,
    *,
    stop: ArrayLike,
    start: ArrayLike = 0.0,
    initial: ArrayLike = 1.0,
    final: ArrayLike = 0.0,
) -> jax.Array:
    """`initial` up to step `start`, `final` from step `stop`, half a cosine between; start = stop is a jump.

    Reference: Loshchilov and Hutter, "SGDR", 2017, equation 5 (https://arxiv.org/abs/1608.03983), one cycle.

    >>> print(cosine(0, stop=100), cosine(50, stop=100).round(4), cosine(100, stop=100))
    1.0 0.5 0.0
    """
    return _between(initial, final, (1 - jnp.cos(jnp.pi * _progress(step, start, stop))) / 2)


SCHEDULES = {"constant": constant, "cosine": cosine, "linear": linear}


def _progress(step, start, stop) -> jax.Array:
    step, start, stop = (jnp.asarray(value, jnp.float32) for value in (step, start, stop))
    return jnp.where(step >= stop, 1.0, jnp.clip((step - start) / (stop - start), 0.0, 1.0))


def _between(initial, final, fraction: jax.Array) -> jax.Array:
    initial, final = jnp.asarray(initial, jnp.float32), jnp.asarray(final, jnp.float32)
    return (1 - fraction) * initial + fraction * final
