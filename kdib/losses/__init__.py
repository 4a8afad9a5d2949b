"""Distillation losses for any JAX project: no models, no data, no training loop, only arrays.

The functions answer one float32 per example. `from_config`, `terms` and `combine` make a weighted loss of
them, whose weights and hyper-parameters are traced:

>>> from kdib import losses
>>> spec = losses.from_config({"kl": {"fn": "softened_kl", "weight": 1.0, "temperature": 4.0}})
>>> sorted(losses.LOSSES)
['cross_entropy', 'label_smoothing', 'soft_cross_entropy', 'softened_kl']
"""

from kdib.losses.divergences import cross_entropy, label_smoothing, soft_cross_entropy, softened_kl
from kdib.losses.schedules import SCHEDULES, constant, cosine, linear
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
    "cross_entropy",
    "from_config",
    "label_smoothing",
    "linear",
    "soft_cross_entropy",
    "softened_kl",
    "terms",
]
