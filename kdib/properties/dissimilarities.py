"""Representational similarity analysis: which examples a network takes to be alike, and whether two networks agree.

All functions take activations [N, D] of N examples in one order, and compute in float64.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from kdib.properties.moments import check_examples

PAIRS = 2**15  # couples of examples that are multiplied in float64 at a time
CONSTANT = "a representation that is the same for every example is like no other (0 / 0)"


def dissimilarity(x_NxD: Any, *, metric: Literal["cosine", "correlation", "euclidean"] = "cosine") -> np.ndarray:
    """The representational dissimilarity matrix [N, N] of N examples, with a diagonal of 0.

    "cosine" is 1 - the cosine of two examples' activations, "correlation" 1 - their Pearson correlation over features,
    "euclidean" their distance. The published cosines were not centred; subtract `x.mean(axis=0)` first, or use `rsa`.

    Raises:
      ValueError: for another metric, activations that are not finite [N, D], or an example without direction.
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
    """How alike two symmetric matrices over the same examples are, in [-1, 1], from what is above the diagonal.

    The cosine of dissimilarities is not that of similarities (1 - dissimilarities); Pearson's and Spearman's are.

    Reference: Kriegeskorte, Mur, Bandettini, Representational similarity analysis, Front. Syst. Neurosci. 2 (2008).

    Raises:
      ValueError: for another method or shapes, and where all entries are alike (0 / 0).
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
        raise ValueError("a matrix whose entries are all alike is like no other (0 / 0)")
    return float(np.dot(*above) / np.prod(norms))


def rsa(x_NxD: Any, y_NxE: Any) -> float:
    """Second-order cosine similarity of two representations, in [-1, 1]; about 0 for unrelated ones.

    The cosine of what is above the diagonal of their matrices of cosines between examples. As published by Abnar,
    Dehghani, Zuidema (arXiv 2006.00555), but that the activations are centred (without that a common offset makes any
    two networks alike) and the diagonal, which is 1 in all networks, is left out.

    Raises:
      ValueError: for other shapes, and if a representation is the same for every example.
    """
    x_NxD, y_NxE = as_activations(x_NxD, y_NxE, least=3)
    similarity = cosines_between([centred_cosines(x_NxD), centred_cosines(y_NxE)])[0, 1]
    if np.isnan(similarity):
        raise ValueError(CONSTANT)
    return float(similarity)


def centred_cosines(x_NxD: np.ndarray) -> np.ndarray:
    """The cosines of centred activations of every two examples [N (N - 1) / 2]; 0 for an example at the mean."""
    x_NxD = centred(x_NxD)
    norms_N = np.linalg.norm(x_NxD, axis=1)
    unit_NxD = x_NxD / np.where(norms_N > 0, norms_N, 1)[:, None]
    return above_diagonal(unit_NxD @ unit_NxD.T)


def cosines_between(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """The cosines of every two of S vectors [S, S], by one product in float64; nan where a vector is 0.

    The vectors may be float32: a block of each is in float64 at a time.
    """
    products_SxS = np.zeros((len(vectors), len(vectors)))
    for first in range(0, len(vectors[0]), PAIRS):
        block_SxB = np.stack([vector[first : first + PAIRS] for vector in vectors]).astype(np.float64)
        products_SxS += block_SxB @ block_SxB.T
    norms_S = np.sqrt(np.diag(products_SxS))
    norms_S = np.where(norms_S > 0, norms_S, np.nan)
    return np.clip(products_SxS / norms_S[:, None] / norms_S, -1, 1)


def as_activations(*matrices: Any, least: int = 2) -> list[np.ndarray]:
    """Matrices [N, ...] of the same examples in float64; raises ValueError unless finite and N >= `least`."""
    arrays = [np.asarray(matrix, np.float64) for matrix in matrices]
    check_examples(arrays[0], arrays[-1], least=least)
    return arrays


def centred(x_NxD: np.ndarray) -> np.ndarray:
    """Less the mean over examples, in float64; a feature that does not vary becomes exactly 0."""
    x_NxD = np.asarray(x_NxD, np.float64)
    return np.where(np.ptp(x_NxD, axis=0) > 0, x_NxD - x_NxD.mean(axis=0), 0)


def above_diagonal(matrix_NxN: np.ndarray) -> np.ndarray:
    """The entries of a square matrix above its diagonal [N (N - 1) / 2], row by row."""
    return matrix_NxN[np.triu(np.ones(matrix_NxN.shape, bool), 1)]


def _deviations(values_P: np.ndarray) -> np.ndarray:
    return values_P - values_P.mean() if np.ptp(values_P) > 0 else np.zeros_like(values_P)
