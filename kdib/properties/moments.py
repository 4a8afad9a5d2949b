"""Linear CKA over a stream of examples, from mergeable sums whose memory does not grow with the number of examples.

    xy = xx = yy = None
    for x_BxD, y_BxE in batches:
        xy = merge(xy, moments(x_BxD, y_BxE))
        xx = merge(xx, moments(x_BxD, x_BxD))
        yy = merge(yy, moments(y_BxE, y_BxE))
    cka(xy, xx, yy, unbiased=True)

The result equals that of all examples at once; it is not a mean of the CKAs of batches. This also holds for the
unbiased form, whose U-statistic is a polynomial in these sums. All sums are float64 and relative to the mean of the
first batch, so that activations far from 0 keep their precision.
"""

from typing import Any, NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Sums over `n` examples of x [D] and y [E] minus their shifts, where a = |x|^2 and b = |y|^2, in float64."""

    n: int
    shift_x_D: np.ndarray
    shift_y_E: np.ndarray
    x_D: np.ndarray
    y_E: np.ndarray
    xy_DxE: np.ndarray
    a: float
    b: float
    ab: float
    xb_D: np.ndarray
    ya_E: np.ndarray


def moments(x_NxD: Any, y_NxE: Any) -> Moments:
    """The sums over N examples [N, D] and [N, E], shifted by their means.

    Raises:
      ValueError: unless both are finite matrices of the same N > 0 examples.
    """
    x_NxD, y_NxE = (np.asarray(values, np.float64) for values in (x_NxD, y_NxE))
    check_examples(x_NxD, y_NxE, least=1)
    shift_x_D, shift_y_E = x_NxD.mean(axis=0), y_NxE.mean(axis=0)
    x_NxD, y_NxE = x_NxD - shift_x_D, y_NxE - shift_y_E
    a_N, b_N = (x_NxD**2).sum(axis=1), (y_NxE**2).sum(axis=1)
    return Moments(
        n=len(x_NxD),
        shift_x_D=shift_x_D,
        shift_y_E=shift_y_E,
        x_D=x_NxD.sum(axis=0),
        y_E=y_NxE.sum(axis=0),
        xy_DxE=x_NxD.T @ y_NxE,
        a=float(a_N.sum()),
        b=float(b_N.sum()),
        ab=float(a_N @ b_N),
        xb_D=b_N @ x_NxD,
        ya_E=a_N @ y_NxE,
    )


def merge(first: Moments | None, second: Moments) -> Moments:
    """The sums over the examples of both, relative to the shifts of `first`; None stands for no examples."""
    if first is None:
        return second
    if first.xy_DxE.shape != second.xy_DxE.shape:
        raise ValueError(f"expected moments of the same features, got {first.xy_DxE.shape} and {second.xy_DxE.shape}")
    second = _moved(second, first.shift_x_D, first.shift_y_E)
    sums: list[Any] = [one + other for one, other in zip(first[3:], second[3:], strict=True)]
    return Moments(first.n + second.n, first.shift_x_D, first.shift_y_E, *sums)


def hsic(sums: Moments, *, unbiased: bool = False) -> float:
    """The Hilbert-Schmidt independence criterion of two representations with linear kernels.

    The unbiased form is the U-statistic of Song et al., Feature Selection via Dependence Maximization, JMLR 13 (2012),
    expanded in sums over features; it can be negative. The biased form is |X^T Y|^2 / (n - 1)^2 of centred X and Y
    (Gretton et al., Measuring Statistical Dependence with Hilbert-Schmidt Norms, ALT 2005).

    Raises:
      ValueError: for fewer than 4 examples (biased: 2).
    """
    n, x_D, y_E = sums.n, sums.x_D, sums.y_E
    if n < (4 if unbiased else 2):
        raise ValueError(f"expected at least {4 if unbiased else 2} examples, got {n}")
    if not unbiased:
        return float((np.square(sums.xy_DxE - np.outer(x_D, y_E) / n)).sum()) / (n - 1) ** 2
    # With the diagonals of K and L set to 0: tr(KL), 1^T K 1, 1^T L 1, 1^T K L 1.
    trace = float(np.square(sums.xy_DxE).sum()) - sums.ab
    k, kernel_l = x_D @ x_D - sums.a, y_E @ y_E - sums.b
    through = x_D @ sums.xy_DxE @ y_E - x_D @ sums.xb_D - sums.ya_E @ y_E + sums.ab
    return float(trace + k * kernel_l / ((n - 1) * (n - 2)) - 2 * through / (n - 2)) / (n * (n - 3))


def cka(xy: Moments, xx: Moments, yy: Moments, *, unbiased: bool = False) -> float:
    """Linear CKA from the moments of (x, y), (x, x) and (y, y) over the same examples.

    Reference: Kornblith et al., Similarity of Neural Network Representations Revisited, ICML (2019), section 3; Nguyen
    et al., Do Wide and Deep Networks Learn the Same Things?, ICLR (2021), equation 3, without its batches.

    Raises:
      ValueError: if the numbers of examples differ or are too small, or if a representation is the same for all.
    """
    if not xy.n == xx.n == yy.n:
        raise ValueError(f"expected moments of the same examples, got {xy.n}, {xx.n} and {yy.n} of them")
    own = [hsic(sums, unbiased=unbiased) for sums in (xx, yy)]
    for value, sums in zip(own, (xx, yy), strict=True):
        rounding = (1e-13 * np.linalg.norm(sums.shift_x_D)) ** 4  # rounding error for a constant representation
        if value <= rounding:
            raise ValueError("a representation that is the same for every example has no CKA (0 / 0)")
    return hsic(xy, unbiased=unbiased) / (own[0] * own[1]) ** 0.5


def check_examples(x_NxD: np.ndarray, y_NxE: np.ndarray, *, least: int) -> None:
    """Raise ValueError unless both are finite matrices of the same N >= `least` examples."""
    if x_NxD.ndim != 2 or y_NxE.ndim != 2 or len(x_NxD) != len(y_NxE) or len(x_NxD) < least:
        shapes = f"{x_NxD.shape} and {y_NxE.shape}"
        raise ValueError(f"expected [N, D] and [N, E] of the same N >= {least} examples, got {shapes}")
    if not (np.isfinite(x_NxD).all() and np.isfinite(y_NxE).all()):
        raise ValueError("expected finite activations, got nan or inf")


def _moved(sums: Moments, shift_x_D: np.ndarray, shift_y_E: np.ndarray) -> Moments:
    """The same sums relative to new shifts, by expanding them with x + dx and y + dy in place of x and y."""
    n, x_D, y_E, xy_DxE, a, b, ab, xb_D, ya_E = (sums.n, *sums[3:])
    dx_D, dy_E = sums.shift_x_D - shift_x_D, sums.shift_y_E - shift_y_E
    dx2, dy2 = dx_D @ dx_D, dy_E @ dy_E
    a_moved, b_moved = a + 2 * x_D @ dx_D + n * dx2, b + 2 * y_E @ dy_E + n * dy2
    products = 2 * dy_E @ ya_E + 2 * dx_D @ xb_D + 4 * dx_D @ xy_DxE @ dy_E
    return Moments(
        n=n,
        shift_x_D=shift_x_D,
        shift_y_E=shift_y_E,
        x_D=x_D + n * dx_D,
        y_E=y_E + n * dy_E,
        xy_DxE=xy_DxE + np.outer(x_D, dy_E) + np.outer(dx_D, y_E + n * dy_E),
        a=float(a_moved),
        b=float(b_moved),
        ab=float(ab + products + dy2 * (a + 2 * dx_D @ x_D) + dx2 * b_moved),
        xb_D=xb_D + 2 * xy_DxE @ dy_E + dy2 * x_D + dx_D * b_moved,
        ya_E=ya_E + 2 * dx_D @ xy_DxE + dx2 * y_E + dy_E * a_moved,
    )
