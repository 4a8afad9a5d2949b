"""The optimisers of a study. The peak learning rate is a leaf of the state, so that runs of a grid share a program."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kdib.losses import SCHEDULES
from kdib.losses.schedules import check_knobs
from kdib.ranges import AT_LEAST_0, POSITIVE, check

SCALERS = {
    "adamw": optax.scale_by_adam,
    "adam": optax.scale_by_adam,
    "radam": optax.scale_by_radam,
    "sgd": optax.identity,
}


def make_optimizer(
    name: str,
    *,
    steps: int,
    warmup_steps: int,
    schedule: Mapping[str, Any],
    weight_decay: float,
    clip_norm: float,
    l1: float = 0.0,
    l2: float = 0.0,
    parts: tuple[str, ...] = (),
) -> optax.GradientTransformation:
    """The transformation of a recipe; its peak learning rate is set afterwards by `with_learning_rate`.

    `l1` and `l2` act as the terms l1 sum |w| + l2 sum w^2 of the loss would (Keras' convention, so that the gradient is
    2 l2 w): before clipping and scaling, where weight decay comes after. They regularise kernels and embeddings, that
    is parameters of two axes or more, and no bias or norm. The loss and gradient norm that a step reports are without.

    Args:
      name: "adamw" (decoupled weight decay), "adam", "radam" or "sgd".
      steps: length of the run.
      warmup_steps: linear warm-up from 0.
      schedule: what the peak is multiplied by after the warm-up: {"name": a name in kdib.losses.SCHEDULES, **knobs},
        whose steps count from the end of the warm-up. "cosine" and "linear" reach 0 at the last step if no other
        `stop` is given.
      weight_decay: decoupled, times the learning rate, as in optax.adamw; only "adamw" takes one other than 0.
      clip_norm: global gradient norm, clipped before the scaling.
      l1: weight of the sum of absolute values.
      l2: weight of the sum of squares.
      parts: names in params["model"], such as those of a pair, that are clipped each by its own norm, the heads with
        the first. All else is elementwise, so that each part trains as it would alone. Empty: one norm for all.

    Raises:
      ValueError: for an unknown name or knob, or one that would have no effect.
    """
    knobs = tuple((knob, tuple(v) if isinstance(v, list) else v) for knob, v in sorted(schedule.items()))
    return _make(name, steps, warmup_steps, knobs, weight_decay, clip_norm, l1, l2, parts)


@functools.cache  # equal recipes share a compilation
def _make(name, steps, warmup_steps, schedule, weight_decay, clip_norm, l1, l2, parts) -> optax.GradientTransformation:
    if name not in SCALERS:
        raise ValueError(f"train.optimizer={name!r} is unknown; known: {', '.join(SCALERS)}")
    if weight_decay and name != "adamw":
        raise ValueError(f"train.weight_decay={weight_decay} has no effect with {name}; use adamw or set it to 0")
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"train.warmup_steps={warmup_steps} must be from 0 to less than its {steps} steps")
    for field, value in {"weight_decay": weight_decay, "l1": l1, "l2": l2}.items():
        check(f"train.{field}", value, AT_LEAST_0)
    check("train.clip_norm", clip_norm, POSITIVE)
    warmup, decay = optax.linear_schedule(0.0, 1.0, warmup_steps), _decay(steps - warmup_steps, **dict(schedule))
    factor = optax.join_schedules([warmup, decay], [warmup_steps])

    @optax.inject_hyperparams
    def chain(learning_rate):
        return optax.chain(
            _regularised(l1, l2),
            _clip(clip_norm, parts),
            SCALERS[name](),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_schedule(factor),
            optax.scale_by_learning_rate(learning_rate),
        )

    return chain(learning_rate=0.0)


def _decay(steps: int, /, *, name: str = "", **knobs) -> optax.Schedule:
    """The schedule `name` over the `steps` after the warm-up; an unknown name or knob raises with the known ones."""
    if name not in SCHEDULES:
        raise ValueError(f"train.schedule.name={name!r} is unknown; known: {', '.join(SCHEDULES)}")
    if name == "cosine" and not knobs:
        return optax.cosine_decay_schedule(1.0, steps)  # ours in other last bits: those of the published experiments
    known = list(inspect.signature(SCHEDULES[name]).parameters)[1:]
    knobs = {**({"stop": steps} if "stop" in known else {}), **knobs}
    try:
        inspect.signature(SCHEDULES[name]).bind(0, **knobs)
        check_knobs(knobs)
        factor = functools.partial(SCHEDULES[name], **{knob: jnp.asarray(v, jnp.float32) for knob, v in knobs.items()})
        if shape := jax.eval_shape(factor, 0).shape:
            raise ValueError(f"a knob is a list, the factor has the shape {shape}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"train.schedule {name!r}: {error}; its knobs: {', '.join(known) or 'none'}") from error
    return factor


def _regularised(l1: float, l2: float) -> optax.GradientTransformation:
    """Adds the gradient of l1 sum |w| + l2 sum w^2, over parameters of two axes or more; that of |w| at 0 is 0."""
    if not (l1 or l2):
        return optax.identity()

    def add(gradient, w):
        return gradient + l1 * jnp.sign(w) + 2 * l2 * w if w.ndim >= 2 else gradient

    return optax.stateless(lambda gradients, params: jax.tree.map(add, gradients, params))


def _clip(norm: float, parts: tuple[str, ...]) -> optax.GradientTransformation:
    if not parts:
        return optax.clip_by_global_norm(norm)
    labels = {"model": {part: part for part in parts}, "heads": parts[0]}
    return optax.partition({part: optax.clip_by_global_norm(norm) for part in parts}, lambda params: labels)


def with_learning_rate(opt_state: Any, learning_rate: float) -> Any:
    """The state with its peak learning rate set."""
    return opt_state._replace(hyperparams={**opt_state.hyperparams, "learning_rate": jnp.float32(learning_rate)})
