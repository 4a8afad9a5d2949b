"""REPAIR: rescaling an interpolated MLP so that its units vary as much as those of the two networks at the ends.

Between two networks, activations shrink layer by layer, because averages of units that disagree have less variance.
This effect alone causes a part of the barrier. For networks with batch normalization the remedy is to recompute the
statistics. For an MLP without batch normalization, the remedy is this module: every hidden unit's pre-activations get
the mean and standard deviation interpolated between those of the ends, by a scale and an offset folded into its weights
and bias. All convolutional networks here have batch normalization; LSTMs and Transformers are not covered.
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdib.models.base import Batch
from kdib.models.mlp import pixels

ROUNDING = 1e-5  # relative to a unit's mean; a smaller standard deviation is float32 rounding


class Moments(NamedTuple):
    """Mean and standard deviation over inputs of every unit's pre-activations in a layer, [N] each."""

    mean_N: jax.Array
    std_N: jax.Array


def moments(params: Any, batch: Batch) -> dict[str, Moments]:
    """The moments of every hidden layer of an MLP without batch normalization, by layer name.

    They are a pytree. Interpolated between two networks like the parameters, they are the target of `repair`.

    Args:
      params: of the MLP.
      batch: with "image" [B, H, W, C], the inputs over which moments are taken; 500 are enough.

    Raises:
      ValueError: for any other kind of network.
    """
    return _walk(params, batch, target=None)[1]


def repair(params: Any, target: dict[str, Moments], batch: Batch) -> Any:
    """An MLP whose hidden units' pre-activations have the moments `target` on `batch`; its last layer is unchanged.

    Layers are corrected from first to last, each on the outputs of the corrected layers before it. For a constant unit
    only the mean is corrected. The function is pure, so it can be part of a metric on a path:

        ends = [{"params": params, "target": moments(params, batch)} for params in (params_a, params_b)]
        interpolation_path(lambda point: loss(repair(**point, batch=batch)), *ends, alphas)

    Args:
      params: of an MLP without batch normalization, such as the mean of two.
      target: by layer, as returned by `moments`.
      batch: the inputs over which `target` was taken.

    Raises:
      ValueError: for any other kind of network, or a target for other layers.

    Reference: Jordan, Sedghi, Saukh, Entezari & Neyshabur, REPAIR: REnormalizing Permuted Activations for Interpolation
    Repair, ICLR (2023) (https://arxiv.org/abs/2211.08403).
    """
    if set(target) != set(_layers(params)):
        raise ValueError(f"expected a target of {', '.join(_layers(params))}, got {', '.join(target)}")
    return _walk(params, batch, target)[0]


def _walk(params: Any, batch: Batch, target: dict[str, Moments] | None) -> tuple[Any, dict[str, Moments]]:
    """The parameters, corrected if there is a target, and the moments of every hidden layer before the correction."""
    n_images, height, width, channels = batch["image"].shape
    x_BxD = pixels(batch, (height, width, channels)).reshape(n_images, -1)
    found, corrected = {}, dict(params)
    for name in _layers(params):
        z_BxN = x_BxD @ params[name]["kernel"] + params[name]["bias"][None]
        found[name] = Moments(z_BxN.mean(axis=0), z_BxN.std(axis=0))
        if target is not None:
            corrected[name], z_BxN = _moved(params[name], z_BxN, found[name], target[name])
        x_BxD = jax.nn.relu(z_BxN)
    return corrected, found


def _moved(layer: Any, z_BxN: jax.Array, now: Moments, target: Moments) -> tuple[Any, jax.Array]:
    """A layer and its pre-activations, scaled and shifted from the moments `now` to the target."""
    varies_N = now.std_N > ROUNDING * jnp.abs(now.mean_N)
    scale_N = jnp.where(varies_N, target.std_N / jnp.where(varies_N, now.std_N, 1), 1)
    bias_N = (layer["bias"] - now.mean_N) * scale_N + target.mean_N
    moved = {"kernel": layer["kernel"] * scale_N[None], "bias": bias_N}
    return moved, (z_BxN - now.mean_N[None]) * scale_N[None] + target.mean_N[None]


def _layers(params: Any) -> list[str]:
    """The names of an MLP's hidden layers, in order."""
    names = [name for name in params if re.fullmatch(r"layer\d+", name) and set(params[name]) == {"kernel", "bias"}]
    strangers = sorted(set(params) - {*names, "head"})
    if any("norm" in name for name in strangers):
        raise ValueError(f"REPAIR is for networks without normalization, got {strangers}: recompute its statistics")
    if strangers or not names or "head" not in params:
        raise ValueError(f"REPAIR covers MLPs (layer1, layer2, ..., head), got {', '.join(sorted(params))}")
    return sorted(names, key=lambda name: int(name.removeprefix("layer")))
