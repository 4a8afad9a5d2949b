"""Distillation losses for any JAX project: no models, no data, no training loop, only arrays.

The functions answer one float32 per example. `from_config`, `terms` and `combine` make a weighted loss of
them, whose weights and hyper-parameters are traced:

>>> from kdib import losses
>>> spec = losses.from_config({"kl": {"fn": "softened_kl", "weight": 1.0, "temperature": 4.0}})
>>> print(*sorted(losses.LOSSES))
cross_entropy entropy_penalty hard_label label_smoothing similarity_preserving soft_cross_entropy softened_kl top_k_kl
"""

from kdib.losses.divergences import (
    cross_entropy,
    entropy_penalty,
    hard_label,
    label_smoothing,
    soft_cross_entropy,
    softened_kl,
    top_k_kl,
)
from kdib.losses.features import similarity_preserving
from kdib.losses.schedules import (
    SCHEDULES,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    hold,
    linear,
    step,
    step_at,
)
from kdib.losses.spec import LOSSES, Loss, LossSpec, Mean, Term, combine, from_config, terms

__all__ = [
    "LOSSES",
    "SCHEDULES",
    "Loss",
    "LossSpec",
    "Mean",
    "Term",
    "combine",
    "constant",
    "cosine",
    "cosine_restarts",
    "cross_entropy",
    "entropy_penalty",
    "exponential",
    "from_config",
    "hard_label",
    "hold",
    "label_smoothing",
    "linear",
    "similarity_preserving",
    "soft_cross_entropy",
    "softened_kl",
    "step",
    "step_at",
    "terms",
    "top_k_kl",
]
