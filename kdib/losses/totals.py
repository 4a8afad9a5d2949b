"""Published totals: several terms with coupled weights."""

import numbers

import jax.numpy as jnp
from jax.typing import ArrayLike

from kdib.losses.divergences import Direction
from kdib.losses.features import Reduce
from kdib.losses.spec import Term, from_config
from kdib.ranges import SHARE, check


def leveled(
    alpha: ArrayLike,
    temperature: ArrayLike,
    s_kl: ArrayLike | None,
    s_fm: ArrayLike | None,
    *,
    features: tuple[str, str] = ("student.hidden.penultimate", "teacher.hidden.penultimate"),
    direction: Direction = "forward",
    reduce: Reduce = "sum",
    projector: str = "",
) -> dict[str, Term]:
    """Leveled knowledge distillation as a spec: alpha CE + (1 - alpha) (s_KL tau^2 KL + s_FM FM).

    **alpha weights the ground truth**, not the teacher: alpha = 1 learns from labels alone. The terms are named "ce",
    "kl" and "fm". All four numbers may be traced and stacked specs can be vmapped, so a sweep over them compiles once.
    An `s_kl` or `s_fm` of None drops its term; with 0 the term is still computed. tau^2 is part of `softened_kl`.

    >>> spec = leveled(0.25, 4.0, 2.0, 0.5)
    >>> {name: float(term.weight) for name, term in spec.items()}
    {'ce': 0.25, 'kl': 1.5, 'fm': 0.375}

    A config can define the same loss by a function of its own:

    >>> def leveled_loss(alpha, tau, s_kl, s_fm):
    ...     return {
    ...         "ce": {"fn": "cross_entropy", "weight": alpha},
    ...         "kl": {"fn": "softened_kl", "weight": (1 - alpha) * s_kl, "temperature": tau},
    ...         "fm": {"fn": "feature_l1", "weight": (1 - alpha) * s_fm},
    ...     }
    >>> from_config(leveled_loss(0.25, 4.0, 2.0, 0.5)) == spec
    True

    Args:
      alpha: scalar in [0, 1], the weight of the cross-entropy with the labels.
      temperature: positive scalar tau.
      s_kl: scalar, the scale of the divergence on logits, or None.
      s_fm: scalar, the scale of `feature_l1`, or None.
      features: the paths of the layers to match. The poster does not say which; layers of different shapes need a
        projector.
      direction: the direction of `softened_kl`. The poster writes KL(softmax(student / tau), softmax(teacher / tau)).
        As a formula this is "reverse"; as the arguments of the usual function call it is "forward".
      reduce: the reduction of `feature_l1`; "sum" is published.
      projector: as in `from_config`: "" (none), "linear" or "conv". The head is then {"fm": (projector, *features)}.

    Raises:
      ValueError: if a number is not a scalar or out of its range, or for an unknown name.

    Reference: Wong, Fermin, Zheng, Park and Wang, "Leveled Knowledge Distillation" (poster). The values of alpha, tau,
    s_KL and s_FM are not published.
    """
    if isinstance(alpha, numbers.Real):
        check("alpha", alpha, SHARE)
    rest = 1 - jnp.asarray(alpha, jnp.float32)
    kl = {"fn": "softened_kl", "temperature": temperature, "direction": direction}
    fm = {"fn": "feature_l1", "inputs": features, "reduce": reduce, "projector": projector}
    return from_config(
        {
            "ce": {"fn": "cross_entropy", "weight": alpha},
            "kl": {**kl, "weight": None if s_kl is None else rest * jnp.asarray(s_kl, jnp.float32)},
            "fm": {**fm, "weight": None if s_fm is None else rest * jnp.asarray(s_fm, jnp.float32)},
        }
    )
