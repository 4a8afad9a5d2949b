"""Representational similarity analysis: which examples a network represents alike, and whether two networks agree.

All functions take activations [N, D] of the same N examples in the same order, and compute in float64.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from kdib.properties.moments import check_examples

BLOCK = 256  # largest block of examples; the pairs of two blocks are in memory at a time
PAIRS = 2**22  # largest number of these pairs over all networks
ALL = slice(None)
ROUNDING = 1e-10  # of the squares that a sum cancels
COLUMNS = 2**12  # features that are in memory in float64 at a time
CONSTANT = "the similarity to a representation that is the same for every example is undefined (0 / 0)"


def dissimilarity(x_NxD: Any, *, metric: Literal["cosine", "correlation", "euclidean"] = "cosine") -> np.ndarray:
    """The representational dissimilarity matrix [N, N] of N examples, with a diagonal of 0.

    "cosine" is 1 - the cosine of two examples' activations, "correlation" is 1 - their Pearson correlation over
    features, and "euclidean" is their distance. Activations are not centred, as in the literature; to centre them,
    subtract `x.mean(axis=0)` first, or use `rsa`.

    Raises:
      ValueError: for an unknown metric, activations that are not finite [N, D], or an example with zero norm.
    """
    (x_NxD,) = as_activations(x_NxD)
    if metric == "euclidean":
        from scipy.spatial.distance import pdist, squareform

        return squareform(pdist(x_NxD))
    if metric not in ("cosine", "correlation"):
        raise ValueError(f"expected metric cosine, correlation or euclidean, got {metric!r}")
    if metric == "correlation":
        x_NxD = centred(x_NxD.T).T
    norms_N = np.linalg.norm(x_NxD, axis=1)
    if not norms_N.all():
        raise ValueError(f"{(norms_N == 0).sum()} of {len(norms_N)} examples have activations without a direction")
    unit_NxD = x_NxD / norms_N[:, None]
    rdm_NxN = np.clip(1 - unit_NxD @ unit_NxD.T, 0, 2)
    np.fill_diagonal(rdm_NxN, 0)
    return rdm_NxN


def second_order(a_NxN: Any, b_NxN: Any, *, method: Literal["cosine", "pearson", "spearman"] = "pearson") -> float:
    """The similarity of two symmetric matrices over the same examples, in [-1, 1], from entries above the diagonal.

    Pearson's and Spearman's correlations are the same for dissimilarities and for similarities (1 - dissimilarities);
    the cosine is not.

    Reference: Kriegeskorte, Mur, Bandettini, Representational similarity analysis, Front. Syst. Neurosci. 2 (2008).

    Raises:
      ValueError: for an unknown method, other shapes, or a matrix whose entries are all equal (0 / 0).
    """
    a_NxN, b_NxN = np.asarray(a_NxN, np.float64), np.asarray(b_NxN, np.float64)
    if a_NxN.shape != b_NxN.shape or a_NxN.ndim != 2 or a_NxN.shape[0] != a_NxN.shape[1]:
        raise ValueError(f"expected two matrices [N, N], got {a_NxN.shape} and {b_NxN.shape}")
    above = [above_diagonal(matrix) for matrix in (a_NxN, b_NxN)]
    if method == "spearman":
        from scipy.stats import rankdata

        above = [rankdata(values) for values in above]
    elif method not in ("cosine", "pearson"):
        raise ValueError(f"expected method cosine, pearson or spearman, got {method!r}")
    if method != "cosine":
        above = [_deviations(values) for values in above]
    norms = [np.linalg.norm(values) for values in above]
    if not all(norms):
        raise ValueError("the similarity of a matrix whose entries are all equal is undefined (0 / 0)")
    return float(np.dot(*above) / np.prod(norms))


def rsa(x_NxD: Any, y_NxE: Any) -> float:
    """Second-order cosine similarity of two representations, in [-1, 1]; about 0 for unrelated ones.

    This is the cosine between the entries above the diagonal of the two matrices of cosines between examples. It
    follows Abnar, Dehghani, Zuidema (arXiv 2006.00555) with two changes: activations are centred, since a common offset
    would make any two networks alike, and the diagonal, which is 1 for every network, is left out.

    Raises:
      ValueError: for other shapes, and if a representation is the same for every example.
    """
    similarity = second_orders(as_activations(x_NxD, y_NxE, least=3))[0, 1]
    if np.isnan(similarity):
        raise ValueError(CONSTANT)
    return float(similarity)


def second_orders(hidden: Sequence[np.ndarray]) -> np.ndarray:
    """`rsa` of every two of S representations [N, D] of the same examples, [S, S]; nan if one is constant.

    Matrices over examples are never in memory as a whole, but one block of each network at a time.
    """
    networks = [Centred.of(x_NxD) for x_NxD in hidden]
    norms = [np.sqrt(network.squares_N) for network in networks]
    scales = [np.divide(1, n, out=np.zeros_like(n), where=n > 0) for n in norms]  # 0 for an example at the mean
    return _cosines(_over_pairs([network._replace(scale_N=s) for network, s in zip(networks, scales, strict=True)]))


def unbiased_ckas(hidden: Sequence[np.ndarray]) -> np.ndarray:
    """Unbiased linear CKA of every two of S representations [N, D] of the same examples, [S, S].

    nan for a representation that is constant, or constant but for one example. Computes `kdib.properties.moments.hsic`
    from kernel matrices, with one block of each network in memory at a time. Since activations are centred, a row of a
    kernel matrix without its diagonal entry sums to -|x|^2.

    Raises:
      ValueError: for fewer than 4 examples.
    """
    n = len(hidden[0])
    if n < 4:
        raise ValueError(f"expected at least 4 examples, got {n}")
    networks = [Centred.of(x_NxD) for x_NxD in hidden]
    sums_SxN = np.stack([network.squares_N for network in networks])
    corrections_SxS = np.outer(sums_SxN.sum(axis=1), sums_SxN.sum(axis=1)) / ((n - 1) * (n - 2))
    squares_SxS = 2 * _over_pairs(networks)
    hsics_SxS = squares_SxS + corrections_SxS - 2 / (n - 2) * sums_SxN @ sums_SxN.T
    # A representation in which only one example differs has 0, of which rounding leaves something.
    vanishing_S = np.diag(hsics_SxS) <= ROUNDING * np.diag(squares_SxS)
    return _cosines(np.where(np.diag(vanishing_S), 0, hsics_SxS))


class Centred(NamedTuple):
    """Activations as given, their mean (exact for a constant feature), and the squared norms after centring."""

    x_NxD: np.ndarray
    mean_D: np.ndarray
    squares_N: np.ndarray
    scale_N: np.ndarray | None = None

    @classmethod
    def of(cls, x_NxD: np.ndarray) -> "Centred":
        """Centre activations [N, D], without scaling."""
        blind, squares_N = cls(x_NxD, _means(x_NxD), np.empty(0)), np.zeros(len(x_NxD))
        for block, part in itertools.product(_slices(len(x_NxD), BLOCK), _slices(x_NxD.shape[1], COLUMNS)):
            squares_N[block] += np.square(blind.rows(block, part)).sum(axis=1)
        return blind._replace(squares_N=squares_N)

    def rows(self, examples: slice = ALL, features: slice = ALL) -> np.ndarray:
        """The activations of some examples and features, centred and scaled, in float64."""
        rows = self.x_NxD[examples, features] - self.mean_D[features]
        return rows if self.scale_N is None else rows * self.scale_N[examples, None]


def _over_pairs(networks: Sequence[Centred]) -> np.ndarray:
    """For every two networks, the sum over pairs of different examples of the product of kernel entries, [S, S]."""
    size = max(1, min(BLOCK, math.isqrt(PAIRS // len(networks))))
    blocks, sums_SxS = _slices(len(networks[0].x_NxD), size), np.zeros((len(networks), len(networks)))
    for i, first in enumerate(blocks):
        for second in blocks[i:]:
            products_SxP = np.stack([_products(network, first, second).ravel() for network in networks])
            sums_SxS += products_SxP @ products_SxP.T
    return sums_SxS


def _products(network: Centred, first: slice, second: slice) -> np.ndarray:
    """The kernel entries of the examples of two blocks; within one block only those above the diagonal, else 0."""
    parts = _slices(network.x_NxD.shape[1], COLUMNS)
    products = functools.reduce(np.add, (network.rows(first, part) @ network.rows(second, part).T for part in parts))
    return np.triu(products, 1) if first == second else products


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _cosines(products_SxS: np.ndarray) -> np.ndarray:
    """The cosines of every two vectors from their inner products [S, S]; nan if one is 0."""
    squares_S = np.diag(products_SxS)
    norms_S = np.sqrt(np.where(squares_S > 0, squares_S, np.nan))
    return np.clip(products_SxS / norms_S[:, None] / norms_S, -1, 1)


def as_activations(*matrices: Any, least: int = 2) -> list[np.ndarray]:
    """Matrices [N, D] of the same examples in float64; raises ValueError unless finite and N >= `least`."""
    arrays = [np.asarray(matrix, np.float64) for matrix in matrices]
    check_examples(arrays[0], arrays[-1], least=least)
    return arrays


def centred(x_NxD: np.ndarray) -> np.ndarray:
    """Activations minus their mean over examples, in float64; a constant feature becomes exactly 0."""
    return np.asarray(x_NxD, np.float64) - _means(x_NxD)


def _means(x_NxD: np.ndarray) -> np.ndarray:
    """Means over examples [D] in float64, exact for a constant feature."""
    return np.where(np.ptp(x_NxD, axis=0) > 0, np.mean(x_NxD, axis=0, dtype=np.float64), x_NxD[0])


def above_diagonal(matrix_NxN: np.ndarray) -> np.ndarray:
    """The entries of a square matrix above its diagonal [N (N - 1) / 2], row by row."""
    return matrix_NxN[np.triu(np.ones(matrix_NxN.shape, bool), 1)]


def _deviations(values_P: np.ndarray) -> np.ndarray:
    return values_P - values_P.mean() if np.ptp(values_P) > 0 else np.zeros_like(values_P)
