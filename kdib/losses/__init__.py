"""Distillation losses for any JAX project: functions of arrays, without models, data or a training loop.

Each loss returns one float32 value per example. `from_config` builds a weighted sum of losses, which `terms` and
`combine` evaluate. Its weights and hyper-parameters are traced, so new values do not recompile. Importing the package
loads only JAX and NumPy.

>>> from kdib import losses
>>> spec = losses.from_config({"kl": {"fn": "softened_kl", "weight": 1.0, "temperature": 4.0}})
>>> print(*sorted(losses.LOSSES))  # doctest: +NORMALIZE_WHITESPACE
attention_transfer cosine cross_entropy entropy_penalty feature_l1 hard_label hint label_smoothing
relational_angle relational_distance similarity_preserving soft_cross_entropy softened_kl top_k_kl
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
from kdib.losses.features import attention_transfer, cosine, feature_l1, hint
from kdib.losses.paths import resolve
from kdib.losses.relations import ExampleMask, relational_angle, relational_distance, similarity_preserving
from kdib.losses.schedules import (
    SCHEDULES,
    constant,
    cosine_restarts,
    exponential,
    hold,
    linear,
    step,
    step_at,
)
from kdib.losses.spec import (
    LOSSES,
    PROJECTORS,
    Loss,
    LossSpec,
    Mean,
    Term,
    combine,
    from_config,
    projectors,
    terms,
)
from kdib.losses.totals import leveled

__all__ = [
    "LOSSES",
    "PROJECTORS",
    "SCHEDULES",
    "ExampleMask",
    "Loss",
    "LossSpec",
    "Mean",
    "Term",
    "attention_transfer",
    "combine",
    "constant",
    "cosine",
    "cosine_restarts",
    "cross_entropy",
    "entropy_penalty",
    "exponential",
    "feature_l1",
    "from_config",
    "hard_label",
    "hint",
    "hold",
    "label_smoothing",
    "leveled",
    "linear",
    "projectors",
    "relational_angle",
    "relational_distance",
    "resolve",
    "similarity_preserving",
    "soft_cross_entropy",
    "softened_kl",
    "step",
    "step_at",
    "terms",
    "top_k_kl",
]
