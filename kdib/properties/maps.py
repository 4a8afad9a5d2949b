"""Maps of networks: distances embedded in the plane, with the stress that measures the distortion.

A map is only as good as its stress, and every matrix yields a map. Two kinds of maps show nothing: those of networks
that are all the same (`nearly_identical` finds them, and `mds` draws them as one point), and those of networks that are
all equally far from each other (`structureless` gives the stress of such a map).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

RELATIVE = 1e-3  # of the largest distance; less than a pixel of a map
RANDOM_STARTS = 4
ABSOLUTE = 1e-6  # rounding error of 1 - similarity between two copies of a network


class Embedding(NamedTuple):
    """Points in the plane [N, 2], and Kruskal's stress-1 of their distances."""

    xy_Nx2: np.ndarray
    stress: float


def mds(distances_NxN: Any, seed: int = 0, *, reference_Nx2: Any = None, absolute: float = ABSOLUTE) -> Embedding:
    """Metric multidimensional scaling into the plane: points whose distances approximate those of the matrix.

    Networks that are `nearly_identical` (with this `absolute`) share one point. SMACOF (scikit-learn) runs from the
    classical solution and from random starts drawn from `seed`; the map with the least stress is returned, and the same
    matrix always gives the same map. Rotation and reflection, which do not change the stress, are fixed: the map is
    aligned with `reference_Nx2` (whose rows of nan are ignored), or else the x axis is the direction of largest spread,
    the first point is at the left, and the point farthest from the x axis is above it.

    Reference: de Leeuw, Applications of convex analysis to multidimensional scaling (1977); Torgerson, Multidimensional
    scaling: I. Theory and method, Psychometrika 17 (1952).

    Raises:
      ValueError: unless the matrix is square, symmetric, finite, non-negative and 0 on its diagonal, with N > 0.
    """
    distances_NxN = _checked(distances_NxN)
    members_N = _numbered(nearly_identical(distances_NxN, absolute=absolute), len(distances_NxN))
    xy_Nx2 = _smacof(_between(distances_NxN, members_N), seed)[members_N]
    xy_Nx2 = _principal(xy_Nx2) if reference_Nx2 is None else _turned(xy_Nx2, np.asarray(reference_Nx2, np.float64))
    return Embedding(xy_Nx2, stress(distances_NxN, xy_Nx2))


def stress(distances_NxN: np.ndarray, xy_Nx2: np.ndarray) -> float:
    """Kruskal's stress-1: sqrt(sum (d - delta)^2 / sum d^2) over pairs, d in the plane, delta in the matrix.

    0 is exact; Kruskal called .05 good, .1 fair and .2 poor. If all points coincide the stress is defined as 0.

    Reference: Kruskal, Multidimensional scaling by optimizing goodness of fit to a nonmetric hypothesis, Psychometrika
    29 (1964).
    """
    above_NxN = np.triu(np.ones(distances_NxN.shape, bool), 1)
    plane_P, matrix_P = _distances(xy_Nx2)[above_NxN], distances_NxN[above_NxN]
    size = float(np.square(plane_P).sum())
    return float(np.sqrt(np.square(plane_P - matrix_P).sum() / size)) if size > 0 else 0.0


def nearly_identical(
    distances_NxN: Any, *, relative: float = RELATIVE, absolute: float = ABSOLUTE
) -> list[tuple[int, ...]]:
    """Groups of two or more networks (as indices) that no map can tell apart.

    All distances within a group are at most `relative` times the largest distance of the matrix, or at most `absolute`.
    Such networks are copies of one network, or snapshots between which nothing was learned.

    Raises:
      ValueError: as `mds`.
    """
    distances_NxN = _checked(distances_NxN)
    if len(distances_NxN) < 2:
        return []
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    threshold = max(relative * float(distances_NxN.max()), absolute)
    tree = linkage(squareform(distances_NxN, checks=False), "complete")  # the threshold holds for all pairs of a group
    clusters_N = fcluster(tree, threshold, criterion="distance")
    groups = [tuple(np.flatnonzero(clusters_N == cluster).tolist()) for cluster in np.unique(clusters_N)]
    return sorted(group for group in groups if len(group) > 1)


def structureless(n: int = 11, seed: int = 0) -> Embedding:
    """The map of `n` networks that are all at distance 1 from each other, as a reference for maps without structure.

    Such a map seems to show something: a ring of well separated points around one in the middle. The published
    "training path" of an MLP was such a map (Abnar, Dehghani, Zuidema, arXiv 2006.00555): its checkpoints had been
    collected by a shallow copy, so all of them were the same network. Only the stress reveals this: a map of equally
    many points whose stress is close to this one shows as little.
    """
    return mds(1 - np.eye(n), seed)


def path_maps(distances_NxN: Any, runs: Sequence[str], seed: int = 0) -> tuple[Embedding, dict[str, Embedding]]:
    """One common map of all paths and, as in the literature, one map of each run alone, aligned with the common map.

    The threshold of `nearly_identical` is that of the common map in both cases. Otherwise a run of copies would be
    spread out by rounding errors.

    Args:
      distances_NxN: distances between all snapshots of all runs.
      runs: the run of each snapshot [N].
      seed: as in `mds`.

    Raises:
      ValueError: as in `mds`, and if `runs` has another length.
    """
    distances_NxN = _checked(distances_NxN)
    if len(runs) != len(distances_NxN):
        raise ValueError(f"expected a run for each of {len(distances_NxN)} snapshots, got {len(runs)}")
    joint, rows, alone = mds(distances_NxN, seed), np.asarray(runs), {}
    absolute = max(RELATIVE * float(distances_NxN.max()), ABSOLUTE)
    for run in dict.fromkeys(runs):
        (of_run,) = np.nonzero(rows == run)
        of_run_SxS, reference_Sx2 = distances_NxN[np.ix_(of_run, of_run)], joint.xy_Nx2[of_run]
        alone[run] = mds(of_run_SxS, seed, reference_Nx2=reference_Sx2, absolute=absolute)
    return joint, alone


def from_pairs(pairs: Mapping[tuple[str, str], float]) -> tuple[list[str], np.ndarray]:
    """Names, in order of appearance, and their distances [N, N], from {(name, name): distance} in one or both orders.

    Raises:
      ValueError: if a pair is missing, or has two different distances.
    """
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    at = {name: i for i, name in enumerate(names)}
    distances_NxN = np.where(np.eye(len(names)), 0, np.nan)
    for (a, b), value in pairs.items():
        if pairs.get((b, a), value) != value:
            raise ValueError(f"{a} and {b} have two distances, {value} and {pairs[b, a]}")
        distances_NxN[at[a], at[b]] = distances_NxN[at[b], at[a]] = value
    if np.isnan(distances_NxN).any():
        i, j = np.argwhere(np.isnan(distances_NxN))[0]
        raise ValueError(f"expected a distance for every pair of {len(names)}, got none for {names[i]} and {names[j]}")
    return names, distances_NxN


def _checked(distances_NxN: Any) -> np.ndarray:
    distances_NxN = np.asarray(distances_NxN, np.float64)
    if distances_NxN.ndim != 2 or distances_NxN.shape[0] != distances_NxN.shape[1] or not len(distances_NxN):
        raise ValueError(f"expected distances [N, N], N > 0, got {distances_NxN.shape}")
    fine = np.isfinite(distances_NxN).all() and (distances_NxN >= 0).all() and not np.diag(distances_NxN).any()
    if not fine or not np.allclose(distances_NxN, distances_NxN.T, rtol=1e-9, atol=1e-12):
        raise ValueError("expected distances that are finite, non-negative, symmetric, and 0 on the diagonal")
    return (distances_NxN + distances_NxN.T) / 2


def _numbered(groups: Sequence[tuple[int, ...]], n: int) -> np.ndarray:
    """The point number of each network [N], counted from 0 in order; the networks of a group share one point."""
    first_N = np.arange(n)
    for group in groups:
        first_N[list(group)] = group[0]
    return np.unique(first_N, return_inverse=True)[1]


def _between(distances_NxN: np.ndarray, members_N: np.ndarray) -> np.ndarray:
    """The mean distances [G, G] between groups, 0 within a group."""
    share_GxN = (members_N == np.arange(members_N.max() + 1)[:, None]).astype(np.float64)
    share_GxN /= share_GxN.sum(axis=1, keepdims=True)
    between_GxG = share_GxN @ distances_NxN @ share_GxN.T
    np.fill_diagonal(between_GxG, 0)
    return (between_GxG + between_GxG.T) / 2


def _smacof(distances_GxG: np.ndarray, seed: int) -> np.ndarray:
    """Points [G, 2] of least stress; solved at unit scale, since random starts are drawn from a unit square."""
    if len(distances_GxG) == 1:
        return np.zeros((1, 2))
    from sklearn.manifold import smacof

    largest = distances_GxG.max()
    found: list[Any] = [
        smacof(distances_GxG / largest, init=init, n_init=n_init, max_iter=300, eps=1e-6, random_state=seed)
        for init, n_init in ((_classical(distances_GxG / largest), 1), (None, RANDOM_STARTS))
    ]
    return min(found, key=lambda result: result[1])[0] * largest


def _classical(distances_GxG: np.ndarray) -> np.ndarray:
    """Torgerson's solution [G, 2], exact for points of a plane: the top two axes of the centred squared distances."""
    centring_GxG = np.eye(len(distances_GxG)) - 1 / len(distances_GxG)
    values_G, axes_GxG = np.linalg.eigh(-centring_GxG @ np.square(distances_GxG) @ centring_GxG / 2)
    return axes_GxG[:, -2:] * np.sqrt(np.maximum(values_G[-2:], 0))


def _principal(xy_Nx2: np.ndarray) -> np.ndarray:
    xy_Nx2 = xy_Nx2 - xy_Nx2.mean(axis=0)
    axes_2x2 = np.linalg.svd(xy_Nx2, full_matrices=False)[2] if len(xy_Nx2) > 1 else np.eye(2)
    xy_Nx2 = xy_Nx2 @ axes_2x2.T
    left = -1 if xy_Nx2[0, 0] > 0 else 1
    above = -1 if xy_Nx2[np.abs(xy_Nx2[:, 1]).argmax(), 1] < 0 else 1
    return xy_Nx2 * [left, above]


def _turned(xy_Nx2: np.ndarray, reference_Nx2: np.ndarray) -> np.ndarray:
    """Points rotated, reflected and moved to be nearest to the reference, but not scaled, to keep distances."""
    if reference_Nx2.shape != xy_Nx2.shape:
        raise ValueError(f"expected reference points {xy_Nx2.shape}, got {reference_Nx2.shape}")
    from scipy.linalg import orthogonal_procrustes

    known_N = np.isfinite(reference_Nx2).all(axis=1)
    if not known_N.any():
        return _principal(xy_Nx2)
    here_2, there_2 = xy_Nx2[known_N].mean(axis=0), reference_Nx2[known_N].mean(axis=0)
    turn_2x2, _ = orthogonal_procrustes(xy_Nx2[known_N] - here_2, reference_Nx2[known_N] - there_2)
    return (xy_Nx2 - here_2) @ turn_2x2 + there_2


def _distances(xy_Nx2: np.ndarray) -> np.ndarray:
    return np.linalg.norm(xy_Nx2[:, None] - xy_Nx2[None], axis=-1)
