"""kdib.stats against closed forms, scipy, and simulated coverage."""

import math

import numpy as np
import pytest

from kdib.stats import holm, mean_interval, paired_difference, transfer_score

T_2 = 4.302652729911275  # the 97.5 % quantile of Student's t with 2 degrees of freedom, from a table


def test_mean_interval_closed_form():
    interval = mean_interval([1.0, 2.0, 3.0])
    half = T_2 / math.sqrt(3)  # the standard deviation is 1
    np.testing.assert_allclose(interval[:3], (2.0, 2 - half, 2 + half), rtol=1e-8)
    assert (interval.n, interval.level) == (3, 0.95)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_parity_with_scipy(level):
    from scipy import stats

    a, b = np.random.default_rng(0).normal(size=(2, 6))
    interval, p = paired_difference(a, b, level)
    expected = stats.ttest_rel(a, b)
    confidence = expected.confidence_interval(level)
    np.testing.assert_allclose((*interval[1:3], p), (*confidence, expected.pvalue), rtol=1e-9)
    one_sample = stats.ttest_1samp(a, 0.0).confidence_interval(level)
    np.testing.assert_allclose(mean_interval(a, level)[1:3], one_sample, rtol=1e-9)


def test_pairing_matters():
    seeds = np.array([0.0, 5.0, -3.0, 9.0])
    gain = np.array([0.9, 1.0, 1.1, 1.0])
    assert paired_difference(seeds + gain, seeds)[1] < 1e-3
    assert paired_difference(seeds + gain, seeds[[1, 2, 3, 0]])[1] > 0.5


def test_too_few_seeds_have_no_interval():
    interval, p = paired_difference([0.9], [0.8])
    assert interval.estimate == pytest.approx(0.1)
    assert math.isnan(interval.low) and math.isnan(interval.high) and math.isnan(p)
    assert math.isnan(mean_interval([]).estimate) and mean_interval([]).n == 0


@pytest.mark.parametrize("b", [(0.8, 0.5, 0.1), (0.9, 0.6, 0.2)])
def test_no_spread_is_no_evidence(b):
    """The first case is .1 three times but for the last bit, which would give p = 1e-32; the second is 0 / 0."""
    a = np.array([0.9, 0.6, 0.2])
    assert np.ptp(a - np.array(b)) == pytest.approx(2.8e-17, rel=0.01) or (a == b).all()
    interval, p = paired_difference(a, b)
    assert interval.estimate == pytest.approx(0.9 - b[0])
    assert math.isnan(p) and math.isnan(interval.low)


def test_small_but_real_spread_counts():
    interval, p = paired_difference([0.9101, 0.8100, 0.7102], [0.90, 0.80, 0.70])
    assert interval.low > 0.009 and p < 1e-3


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("gap", [3.0, 0.2])
def test_fieller_coverage(n, gap):
    """The set holds the true ratio in 95 % of studies, however small the teacher's advantage."""
    rng, studies, ratio = np.random.default_rng(n), 1500, 0.6
    seed_effect = rng.normal(size=(studies, n))  # shared by the three fits of a seed: what pairing takes out
    alone = 2 * seed_effect + rng.normal(size=(studies, n))
    teacher = gap + 2 * seed_effect + rng.normal(size=(studies, n))
    distilled = ratio * gap + 2 * seed_effect + rng.normal(size=(studies, n))
    sets = [transfer_score(*study) for study in zip(distilled, alone, teacher, strict=True)]
    covered = np.mean([fieller.contains(ratio) for fieller in sets])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / studies)


def test_fieller_holds_the_ratios_that_a_t_test_does_not_reject():
    rng = np.random.default_rng(3)
    shapes = set()
    for gap in (0.0, 0.5, 1.0, 4.0) * 20:
        alone, teacher, distilled = rng.normal(size=(3, 4)) + np.array([[0.0], [gap], [gap / 2]])
        fieller = transfer_score(distilled, alone, teacher)
        shapes.add(fieller.shape)
        for ratio in (-50.0, -1.0, 0.0, 0.5, 1.0, 2.0, 50.0):
            # the ratio is in the set if and only if the contrast's p value is above 5 %
            p = paired_difference(distilled - alone, ratio * (teacher - alone))[1]
            assert fieller.contains(ratio) == (p >= 0.05)
        assert fieller.contains(fieller.estimate)
    assert shapes == {"interval", "complement", "line"}


def test_fieller_is_bounded_exactly_where_the_teacher_is_better_or_worse():
    rng = np.random.default_rng(4)
    for _ in range(200):
        alone, teacher, distilled = rng.normal(size=(3, 3)) + np.array([[0.0], [2.0], [1.0]])
        decided = paired_difference(teacher, alone)[1] < 0.05
        assert transfer_score(distilled, alone, teacher).bounded == decided


def test_fieller_tends_to_the_delta_method():
    rng = np.random.default_rng(5)
    alone = rng.normal(size=5)
    gap, gain = 1e4 + rng.normal(size=5), 5e3 + rng.normal(size=5)
    fieller = transfer_score(alone + gain, alone, alone + gap)
    ratio = gain.mean() / gap.mean()
    half = mean_interval(gain - ratio * gap).high / gap.mean()
    np.testing.assert_allclose(fieller[:3], (ratio, ratio - half, ratio + half), rtol=1e-6)


@pytest.mark.parametrize(
    "columns",
    [
        ([0.8], [0.7], [0.9]),
        ([], [], []),
        ([0.8, 0.8], [0.7, 0.7], [0.9, 0.9]),
        ([0.7, 0.8], [0.7, 0.8], [0.9, 0.95]),  # the student is the student alone, bit for bit
        ([0.8, 0.75], [0.7, 0.7], [0.9, 0.9]),
    ],
)
def test_fieller_without_spread_is_the_line(columns):
    fieller = transfer_score(*columns)
    assert fieller.shape == "line" and not fieller.bounded and fieller.contains(1e9)


def test_holm_by_hand():
    # sorted: .005 x 4, .01 x 3, .03 x 2, .04 x 1, each at least as large as the one before
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])
    assert holm([]).shape == (0,)


def test_holm_counts_the_tests_that_could_not_be_made():
    np.testing.assert_allclose(holm([math.nan, 0.02, 0.5]), [math.nan, 0.06, 1.0])


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="drop failed seeds"):
        mean_interval([0.1, math.nan])
    with pytest.raises(ValueError, match=r"same seeds, got \[3, 2\]"):
        paired_difference([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="same seeds"):
        transfer_score([1, 2], [1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"p values in \[0, 1\]"):
        holm([0.1, 1.2])
