"""The optimisers of a study. The peak learning rate is a leaf of the state, so that runs of a grid share a program."""

import functools
from typing import Any

import jax.numpy as jnp
import optax

SCALERS = {
    "adamw": optax.scale_by_adam,
    "adam": optax.scale_by_adam,
    "sgd": optax.identity,
}
SCHEDULES = ("cosine", "constant")


@functools.cache
def make_optimizer(
    name: str,
    *,
    steps: int,
    warmup_steps: int,
    schedule: str,
    weight_decay: float,
    clip_norm: float,
    parts: tuple[str, ...] = (),
) -> optax.GradientTransformation:
    """The transformation of a recipe; its peak learning rate is set afterwards by `with_learning_rate`.

    Args:
      name: "adamw" (decoupled weight decay), "adam" or "sgd".
      steps: length of the run; the cosine reaches 0 there.
      warmup_steps: linear warm-up from 0.
      schedule: "cosine" or "constant" after the warm-up.
      weight_decay: decoupled, times the learning rate, as in optax.adamw; only "adamw" takes one other than 0.
      clip_norm: global gradient norm, clipped before anything else.
      parts: names in params["model"], such as those of a pair, that are clipped each by its own norm, the heads with
        the first. All else is elementwise, so that each part trains as it would alone. Empty: one norm for all.

    Raises:
      ValueError: for an unknown name, or a weight decay that would have no effect.
    """
    if name not in SCALERS:
        raise ValueError(f"train.optimizer={name!r} is unknown; known: {', '.join(SCALERS)}")
    if schedule not in SCHEDULES:
        raise ValueError(f"train.schedule={schedule!r} is unknown; known: {', '.join(SCHEDULES)}")
    if weight_decay and name != "adamw":
        raise ValueError(f"train.weight_decay={weight_decay} has no effect with {name}; use adamw or set it to 0")
    if schedule == "cosine":
        factor = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps, steps)
    else:
        factor = optax.linear_schedule(0.0, 1.0, warmup_steps) if warmup_steps else optax.constant_schedule(1.0)

    @optax.inject_hyperparams
    def chain(learning_rate):
        return optax.chain(
            _clip(clip_norm, parts),
            SCALERS[name](),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_schedule(factor),
            optax.scale_by_learning_rate(learning_rate),
        )

    return chain(learning_rate=0.0)


def _clip(norm: float, parts: tuple[str, ...]) -> optax.GradientTransformation:
    if not parts:
        return optax.clip_by_global_norm(norm)
    labels = {"model": {part: part for part in parts}, "heads": parts[0]}
    return optax.partition({part: optax.clip_by_global_norm(norm) for part in parts}, lambda params: labels)


def with_learning_rate(opt_state: Any, learning_rate: float) -> Any:
    """The state with its peak learning rate set."""
    return opt_state._replace(hyperparams={**opt_state.hyperparams, "learning_rate": jnp.float32(learning_rate)})
