"""Activation matching: the permutation of a network's units that best correlates with another network's units."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kdib.models.base import Batch, Model, Variables
from kdib.properties.basins.matching import assign
from kdib.properties.basins.permutations import Permutation, Spec, sizes
from kdib.step import predict

_answered = jax.jit(predict, static_argnames="model")


def unit_activations(model: Model, variables: Variables, batch: Batch) -> dict[str, np.ndarray]:
    """All activations of a network in evaluation mode: `Outputs.hidden` and `Outputs.units` by name, [M, ..., N].

    The arrays are float32. M runs over the inputs of the batch or, for sequences, over all positions that are not
    padding; the activations of a block that is applied several times are concatenated. Everything is in memory at once,
    but some hundred inputs are enough.

    Args:
      model, variables: of one network.
      batch: {"image"} or {"tokens", "length"}, with any other inputs of the network.
    """
    found = jax.device_get(_answered(variables, batch, model=model))
    parts = {**{name: (value,) for name, value in found.hidden.items()}, **found.units}
    return {name: np.concatenate([_real(part, batch) for part in of]) for name, of in parts.items()}


def activation_matching(
    spec: Spec, variables_b: Any, activations_a: Mapping[str, Any], activations_b: Mapping[str, Any]
) -> Permutation:
    """The permutation of b under which the activations of its units correlate most with those of a.

    Every group is a separate assignment problem. Attention heads are matched by the sum of the correlations of their
    dimensions, since the order within a head is fixed. A constant unit has correlation 0 with every unit.

    Args:
      spec: of both networks.
      variables_b: of the network to permute; their shapes give the number of units of each group.
      activations_a, activations_b: by group, the activations of both networks on the same inputs (`unit_activations`),
        without padding: [..., N], or [M, H * W * N] for flattened images. The group that the head reads may be given
        as "penultimate".

    Raises:
      ValueError: if a group has no activations, or they have other shapes or are not finite.

    Reference: Li, Yosinski, Clune, Lipson & Hopcroft, Convergent Learning, ICLR (2016); Ainsworth, Hayase & Srinivasa
    (2023), section 3.1, with correlations as in Jordan et al., REPAIR, ICLR (2023).
    """
    found = {}
    for group, n in sizes(spec, variables_b).items():
        a_MxN, b_MxN = (_of_group(spec, group, n, values) for values in (activations_a, activations_b))
        if a_MxN.shape != b_MxN.shape:
            raise ValueError(f"expected the same inputs, got {group} of {a_MxN.shape} and {b_MxN.shape}")
        a_NxX, b_NxX = (_by_unit(_standardised(values), n) for values in (a_MxN, b_MxN))
        found[group] = assign(a_NxX @ b_NxX.T)
    return found


def _real(values: np.ndarray, batch: Batch) -> np.ndarray:
    """Values without padding, if they are [B, T, ...] with one position per token (and possibly a CLS before them)."""
    if "length" not in batch:
        return values
    if values.ndim > 2 and values.shape[1] > 1:
        n_positions = values.shape[1]
        real_B = np.asarray(batch["length"]) + n_positions - np.shape(batch["tokens"])[1]
        values = values[np.arange(n_positions)[None, :] < real_B[:, None]]
    return values.reshape(-1, values.shape[-1])


def _of_group(spec: Spec, group: str, n: int, values: Mapping[str, Any]) -> np.ndarray:
    """The activations of a group as [M, n], or [M, n * width] if a unit has several dimensions."""
    read = spec.axes.get("params/head/kernel", (None,))[0]
    name = "penultimate" if group not in values and read is not None and read.group == group else group
    if name not in values:
        raise ValueError(f"no activations of {group} among {', '.join(values)}: see unit_activations")
    width = next(axis.width for axes in spec.axes.values() for axis in axes if axis and axis.group == group)
    found = np.asarray(values[name], np.float32)
    if found.ndim < 2 or found.shape[-1] % (n * width) or not np.isfinite(found).all():
        raise ValueError(f"expected finite activations [..., {n * width}] of {group}, got {found.shape}")
    return found.reshape(-1, n * width)


def _by_unit(x_MxN: np.ndarray, n: int) -> np.ndarray:
    """Activations regrouped by unit, [n, M * width]."""
    return x_MxN.reshape(len(x_MxN), n, -1).swapaxes(0, 1).reshape(n, -1)


def _standardised(x_MxN: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and norm 1; constant columns become 0."""
    x_MxN = x_MxN - x_MxN.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    norm_N = np.sqrt(np.square(x_MxN).sum(axis=0, dtype=np.float64))
    return x_MxN / np.where(norm_N > 0, norm_N, np.inf)[None].astype(np.float32)
