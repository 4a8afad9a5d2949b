"""Schedules of a term's weight: module-level functions from the step to a factor.

Their hyper-parameters are arrays, so schedules can be swept and stacked without another compilation. An optax schedule
is a closure, which allows neither. All steps are optimiser steps.
"""

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdib.ranges import AT_LEAST_1, POSITIVE, Range, check

Knots = Sequence[float]  # a list of numbers, traced like the other hyper-parameters; only its length is static


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
    """`initial` up to step `start`, `final` from step `stop`, linear in between; a jump if start = stop.

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
    """`initial` up to step `start`, `final` from step `stop`, half a cosine in between; a jump if start = stop.

    Reference: Loshchilov and Hutter, "SGDR", 2017, equation 5 (https://arxiv.org/abs/1608.03983), one cycle.

    >>> print(cosine(0, stop=100), cosine(50, stop=100).round(4), cosine(100, stop=100))
    1.0 0.5 0.0
    """
    return _between(initial, final, (1 - jnp.cos(jnp.pi * _progress(step, start, stop))) / 2)


def cosine_restarts(
    step: ArrayLike,
    *,
    first_decay_steps: ArrayLike,
    t_mul: ArrayLike = 2.0,
    m_mul: ArrayLike = 1.0,
) -> jax.Array:
    """Half a cosine from 1 to 0 over `first_decay_steps`, restarted again and again.

    Every cycle is `t_mul` (at least 1) times as long as the one before, and starts `m_mul` times as high.

    Reference: Loshchilov and Hutter, "SGDR", 2017, section 3 (https://arxiv.org/abs/1608.03983), with `m_mul` as in
    Keras' CosineDecayRestarts.

    >>> factors = [cosine_restarts(step, first_decay_steps=10, m_mul=0.5) for step in (0, 5, 10, 20, 30)]
    >>> print(*(factor.round(4) for factor in factors))
    1.0 0.5 0.5 0.25 0.25
    """
    step, first, t_mul, m_mul = (jnp.asarray(value, jnp.float32) for value in (step, first_decay_steps, t_mul, m_mul))
    done = step / first
    growth = jnp.where(t_mul == 1, 2.0, t_mul)  # 1 would divide by 0; a nan in the unused branch makes gradients nan

    def begin(cycle):
        return jnp.where(t_mul == 1, cycle, (growth**cycle - 1) / (growth - 1))

    nearest = jnp.round(jnp.where(t_mul == 1, done, jnp.log1p(done * (growth - 1)) / jnp.log(growth)))
    # Not the floor of the quotient: log 25 / log 5, if rounded to less than 2, would delay a restart by a step.
    cycle = nearest - jnp.asarray(done * (1 + 3e-7) < begin(nearest), jnp.float32)
    fraction = jnp.clip((done - begin(cycle)) / t_mul**cycle, 0.0, 1.0)
    return m_mul**cycle * (1 + jnp.cos(jnp.pi * fraction)) / 2


def exponential(step: ArrayLike, *, rate: ArrayLike, transition_steps: ArrayLike, start: ArrayLike = 0.0) -> jax.Array:
    """1 up to step `start`, then continuous decay by the factor `rate` every `transition_steps` (staircase: `step`).

    Reference: Keras' ExponentialDecay (https://keras.io/api/optimizers/learning_rate_schedules/exponential_decay).

    >>> print(exponential(5_000, rate=0.96, transition_steps=10_000).round(4))
    0.9798
    """
    step, start = jnp.asarray(step, jnp.float32), jnp.asarray(start, jnp.float32)
    rate, transition_steps = jnp.asarray(rate, jnp.float32), jnp.asarray(transition_steps, jnp.float32)
    return rate ** (jnp.maximum(step - start, 0.0) / transition_steps)


def hold(step: ArrayLike, *, until: ArrayLike, initial: ArrayLike = 1.0, final: ArrayLike = 0.0) -> jax.Array:
    """`initial` before step `until`, `final` from then on.

    The defaults stop a term early; `initial=0, final=1` starts it late.

    Reference: Cho and Hariharan, "On the Efficacy of Knowledge Distillation", 2019, section 5
    (https://arxiv.org/abs/1910.01348), who stop the teacher's term early.

    >>> print(hold(99, until=100), hold(100, until=100))
    1.0 0.0
    """
    late = jnp.asarray(step, jnp.float32) >= jnp.asarray(until, jnp.float32)
    return _between(initial, final, jnp.asarray(late, jnp.float32))


def step(step: ArrayLike, *, every: ArrayLike, factor: ArrayLike) -> jax.Array:
    """A staircase: multiplied by `factor` at every multiple of `every`.

    >>> print(step(19, every=10, factor=0.5), step(20, every=10, factor=0.5))
    0.5 0.25
    """
    step, every, factor = (jnp.asarray(value, jnp.float32) for value in (step, every, factor))
    return factor ** jnp.floor(step / every)


def step_at(step: ArrayLike, *, boundaries: Knots, factor: ArrayLike) -> jax.Array:
    """A staircase: multiplied by `factor` at each of the steps `boundaries` [P].

    >>> print(step_at(149, boundaries=(150, 180), factor=0.5), step_at(180, boundaries=(150, 180), factor=0.5))
    1.0 0.25
    """
    step, factor = jnp.asarray(step, jnp.float32), jnp.asarray(factor, jnp.float32)
    return factor ** jnp.sum(step >= jnp.asarray(boundaries, jnp.float32), dtype=jnp.float32)


SCHEDULES = {
    "constant": constant,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "exponential": exponential,
    "hold": hold,
    "linear": linear,
    "step": step,
    "step_at": step_at,
}


RANGES = {"every": POSITIVE, "transition_steps": POSITIVE, "first_decay_steps": POSITIVE, "t_mul": AT_LEAST_1}


def check_knobs(knobs: Mapping[str, Any]) -> None:
    """Raise ValueError for plain numbers that divide by 0 or run backwards; arrays may be traced and are exempt."""
    for knob, value in knobs.items():
        if isinstance(value, numbers.Real):
            check(knob, value, RANGES.get(knob, Range()))
    start, stop = knobs.get("start", 0), knobs.get("stop")
    if isinstance(start, numbers.Real) and isinstance(stop, numbers.Real) and start > stop:
        raise ValueError(f"start={start} must not be after stop={stop}")


def _progress(step, start, stop) -> jax.Array:
    step, start, stop = (jnp.asarray(value, jnp.float32) for value in (step, start, stop))
    return jnp.where(step >= stop, 1.0, jnp.clip((step - start) / (stop - start), 0.0, 1.0))


def _between(initial, final, fraction: jax.Array) -> jax.Array:
    initial, final = jnp.asarray(initial, jnp.float32), jnp.asarray(final, jnp.float32)
    return (1 - fraction) * initial + fraction * final
