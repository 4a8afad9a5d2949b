"""Intervals and tests over seeds: means, paired differences, the transfer score, Holm's correction.

Everything is a t statistic on a handful of seeds, and no bootstrap: resampling three seeds covers 74 % where
it promises 95 %. Pure numpy, with scipy's t distribution.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean over `n` seeds and its two-sided t interval at confidence `level`; nan where there is none."""

    estimate: float
    low: float
    high: float
    n: int
    level: float


class FiellerSet(NamedTuple):
    """A confidence set for a ratio of two means: the shape says which side of `low` and `high` is in it.

    "interval" is [low, high]; "complement" is everything outside (low, high); "line" is every number, from
    low = -inf to high = inf. Only the first decides anything: print "undecided" for the other two.
    """

    estimate: float
    low: float
    high: float
    n: int
    level: float
    shape: Literal["interval", "complement", "line"]

    @property
    def bounded(self) -> bool:
        """Whether the data decide the ratio at all."""
        return self.shape == "interval"

    def contains(self, ratio: float) -> bool:
        """Whether `ratio` is compatible with the data at this level."""
        if self.shape == "complement":
            return ratio <= self.low or ratio >= self.high
        return self.low <= ratio <= self.high


def mean_interval(values_S: Sequence[float] | np.ndarray, level: float = LEVEL) -> Interval:
    """The mean of one value a seed [S], with a t interval.

    low and high are nan with fewer than two seeds, and where all values are equal up to rounding: nothing was
    seen to vary, which is not to say that nothing can. The estimate of no seeds is nan.

    Raises ValueError on values that are not finite, and on more than one axis.
    Reference: Student, The probable error of a mean, Biometrika 6 (1908).
    """
    values_S = _seed_values(values_S)
    return _student(values_S, _largest(values_S), level)[0]


def paired_difference(
    a_S: Sequence[float] | np.ndarray, b_S: Sequence[float] | np.ndarray, level: float = LEVEL
) -> tuple[Interval, float]:
    """The mean of a - b over seeds, position i of both being the same seed, and its two-sided p value.

    Where `mean_interval` has no interval there is no test either, and p is nan: a t statistic of 0 / 0, or of
    a difference over no spread at all, is evidence for nothing.

    Raises ValueError on different lengths and on values that are not finite.
    Reference: the paired t test, Student (1908).
    """
    a_S, b_S = _seed_values(a_S), _seed_values(b_S)
    _check_paired(a_S, b_S)
    return _student(a_S - b_S, max(_largest(a_S), _largest(b_S)), level)


def transfer_score(
    distilled_S: Sequence[float] | np.ndarray,
    alone_S: Sequence[float] | np.ndarray,
    teacher_S: Sequence[float] | np.ndarray,
    level: float = LEVEL,
) -> FiellerSet:
    """The share of the teacher's advantage that distillation hands over, with a Fieller set.

    (mean distilled - mean alone) / (mean teacher - mean alone): 0 is nothing, 1 is all of it. A ratio of
    means and not a mean of ratios, whose expectation need not exist. The set holds every ratio r for which
    the mean of (distilled - alone) - r (teacher - alone) is within a t interval of 0, so that it respects the
    pairing of seeds. It is unbounded exactly where the t interval of teacher - alone includes 0; and, as
    nothing is known of the spread, with fewer than two seeds or if one of the differences does not vary.

    Raises ValueError on different lengths and on values that are not finite.
    Reference: Fieller, Some problems in interval estimation, JRSS B 16 (1954).
    """
    columns = [_seed_values(values_S) for values_S in (distilled_S, alone_S, teacher_S)]
    _check_paired(*columns)
    scale = max(_largest(column) for column in columns)
    gain_S, gap_S = columns[0] - columns[1], columns[2] - columns[1]
    n = len(gap_S)
    estimate = float(gain_S.mean() / gap_S.mean()) if n and gap_S.mean() != 0 else np.nan
    if n < 2 or not (_varies(gain_S, scale) and _varies(gap_S, scale)):
        return FiellerSet(estimate, -np.inf, np.inf, n, level, "line")
    return FiellerSet(estimate, *_fieller(gain_S, gap_S, level))


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P values [M], adjusted for M tests: rejecting those below alpha keeps the familywise error at alpha.

    A nan (a declared test that could not be made) stays nan and still counts among the M.

    Raises ValueError on a p value outside [0, 1].
    Reference: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    p_M = np.asarray(p_values, np.float64)
    if p_M.ndim != 1 or ((p_M < 0) | (p_M > 1)).any():
        raise ValueError(f"expected p values in [0, 1] along one axis, got {p_M}")
    order_M = np.argsort(p_M)  # nan sorts last
    factors_M = np.arange(len(p_M), 0, -1)
    adjusted_M = np.empty_like(p_M)
    adjusted_M[order_M] = np.minimum(np.maximum.accumulate(p_M[order_M] * factors_M), 1)
    return adjusted_M


def _fieller(gain_S: np.ndarray, gap_S: np.ndarray, level: float) -> tuple:
    """Solve a r^2 - 2 b r + c <= 0 for r: (low, high, n, level, shape)."""
    n = len(gap_S)
    (gain_var, covariance), (_, gap_var) = np.cov(gain_S, gap_S) / n
    t2 = _t_quantile(level, n - 1) ** 2
    a = gap_S.mean() ** 2 - t2 * gap_var
    b = gain_S.mean() * gap_S.mean() - t2 * covariance
    c = gain_S.mean() ** 2 - t2 * gain_var
    discriminant = b * b - a * c
    if a > 0:
        root = np.sqrt(max(discriminant, 0.0))  # the estimate is always in the set: below 0 it is rounding
        return float((b - root) / a), float((b + root) / a), n, level, "interval"
    if a == 0 or discriminant <= 0:
        return -np.inf, np.inf, n, level, "line"
    root = np.sqrt(discriminant)
    return float((b + root) / a), float((b - root) / a), n, level, "complement"


def _student(values_S: np.ndarray, scale: float, level: float) -> tuple[Interval, float]:
    """The interval of the mean and the p of its being 0; `scale` is the size of what gave the values."""
    from scipy.special import stdtr

    n = len(values_S)
    mean = float(values_S.mean()) if n else np.nan
    if n < 2 or not _varies(values_S, scale):
        return Interval(mean, np.nan, np.nan, n, level), np.nan
    error = float(values_S.std(ddof=1)) / n**0.5
    half = _t_quantile(level, n - 1) * error
    return Interval(mean, mean - half, mean + half, n, level), float(2 * stdtr(n - 1, -abs(mean / error)))


def _varies(values_S: np.ndarray, scale: float) -> bool:
    # .91 - .90 and .81 - .80 differ in the last bit: a spread of rounding errors is no spread.
    return bool(np.ptp(values_S) > 8 * np.finfo(np.float64).eps * scale)


def _largest(values_S: np.ndarray) -> float:
    return float(np.abs(values_S).max(initial=0))


def _t_quantile(level: float, degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def _seed_values(values_S: Sequence[float] | np.ndarray) -> np.ndarray:
    values_S = np.asarray(values_S, np.float64)
    if values_S.ndim != 1 or not np.isfinite(values_S).all():
        raise ValueError(f"expected one finite value a seed along one axis, got {values_S}: drop failed seeds first")
    return values_S


def _check_paired(*columns: np.ndarray) -> None:
    if len({len(column) for column in columns}) > 1:
        lengths = [len(column) for column in columns]
        raise ValueError(f"expected paired values of the same seeds, got {lengths} of them: drop unpaired seeds first")
