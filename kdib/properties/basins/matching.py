"""Weight matching: the permutation of a network's units that brings its weights closest to those of another network.

The module `activations` matches units by their activations instead.

A barrier between two networks may be due to the arbitrary order of their units. A barrier that remains after matching
separates the solutions themselves.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from kdib.properties.basins.permutations import Axis, Permutation, Spec, identity, leaves, permuted, sizes

RESTARTS = 4
SMALLEST_GAIN = 1e-12  # relative to the two networks' squared norms; smaller gains are rounding errors

Weights = Mapping[str, np.ndarray]  # float64, by path


def weight_matching(
    spec: Spec, params_a: Any, params_b: Any, key: jax.Array, *, restarts: int = RESTARTS
) -> Permutation:
    """The best permutation of b found, bringing its parameters closest to those of a in Euclidean distance.

    The method is coordinate descent: with all other groups fixed, the best order of one group is an assignment problem,
    which is solved exactly. A descent stops when no group improves it, possibly in a local optimum. The best of
    `restarts` descents is returned, or the identity if it is better. The first descent starts from `forward`, the
    second from the identity, and the others from random permutations; each visits groups in an order drawn from `key`.
    In a Transformer, and in an MLP or CNN with one hidden layer, no two groups share a leaf, and the first descent
    finds the optimum.

    Args:
      spec: of both networks.
      params_a: the parameters of the reference network.
      params_b: the parameters of the network to permute, of the same shapes.
      key: draws the random starts and the order in which groups are visited.
      restarts: the number of descents, > 0.

    Returns:
      The permutation; `permutations.apply(spec, permutation, variables_b)` is the matched network.

    Raises:
      ValueError: for trees that differ (the message names the leaf), do not match `spec`, or contain nan or inf; for
        restarts < 1.

    Reference: Ainsworth, Hayase & Srinivasa, Git Re-Basin, ICLR (2023), algorithm 1 (https://arxiv.org/abs/2209.04836).
    The published algorithm starts from the identity; `forward` is our addition.
    """
    if restarts < 1:
        raise ValueError(f"expected restarts >= 1, got {restarts}")
    a, b = weights(spec, params_a, params_b)
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))
    stays = identity(spec, {"params": params_b})
    elsewhere = [{group: rng.permutation(order) for group, order in stays.items()} for _ in range(restarts - 2)]
    starts = [forward(spec, a, b), stays, *elsewhere][:restarts]
    found = [descend(spec, a, b, start, rng)[0] for start in starts]
    return max([*found, stays], key=lambda permutation: similarity(spec, a, b, permutation))


def weights(spec: Spec, params_a: Any, params_b: Any) -> tuple[Weights, Weights]:
    """Both networks' parameters by path, in float64, after checking that they match each other and `spec`."""
    a, b = ({path: np.asarray(leaf) for path, leaf in leaves({"params": p}).items()} for p in (params_a, params_b))
    for path in dict.fromkeys([*a, *b]):
        shapes = [list(side[path].shape) if path in side else None for side in (a, b)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"expected two networks of one architecture, got {path} {shapes[0]} and {shapes[1]}")
        if not (np.isfinite(a[path]).all() and np.isfinite(b[path]).all()):
            raise ValueError(f"expected finite parameters, got nan or inf in {path}")
    sizes(spec, {"params": params_a})
    a, b = ({path: leaf.astype(np.float64) for path, leaf in side.items()} for side in (a, b))
    return a, b


def similarity(spec: Spec, a: Weights, b: Weights, permutation: Permutation) -> float:
    """The inner product of a and the permuted b; their squared distance is |a|^2 + |b|^2 minus twice this value."""
    return float(sum(np.vdot(a[path], permuted(b[path], spec.axes[path], permutation)) for path in a))


def descend(
    spec: Spec, a: Weights, b: Weights, start: Permutation, rng: np.random.Generator
) -> tuple[Permutation, list[float]]:
    """Coordinate descent from `start`: the final permutation, and the similarity after every step.

    If a group runs over two axes of one leaf, as in the recurrent weights of an LSTM, the problem is quadratic. Then
    the assignment of its linear approximation is accepted if it improves the similarity, and afterwards pairs of units
    are exchanged as long as this improves it.
    """
    touched = _touched(spec, a)
    permutation, values = dict(start), [similarity(spec, a, b, start)]
    least = SMALLEST_GAIN * sum(np.vdot(side[path], side[path]) for side in (a, b) for path in a)
    improved = True
    while improved:
        improved = False
        for group in rng.permutation(list(touched)).tolist():
            candidate, gain = _best_order(spec, a, b, permutation, group, touched[group])
            if gain > least:
                improved, permutation[group] = True, candidate
                values.append(values[-1] + gain)
    return permutation, values


def forward(spec: Spec, a: Weights, b: Weights) -> Permutation:
    """A start for `descend` that propagates the order of inputs, outputs and other fixed axes into the network.

    Groups are assigned one by one, each from only those leaves whose other axes are already matched. The next group is
    the one with the most such weights per unit. Starting from an arbitrary order instead, the weights between two
    unmatched groups would be noise, and they would outnumber the others.
    """
    touched = _touched(spec, a)
    settled: Permutation = {}
    while len(settled) < len(touched):
        known = {
            group: [(path, k) for path, k in places if _others(spec, path, k) <= set(settled)]
            for group, places in touched.items()
            if group not in settled
        }
        group = max(known, key=lambda group: sum(a[path].size / a[path].shape[k] for path, k in known[group]))
        settled[group] = assign(_scores(spec, a, b, settled, known[group]))
    return settled


def _best_order(spec, a, b, permutation, group, places) -> tuple[np.ndarray, float]:
    """The best order found for one group with all others fixed, and the gain in similarity."""
    paths = {path: a[path] for path, _ in places}
    now = similarity(spec, paths, b, permutation)

    def gain(order):
        return similarity(spec, paths, b, {**permutation, group: order}) - now

    order = assign(_scores(spec, a, b, permutation, places))
    if any(group in _others(spec, path, k) for path, k in places):
        order = max(order, permutation[group], key=gain)
        order = _exchanged(spec, a, b, {**permutation, group: order}, group, places)
    return order, gain(order)


def _exchanged(spec, a, b, permutation, group, places) -> np.ndarray:
    """The order of a group after exchanging the best pair of its units as long as this improves the similarity."""
    least = SMALLEST_GAIN * sum(np.vdot(side[path], side[path]) for side in (a, b) for path, _ in places)
    order = permutation[group].copy()
    scores_NxN, a_CxNxN, b_CxNxN = _standing(spec, a, b, permutation, group, places)
    while True:
        gains_NxN = _gains(scores_NxN, a_CxNxN, b_CxNxN)
        i, j = np.unravel_index(np.argmax(gains_NxN), gains_NxN.shape)
        if gains_NxN[i, j] <= least:
            return order
        # Exchanging two rows and columns of one matrix changes the scores by products of rank 1.
        scores_NxN -= np.tensordot(a_CxNxN[:, i] - a_CxNxN[:, j], b_CxNxN[:, i] - b_CxNxN[:, j], axes=(0, 0))
        scores_NxN -= np.tensordot(
            a_CxNxN[:, :, i] - a_CxNxN[:, :, j], b_CxNxN[:, :, i] - b_CxNxN[:, :, j], axes=(0, 0)
        )
        b_CxNxN[:, [i, j]] = b_CxNxN[:, [j, i]]
        for x in (order, scores_NxN, b_CxNxN):
            x[..., [i, j]] = x[..., [j, i]]


def _standing(spec, a, b, permutation, group, places) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The scores at the current order of b's units, and the leaves of a and b in which both axes run over them."""
    twice = {path for path, k in places if group in _others(spec, path, k)}
    now = [(a[path], permuted(b[path], spec.axes[path], permutation), spec.axes[path]) for path in sorted(twice)]
    a_CxNxN, b_CxNxN = (np.concatenate([_squares(pair[side], pair[2]) for pair in now]) for side in (0, 1))
    return _scores(spec, a, b, permutation, places)[:, permutation[group]], a_CxNxN, b_CxNxN


def _gains(scores_NxN: np.ndarray, a_CxNxN: np.ndarray, b_CxNxN: np.ndarray) -> np.ndarray:
    """The exact gain [N, N] in similarity from exchanging two units, which changes both axes of C matrices at once."""
    return _pairs(scores_NxN) + (_pairs(a_CxNxN) * _pairs(b_CxNxN)).sum(axis=0)


def _pairs(x_NxN: np.ndarray) -> np.ndarray:
    """x_ij + x_ji - x_ii - x_jj over the last two axes."""
    diagonal_N = np.diagonal(x_NxN, axis1=-2, axis2=-1)
    return x_NxN + x_NxN.swapaxes(-1, -2) - diagonal_N[..., None] - diagonal_N[..., None, :]


def _squares(leaf: np.ndarray, axes: tuple[Axis | None, ...]) -> np.ndarray:
    """A matrix whose two axes run over the same units, as [copies, N, N]."""
    rows, columns = (axis.copies if axis else 1 for axis in axes)
    square = leaf.reshape(rows, leaf.shape[0] // rows, columns, leaf.shape[1] // columns)
    return square.transpose(0, 2, 1, 3).reshape(rows * columns, square.shape[1], square.shape[3])


def _touched(spec: Spec, a: Weights) -> dict[str, list[tuple[str, int]]]:
    """For each group, the (leaf, axis) pairs that run over its units."""
    touched: dict[str, list[tuple[str, int]]] = {}
    for path in a:
        for k, axis in enumerate(spec.axes[path]):
            if axis is not None:
                touched.setdefault(axis.group, []).append((path, k))
    return touched


def _others(spec: Spec, path: str, k: int) -> set[str]:
    """The groups of a leaf's axes other than k."""
    return {axis.group for other, axis in enumerate(spec.axes[path]) if axis is not None and other != k}


def _scores(spec, a, b, permutation, places) -> np.ndarray:
    """The inner products [N, N] of unit n of a with unit m of b over `places`, with all other axes permuted."""
    scores = []
    for path, k in places:
        b_leaf = permuted(b[path], spec.axes[path], permutation, skip=k)
        scores.append(_units(spec, path, k, a[path]) @ _units(spec, path, k, b_leaf).T)
    return sum(scores[1:], start=scores[0])


def _units(spec: Spec, path: str, k: int, leaf: np.ndarray) -> np.ndarray:
    """A leaf reshaped to [units of axis k, everything else]."""
    axis = spec.axes[path][k]
    assert isinstance(axis, Axis)
    shape = (*leaf.shape[:k], axis.copies, -1, axis.width, *leaf.shape[k + 1 :])
    units = np.moveaxis(leaf.reshape(shape), k + 1, 0)
    return units.reshape(len(units), -1)


def assign(scores_NxN: np.ndarray) -> np.ndarray:
    """The order [N] of columns that maximizes the sum of scores (a linear assignment)."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(scores_NxN, maximize=True)[1]
