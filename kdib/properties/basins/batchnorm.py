"""Batch-normalization statistics at parameters that were never trained, such as points between two networks.

Running averages belong to the parameters with which they were collected. Halfway between two networks, the statistics
of neither fit, and a loss computed with them says little about the parameters (Jordan, Sedghi, Saukh, Entezari,
Neyshabur, REPAIR, ICLR 2023).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdib.models.base import Batch, Model

PROBE = 2.0**20  # far above any statistic, so that rounding does not hide the momentum


def momenta(model: Model, params: Any, model_state: Any, batch: Batch) -> Any:
    """The momentum m of each running average, as a tree like model_state with one number per leaf.

    Flax stores new = m old + (1 - m) batch and does not expose m. Here m is inferred from how the new value changes
    with the old one.

    Args:
      model: its `apply(..., train="statistics")` normalizes as in training but without dropout.
      params, model_state: of the network; the values do not matter.
      batch: any [B, ...] of its inputs.

    Raises:
      ValueError: if the state is not running averages in pairs of "mean" and "var"; the message names the leaf.
    """
    _check_pairs(model_state, "model_state")
    if not jax.tree.leaves(model_state):
        return model_state
    low, high = (
        _updated(model, params, jax.tree.map(lambda leaf, old=old: jnp.full_like(leaf, old), model_state), batch)
        for old in (0.0, PROBE)
    )
    shares = jax.tree.map(lambda a, b: (np.asarray(b, np.float64) - np.asarray(a, np.float64)) / PROBE, low, high)
    for path, share in jax.tree_util.tree_flatten_with_path(shares)[0]:
        if not (np.ptp(share) < 1e-5 and share.min() >= 0 and share.max() < 1):
            raise ValueError(f"expected a running average at model_state{jax.tree_util.keystr(path)}, got {share}")
    return jax.tree.map(lambda share: jnp.float32(share.mean()), shares)


def recalibrated(model: Model, params: Any, model_state: Any, batches: Batch, momenta: Any) -> Any:
    """The statistics of the batches [n, B, ...] at these parameters, in the form of model_state, without dropout.

    The mean is the mean of the batch means. The variance is the mean of the batch variances plus the variance of the
    batch means (the law of total variance), which is the variance of all n B examples. A mean of variances alone would
    be too small by a fraction of about 1/B. Both are exact for the first normalization layer. Later layers see inputs
    that were normalized with batch statistics, not with those of the whole sample, as in PyTorch's `update_bn`. All
    batches have the same weight in any order. For a network without statistics, model_state is returned.

    Args:
      model, params, model_state: the network; only the shapes of model_state are read.
      batches: columns [n, B, ...], without padding rows.
      momenta: the result of `momenta`.

    Reference: Izmailov, Podoprikhin, Garipov, Vetrov, Wilson (UAI 2018), section 3.2.
    """
    if not jax.tree.leaves(model_state):
        return model_state
    zero = jax.tree.map(jnp.zeros_like, model_state)

    def collect(_, batch):
        new = _updated(model, params, zero, batch)
        return None, jax.tree.map(lambda leaf, m: leaf / (1 - m), new, momenta)

    _, batch_statistics = jax.lax.scan(collect, None, batches)
    return _total(batch_statistics)


@functools.partial(jax.jit, static_argnums=0)
def _updated(model: Model, params: Any, model_state: Any, batch: Batch) -> Any:
    return model.apply(params, model_state, batch, train="statistics", key=None)[1]


def _total(node: Any) -> Any:
    """The statistics of all examples from the statistics of n batches [n, ...]."""
    if "mean" not in node:
        return {name: _total(child) for name, child in node.items()}
    return {"mean": node["mean"].mean(axis=0), "var": node["var"].mean(axis=0) + node["mean"].var(axis=0)}


def _check_pairs(node: Any, path: str) -> None:
    if not isinstance(node, dict) or ("mean" in node and set(node) != {"mean", "var"}):
        raise ValueError(f'expected batch statistics, pairs of "mean" and "var", got {node!r} at {path}')
    if "mean" not in node:
        for name, child in node.items():
            _check_pairs(child, f"{path}[{name!r}]")
