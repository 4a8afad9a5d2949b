"""Intervals and tests over seeds: means, paired differences, the transfer score, Holm's correction.

All intervals are t intervals over a handful of seeds. A bootstrap is not used: with three seeds its nominal 95 %
interval covers only 74 %. Pure numpy, with scipy's t distribution.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean over `n` seeds and its two-sided t interval at confidence `level`; nan if undefined."""

    estimate: float
    low: float
    high: float
    n: int
    level: float


class FiellerSet(NamedTuple):
    """A confidence set for a ratio of two means; `shape` states how `low` and `high` bound it.

    "interval" is [low, high]; "complement" is everything outside (low, high); "line" is every number, with low = -inf
    and high = inf. Only "interval" allows a decision; for the other two, print "undecided".
    """

    estimate: float
    low: float
    high: float
    n: int
    level: float
    shape: Literal["interval", "complement", "line"]

    @property
    def bounded(self) -> bool:
        """Whether the set is a bounded interval, so that the data determine the ratio."""
        return self.shape == "interval"

    def contains(self, ratio: float) -> bool:
        """Whether `ratio` is in the set."""
        if self.shape == "complement":
            return ratio <= self.low or ratio >= self.high
        return self.low <= ratio <= self.high


def mean_interval(values_S: Sequence[float] | np.ndarray, level: float = LEVEL) -> Interval:
    """The mean of one value per seed [S], with a t interval.

    low and high are nan for fewer than two seeds, and if all values are equal up to rounding: that no variation was
    observed does not mean that there is none. The estimate for zero seeds is nan.

    Raises ValueError for values that are not finite or have more than one axis.
    Reference: Student, The probable error of a mean, Biometrika 6 (1908).
    """
    values_S = _seed_values(values_S)
    return _student(values_S, _largest(values_S), level)[0]


def paired_difference(
    a_S: Sequence[float] | np.ndarray, b_S: Sequence[float] | np.ndarray, level: float = LEVEL
) -> tuple[Interval, float]:
    """The mean of a - b over seeds, with its interval and two-sided p value; position i of both is the same seed.

    If `mean_interval` defines no interval, p is nan: without spread there is no valid t statistic.

    Raises ValueError for different lengths and for values that are not finite.
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
    """The share of the teacher's advantage that distillation transfers, with a Fieller set.

    The score is (mean distilled - mean alone) / (mean teacher - mean alone): 0 means nothing transferred, 1 means all
    of it. It is a ratio of means rather than a mean of ratios, whose expectation need not exist. The set contains every
    ratio r for which the t interval of (distilled - alone) - r (teacher - alone) includes 0, so it respects the pairing
    of seeds. It is unbounded if and only if the t interval of teacher - alone includes 0, or if the spread is unknown
    (fewer than two seeds, or one of the two differences does not vary).

    Raises ValueError for different lengths and for values that are not finite.
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
    """Holm-adjusted p values [M] of M tests: rejecting those below alpha keeps the familywise error rate at alpha.

    A nan (a declared test that could not be made) stays nan and still counts as one of the M tests.

    Raises ValueError for a p value outside [0, 1].
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
        root = np.sqrt(max(discriminant, 0.0))  # the set contains the estimate, so a negative value is rounding
        return float((b - root) / a), float((b + root) / a), n, level, "interval"
    if a == 0 or discriminant <= 0:
        return -np.inf, np.inf, n, level, "line"
    root = np.sqrt(discriminant)
    return float((b + root) / a), float((b - root) / a), n, level, "complement"


def _student(values_S: np.ndarray, scale: float, level: float) -> tuple[Interval, float]:
    """The interval of the mean and the p value for mean 0; `scale` is the largest magnitude behind the values."""
    from scipy.special import stdtr

    n = len(values_S)
    mean = float(values_S.mean()) if n else np.nan
    if n < 2 or not _varies(values_S, scale):
        return Interval(mean, np.nan, np.nan, n, level), np.nan
    error = float(values_S.std(ddof=1)) / n**0.5
    half = _t_quantile(level, n - 1) * error
    return Interval(mean, mean - half, mean + half, n, level), float(2 * stdtr(n - 1, -abs(mean / error)))


def _varies(values_S: np.ndarray, scale: float) -> bool:
    # .91 - .90 and .81 - .80 differ in the last bit only; a spread of rounding errors does not count.
    return bool(np.ptp(values_S) > 8 * np.finfo(np.float64).eps * scale)


def _largest(values_S: np.ndarray) -> float:
    return float(np.abs(values_S).max(initial=0))


def _t_quantile(level: float, degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + level) / 2))


def _seed_values(values_S: Sequence[float] | np.ndarray) -> np.ndarray:
    values_S = np.asarray(values_S, np.float64)
    if values_S.ndim != 1 or not np.isfinite(values_S).all():
        raise ValueError(f"expected one finite value per seed along one axis, got {values_S}: drop failed seeds first")
    return values_S


def _check_paired(*columns: np.ndarray) -> None:
    if len({len(column) for column in columns}) > 1:
        lengths = [len(column) for column in columns]
        raise ValueError(f"expected paired values of the same seeds, got {lengths} of them: drop unpaired seeds first")
