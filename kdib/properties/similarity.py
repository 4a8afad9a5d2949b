"""Similarity of representations: CKA, Procrustes distance and second-order similarity.

All functions take activations [N, D] of the same N examples in the same order, in evaluation mode. Metrics of the rows,
from penultimate activations, for every two networks and test set, at group "" and coords (): "cka" (linear, unbiased),
"rsa" (kdib.properties.dissimilarities) and "procrustes" (a distance). They are None if a representation is the same for
every example.

For a student and the role's teacher of the same seed, on the first test set: "layer_cka" at group "layers" and
(("layer", of the student), ("teacher_layer", of the teacher)), in the order of the networks. Layers that are the same
for every example, such as the embedding of a token that all examples share, are left out.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from kdib.properties.base import Evidence, Map, Primary, Property
from kdib.properties.dissimilarities import (
    COLUMNS,
    CONSTANT,
    Centred,
    above_diagonal,
    as_activations,
    centred,
    second_orders,
    unbiased_ckas,
)
from kdib.properties.moments import cka, moments
from kdib.records import Row, Subject


def linear_cka(x_NxD: Any, y_NxE: Any, *, unbiased: bool = False) -> float:
    """Centred kernel alignment with linear kernels, at most 1; invariant to rotation, scale and offset of either side.

    The biased estimate lies in [0, 1] and is about D / (N + D) for unrelated activations of D features. The unbiased
    estimate (`moments.hsic`) is about 0 for them and may be negative. Computed in float64 from features or, if there
    are more features than examples, from the kernel matrix. `kdib.properties.moments` has a streaming form.

    Reference: Kornblith, Norouzi, Lee, Hinton, Similarity of Neural Network Representations Revisited, ICML (2019),
    section 3.

    Raises:
      ValueError: for other shapes, fewer than 4 examples (biased: 2), or a representation that is the same for all.
    """
    x_NxD, y_NxE = map(centred, as_activations(x_NxD, y_NxE, least=4 if unbiased else 2))
    if max(x_NxD.shape[1], y_NxE.shape[1]) > len(x_NxD):
        return kernel_cka(linear_kernel(x_NxD), linear_kernel(y_NxE), unbiased=unbiased)
    sums = ((a, b) for a, b in ((x_NxD, y_NxE), (x_NxD, x_NxD), (y_NxE, y_NxE)))
    return cka(*(moments(a, b) for a, b in sums), unbiased=unbiased)


def rbf_cka(x_NxD: Any, y_NxE: Any, *, fraction: float = 0.5, unbiased: bool = False) -> float:
    """Centred kernel alignment with kernels exp(-|a - b|^2 / (2 sigma^2)), sigma = fraction * median distance.

    The median is over all pairs of different examples, separately for each representation. A small fraction compares
    neighbourhoods; as it grows, the value approaches `linear_cka`.

    Reference: Kornblith et al. (2019), section 3.

    Raises:
      ValueError: as in `linear_cka`, for fraction <= 0, and if the median distance is 0.
    """
    x_NxD, y_NxE = as_activations(x_NxD, y_NxE, least=4 if unbiased else 2)
    if not fraction > 0:
        raise ValueError(f"expected fraction > 0, got {fraction}")
    return kernel_cka(*(_rbf_kernel(values, fraction) for values in (x_NxD, y_NxE)), unbiased=unbiased)


def kernel_cka(k_NxN: np.ndarray, l_NxN: np.ndarray, *, unbiased: bool = False) -> float:
    """CKA of two kernel matrices of the same examples.

    The unbiased form uses U-centring, which equals the statistic of Song et al. (2012): Szekely, Rizzo, Partial
    distance correlation with methods for dissimilarities, Ann. Statist. 42 (2014).

    Raises:
      ValueError: if a kernel is the same for every two examples.
    """
    vectors = [_centred_kernel(kernel, unbiased) for kernel in (k_NxN, l_NxN)]
    norms = [np.linalg.norm(vector) for vector in vectors]
    if not all(norms):
        raise ValueError(CONSTANT)
    return float(np.clip(np.dot(*vectors) / np.prod(norms), -1, 1))


def linear_kernel(x_NxD: np.ndarray) -> np.ndarray:
    """The inner products [N, N] of centred activations, in float64, one block of features at a time."""
    kernel_NxN = np.zeros((len(x_NxD), len(x_NxD)))
    for first in range(0, x_NxD.shape[1], COLUMNS):
        block_NxB = centred(x_NxD[:, first : first + COLUMNS])
        kernel_NxN += block_NxB @ block_NxB.T
    return kernel_NxN


def procrustes(x_NxD: Any, y_NxE: Any) -> float:
    """The orthogonal Procrustes distance of two representations, in [0, sqrt(2)]; a metric.

    It is the minimum over orthogonal Q of |X - Y Q| (Frobenius norm), with X and Y centred and of unit norm. If widths
    differ, the narrower one is padded with zero features, which changes no norm and no product, so the formula
    sqrt(2 - 2 |X^T Y|_*) holds for any widths.

    Reference: Williams, Kunz, Kornblith, Linderman, Generalized Shape Metrics on Neural Representations, NeurIPS
    (2021); Ding, Denain, Steinhardt, Grounding Representation Similarity Through Statistical Testing, NeurIPS (2021),
    who report its square.

    Raises:
      ValueError: for other shapes, and if a representation is the same for every example.
    """
    shapes = [unit_shape(values) for values in as_activations(x_NxD, y_NxE, least=2)]
    if not all(shape.any() for shape in shapes):
        raise ValueError(CONSTANT)
    return _shape_distance(*shapes)


def unit_shape(x_NxD: np.ndarray) -> np.ndarray:
    """Activations, centred, of unit Frobenius norm, rotated into at most N features; 0 if all examples are the same."""
    x_NxD = centred(x_NxD)
    if x_NxD.shape[1] > len(x_NxD):
        x_NxD = np.asarray(np.linalg.qr(x_NxD.T, mode="r")).T
    return x_NxD / (np.linalg.norm(x_NxD) or 1.0)


def measure(subjects: Sequence[Subject], evidence: Evidence) -> Iterator[Row]:
    """The rows of every pair of the evidence on every test set; activations are read once per network and set."""
    del subjects
    networks = list({subject.id: subject for pair in evidence.pairs for subject in pair}.values())
    for split in evidence.sets if networks else ():
        hidden = [evidence.hidden(subject, split)["penultimate"] for subject in networks]
        yield from _pair_rows({subject.id: i for i, subject in enumerate(networks)}, hidden, split, evidence)
    yield from _layer_rows(evidence, next(iter(evidence.sets)))


def own_pairs(evidence: Evidence) -> dict[Subject, list[Subject]]:
    """The students in the evidence's pairs, grouped by the role's teacher of the same seed."""
    pairs: dict[Subject, dict[Subject, None]] = {}
    for pair in evidence.pairs:
        for student, teacher in (pair, pair[::-1]):
            if teacher.fit == evidence.fits["teacher"] != student.fit and student.seed == teacher.seed:
                pairs.setdefault(teacher, {})[student] = None
    return {teacher: list(students) for teacher, students in pairs.items()}


def _pair_rows(at: Mapping[str, int], hidden: Sequence[np.ndarray], split: str, evidence: Evidence) -> Iterator[Row]:
    ckas_SxS, rsas_SxS = unbiased_ckas(hidden), second_orders(hidden)
    pairs = [(at[a.id], at[b.id]) for a, b in evidence.pairs]
    distances = _shape_distances(hidden, pairs)
    for (a, b), (i, j), distance in zip(evidence.pairs, pairs, distances, strict=True):
        values = {"cka": ckas_SxS[i, j], "rsa": rsas_SxS[i, j], "procrustes": distance}
        for metric, value in values.items():
            yield Row(a.id, b.id, "similarity", metric, split, "", (), or_none(value), len(hidden[0]), None)


def _shape_distances(hidden: Sequence[np.ndarray], pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Procrustes distances of pairs of representations, nan if one is constant; each pair runs on one core.

    Unit shapes are computed pair by pair, so that float64 copies of all networks are never in memory together. BLAS
    runs single-threaded, since sharing the SVD of a small matrix among threads takes up to a hundred times as long on a
    busy machine.
    """
    from threadpoolctl import threadpool_limits

    narrow = [Centred.of(x_NxD if x_NxD.shape[1] <= len(x_NxD) else unit_shape(x_NxD)) for x_NxD in hidden]
    norms = [np.sqrt(network.squares_N.sum()) for network in narrow]

    def distance(pair: tuple[int, int]) -> float:
        if not all(norms[i] for i in pair):
            return np.nan
        return _shape_distance(*(narrow[i].rows() / norms[i] for i in pair))

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(distance, pairs))


def _layer_rows(evidence: Evidence, split: str) -> Iterator[Row]:
    """The rows of all layers of a teacher against all layers of its students, with two networks in memory at a time."""
    for teacher, students in own_pairs(evidence).items():
        theirs, n = _layers(evidence.hidden(teacher, split))
        for student in students:
            own, _ = _layers(evidence.hidden(student, split))
            if not (own and theirs):
                continue
            cka_SxT = unbiased_ckas([*own.values(), *theirs.values()])[: len(own), len(own) :]
            for i, layer in enumerate(own):
                for j, other in enumerate(theirs):
                    coords = (("layer", layer), ("teacher_layer", other))
                    key = (student.id, teacher.id, "similarity", "layer_cka", split, "layers", coords)
                    yield Row(*key, or_none(cka_SxT[i, j]), n, None)


def _layers(hidden: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """The layers that differ between examples, and the number of examples."""
    telling = {name: x_NxD for name, x_NxD in hidden.items() if np.ptp(x_NxD, axis=0).any()}
    return telling, len(hidden["penultimate"])


def or_none(value: float) -> float | None:
    """The value for a row: None for nan."""
    return None if np.isnan(value) else float(value)


def _centred_kernel(kernel_NxN: np.ndarray, unbiased: bool) -> np.ndarray:
    """A vector whose inner product with that of another kernel is proportional to HSIC; 0 for a constant kernel."""
    kernel_NxN = np.asarray(kernel_NxN, np.float64)
    n = len(kernel_NxN)
    if n < (4 if unbiased else 2):
        raise ValueError(f"expected at least {4 if unbiased else 2} examples, got {n}")
    if not unbiased:
        means_N = kernel_NxN.mean(axis=0)
        return (kernel_NxN - means_N - means_N[:, None] + means_N.mean()).ravel()
    sums_N = kernel_NxN.sum(axis=0) - np.diag(kernel_NxN)
    centred_NxN = kernel_NxN - (sums_N + sums_N[:, None]) / (n - 2) + sums_N.sum() / ((n - 1) * (n - 2))
    return above_diagonal(centred_NxN)


def _rbf_kernel(x_NxD: np.ndarray, fraction: float) -> np.ndarray:
    from scipy.spatial.distance import pdist, squareform

    distances_P = pdist(x_NxD)
    median = np.median(distances_P)
    if not median > 0:
        raise ValueError("more than half of the examples have the same activations: no width of the kernel fits them")
    return squareform(np.exp(-np.square(distances_P / (fraction * median)) / 2)) + np.eye(len(x_NxD))


def _shape_distance(x_NxD: np.ndarray, y_NxE: np.ndarray) -> float:
    """The Procrustes distance of two unit shapes."""
    nuclear_norm = np.linalg.svd(x_NxD.T @ y_NxE, compute_uv=False).sum()
    return float(np.sqrt(max(0.0, 2 - 2 * nuclear_norm)))


PROPERTY = Property(
    name="similarity",
    title="Representational similarity",
    kind="relational",
    primary=Primary("cka", split="", group=""),
    higher_is_better=True,
    measure=measure,
    caption="Similarity of two networks’ representations in their penultimate layers: unbiased linear CKA (about 0 for "
    "unrelated networks, 1 if they are equal up to rotation and scale), second-order cosine similarity (rsa) and the "
    "orthogonal Procrustes distance. Activations are taken in evaluation mode and centred. The layer-by-layer maps "
    "compare a student with the teacher of the same seed, without layers that are the same for every example.",
    reference="Kornblith, Norouzi, Lee, Hinton (ICML 2019); Nguyen, Raghu, Kornblith (ICLR 2021); Williams, Kunz, "
    "Kornblith, Linderman (NeurIPS 2021); Abnar, Dehghani, Zuidema (arXiv 2006.00555)",
    maps=(
        Map(
            "layer_cka",
            "layers",
            x="teacher_layer",
            y="layer",
            xlabel="layer of the teacher",
            ylabel="layer of the student",
        ),
    ),
    pairs="everyone",
    least=4,
    caveat="CKA is dominated by the directions in which activations vary most, and networks with the same predictions "
    "may differ in it. A high value means that linear readouts see similar inputs, not that the networks use the same "
    "features.",
)
