"""kdib.properties.calibration: against loops, scikit-learn, relplot, torchmetrics and networks that are known."""

import math

import numpy as np
import pytest

from kdib.properties import of_task
from kdib.properties.base import Evidence, log_softmax
from kdib.properties.calibration import (
    brier,
    expected_calibration_error,
    maximum_calibration_error,
    nll,
    reliability,
    reliability_of,
    smooth_ece,
)
from kdib.records import Subject
from kdib.tasks.base import Dataset

PROPERTIES = of_task("agreement")


def network(n=3000, classes=2, seed=0):
    """Logits [N, K] and labels [N] drawn from softmax(logits / 2): right in its ranking, overconfident."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(n, classes))
    calm = np.exp(log_softmax(logits / 2))
    labels = (rng.random((n, 1)) > calm.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    return logits, labels


def looped_ece(probs, labels, n_bins):
    total = 0.0
    for b in range(n_bins):
        inside = [
            (p.max(), p.argmax() == y)
            for p, y in zip(probs, labels, strict=True)
            if b / n_bins < p.max() <= (b + 1) / n_bins
        ]
        if inside:
            confidence, correct = np.mean(inside, axis=0)
            total += len(inside) / len(labels) * abs(correct - confidence)
    return total


@pytest.mark.parametrize(("classes", "n_bins"), [(2, 15), (5, 10), (3, 1)])
def test_ece_is_the_loop(classes, n_bins):
    logits, labels = network(400, classes)
    probs = np.exp(log_softmax(logits))
    found = expected_calibration_error(probs, labels, n_bins=n_bins)
    assert found == pytest.approx(looped_ece(probs, labels, n_bins), abs=1e-12)


def test_bins_are_open_below_and_closed_above():
    """A confidence on an edge belongs to the lower bin, even where n_bins * p is off by rounding."""
    for n_bins, on_edge in ((5, 3), (100, 55), (10, 7), (100, 57), (100, 58), (2, 1), (15, 15)):
        p = on_edge / n_bins
        bins = reliability(np.array([[p, 1 - p]]), np.array([0]), n_bins=n_bins)
        assert bins.count_B[on_edge - 1] == 1, (n_bins, on_edge)
        above = min(np.nextafter(p, 1), 1.0)
        bins = reliability(np.array([[above, 1 - above]]), np.array([0]), n_bins=n_bins)
        assert bins.count_B[min(on_edge, n_bins - 1)] == 1


def test_nothing_and_everything_have_a_bin():
    """(lo, hi] leaves out 0 alone: it is in the first bin. 1 is in the last."""
    for scheme in ("width", "mass"):
        bins = reliability_of(np.array([0.0, 1.0, 0.5]), np.array([False, True, True]), n_bins=2, scheme=scheme)
        np.testing.assert_array_equal(bins.count_B, [2, 1])  # the middle one is on the edge
        np.testing.assert_array_equal(bins.accuracy_B, [0.5, 1])
        np.testing.assert_array_equal(bins.confidence_B, [0.25, 1])
    for wrong in ([-0.1], [1.1], [np.nan]):
        with pytest.raises(ValueError, match=r"confidences in \[0, 1\], got"):
            reliability_of(np.array(wrong), np.array([True]))
    with pytest.raises(ValueError, match=r"both \[N\], N > 0; got \(0,\) and \(0,\)"):
        reliability_of(np.array([]), np.array([], bool))


def test_a_confidence_that_rounding_took_beyond_1_is_1():
    probs, labels = np.array([[1 + 1e-6, 0.0], [0.75, 0.25]]), np.array([1, 1])
    assert reliability(probs, labels, n_bins=4).confidence_B[3] == 1
    assert smooth_ece(probs, labels) == pytest.approx((1 + 0.75) / 2)  # and not left out of its cells


@pytest.mark.parametrize(("classes", "n_bins", "scheme"), [(2, 15, "width"), (5, 10, "mass"), (3, 1, "width")])
def test_mce_is_the_worst_bin(classes, n_bins, scheme):
    logits, labels = network(400, classes)
    probs = np.exp(log_softmax(logits))
    bins = reliability(probs, labels, n_bins=n_bins, scheme=scheme)
    worst = max(abs(a - c) for a, c, n in zip(bins.accuracy_B, bins.confidence_B, bins.count_B, strict=True) if n)
    found = maximum_calibration_error(probs, labels, n_bins=n_bins, scheme=scheme)
    mean = expected_calibration_error(probs, labels, n_bins=n_bins, scheme=scheme)
    assert found == worst
    assert found == pytest.approx(mean) if n_bins == 1 else found > mean


def test_ece_knows_calm_from_overconfident():
    logits, labels = network(20_000)
    overconfident = expected_calibration_error(np.exp(log_softmax(logits)), labels)
    calibrated = expected_calibration_error(np.exp(log_softmax(logits / 2)), labels)
    assert calibrated < 0.015
    assert overconfident > 0.06


def test_a_million_bins_do_not_measure_calibration():
    """The published fault (PAPERS 1.6.2): |correct - confidence|, large for a perfectly calibrated network."""
    logits, labels = network(20_000)
    probs = np.exp(log_softmax(logits / 2))
    published = expected_calibration_error(probs, labels, n_bins=1_000_000)
    correct = probs.argmax(axis=1) == labels
    # 20,000 confidences seldom share one of half a million bins
    assert published == pytest.approx(np.abs(correct - probs.max(axis=1)).mean(), abs=5e-3)
    assert published > 0.2
    assert expected_calibration_error(probs, labels) < 0.015
    # and it ranks a sharp, overconfident network above the calibrated one
    assert expected_calibration_error(np.exp(log_softmax(logits)), labels, n_bins=1_000_000) < published


def test_a_bin_an_example_is_the_mean_error_exactly():
    """PAPERS 1.6.2, to the last digit: no two of these confidences share one of the published bins."""
    rng = np.random.default_rng(3)
    confidence = np.sort(rng.choice(499_999, 2000, replace=False)) / 1e6 + 0.5 + 5e-7  # middles of bins
    correct = rng.random(2000) < confidence  # calibrated
    probs, labels = np.stack([confidence, 1 - confidence], axis=1), np.where(correct, 0, 1)
    published = expected_calibration_error(probs, labels, n_bins=1_000_000)
    assert published == pytest.approx(np.abs(correct - confidence).mean(), abs=1e-12)
    assert published > 0.25 and expected_calibration_error(probs, labels) < 0.05


def test_a_million_bins_can_turn_an_effect_around():
    """As published: what halves the calibration error raises the number of a million bins."""
    logits, labels = network(20_000)
    before, after = (np.exp(log_softmax(logits / t)) for t in (0.8, 2.6))
    assert expected_calibration_error(after, labels) < 0.5 * expected_calibration_error(before, labels)
    published = [expected_calibration_error(probs, labels, n_bins=1_000_000) for probs in (before, after)]
    assert published[1] > published[0] + 0.02


def test_equal_mass_bins_hold_equal_numbers():
    logits, labels = network(1500)
    probs = np.exp(log_softmax(logits))
    np.testing.assert_array_equal(reliability(probs, labels, scheme="mass").count_B, np.full(15, 100))
    order = np.random.default_rng(0).permutation(1500)
    for scheme in ("mass", "width"):  # ties share a bin: a constant answer is one bin, in whichever order
        constant = np.tile([0.75, 0.25], (1500, 1))
        found = expected_calibration_error(constant[order], labels[order], scheme=scheme)
        assert found == pytest.approx(abs((labels == 0).mean() - 0.75))


def test_brier_and_nll_are_scikit_learns():
    from sklearn.metrics import brier_score_loss, log_loss

    logits, labels = network()
    probs = np.exp(log_softmax(logits))
    assert brier(probs, labels).mean() == pytest.approx(2 * brier_score_loss(labels, probs[:, 1]))
    logits, labels = network(classes=4)
    assert nll(logits, labels).mean() == pytest.approx(log_loss(labels, np.exp(log_softmax(logits))))


def test_nll_is_finite_where_probabilities_underflow():
    logits = np.array([[1e4, -1e4], [-3e38, 3e38]], np.float32)
    np.testing.assert_allclose(nll(logits, np.array([1, 0])), [2e4, 6e38], rtol=1e-6)


# ---- without bins


def forecasts(confidence, correct):
    """Probabilities of two classes with these confidences (at least one half), and labels."""
    return np.stack([confidence, 1 - confidence], axis=1), np.where(correct, 0, 1)


def left_by_images(confidence, correct, width):
    """The integral of |smoothed residuals|, the Gaussian's mirror images summed one by one."""
    t = np.linspace(0, 1, 2001)
    smoothed = np.zeros_like(t)
    for twice in range(-4, 5, 2):
        for image in (confidence + twice, twice - confidence):
            kernel = np.exp(-0.5 * np.square((t[:, None] - image) / width)) / (width * np.sqrt(2 * np.pi))
            smoothed += kernel @ (confidence - correct) / len(confidence)
    return np.trapezoid(np.abs(smoothed), t)


@pytest.mark.parametrize("shape", ["near 1", "spread", "far off"])
def test_smooth_ece_is_its_own_width(shape):
    rng = np.random.default_rng(5)
    confidence = {
        "near 1": 1 - 0.02 * rng.random(200) ** 3,
        "spread": 0.5 + 0.5 * rng.random(200),
        "far off": 0.95 + 0.05 * rng.random(200),
    }[shape]
    correct = rng.random(200) < {"near 1": 0.95, "spread": confidence, "far off": 0.3}[shape]
    found = smooth_ece(*forecasts(confidence, correct))
    assert found == pytest.approx(left_by_images(confidence, correct, found), abs=1e-5)


def test_smooth_ece_of_one_confidence():
    """Smoothing moves one residual about and loses none of it: |accuracy - confidence|, at any width."""
    for confidence, right in ((0.9, 40), (0.6, 100), (1.0, 50), (1.0, 0)):
        found = smooth_ece(*forecasts(np.full(100, confidence), np.arange(100) < right))
        assert found == pytest.approx(abs(confidence - right / 100), abs=1e-9)
    assert smooth_ece(*forecasts(np.ones(100), np.full(100, True))) == 0.0


def test_smooth_ece_has_no_edges():
    """A confidence that crosses an edge by a millionth: the binned error jumps, the smooth one does not."""
    correct = np.arange(200) % 2 == 0
    below, above = (np.where(correct, 0.6 + step, 0.63) for step in (-1e-6, 1e-6))
    binned = [expected_calibration_error(*forecasts(c, correct), n_bins=10) for c in (below, above)]
    smooth = [smooth_ece(*forecasts(c, correct)) for c in (below, above)]
    assert binned[0] > binned[1] + 0.2
    assert smooth[0] == pytest.approx(smooth[1], abs=1e-3)


def test_smooth_ece_knows_calm_from_overconfident():
    logits, labels = network(20_000)
    calm, sharp = (smooth_ece(np.exp(log_softmax(logits / t)), labels) for t in (2, 1))
    assert calm < 0.015 and sharp > 0.06


# ---- reference packages; confidences off the edges, whose side differs


def test_reliability_is_scikit_learns():
    """Its bins are (lo, hi] too, so values on the edges agree."""
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(7)
    for confidence in (rng.random(500), rng.integers(0, 11, 500) / 10):
        happened = rng.random(500) < confidence**1.5
        for scheme, strategy in (("width", "uniform"), ("mass", "quantile")):
            bins = reliability_of(confidence, happened, n_bins=10, scheme=scheme)
            accuracy, mean = calibration_curve(happened, confidence, n_bins=10, strategy=strategy)
            np.testing.assert_allclose(bins.accuracy_B[bins.count_B > 0], accuracy)
            np.testing.assert_allclose(bins.confidence_B[bins.count_B > 0], mean)


def test_relplot():
    """The smooth error to its tolerance for the width, 2^-10; the binned one exactly, but for the other edge rule."""
    from relplot import metrics

    for classes, temper in ((2, 2), (4, 2), (10, 1.5)):
        logits, labels = network(2000, classes)
        probs = np.exp(log_softmax(logits / temper * 1.5))
        confidence, correct = probs.max(axis=1), (probs.argmax(axis=1) == labels).astype(float)
        assert smooth_ece(probs, labels) == pytest.approx(metrics.smECE(confidence, correct), abs=3e-3)
        found = expected_calibration_error(probs, labels, n_bins=10)
        assert found == pytest.approx(metrics.binnedECE(confidence, correct, nbins=10), abs=1e-9)
    on_edge, correct = np.array([0.5, 0.55]), np.array([1.0, 0.0])
    probs, labels = forecasts(on_edge, correct == 1)
    assert metrics.binnedECE(on_edge, correct, nbins=10) == pytest.approx(abs(0.525 - 0.5))  # [.5, .6) holds both
    assert expected_calibration_error(probs, labels, n_bins=10) == pytest.approx((0.5 + 0.55) / 2)  # (.4, .5], (.5, .6]


def test_torchmetrics():
    torch = pytest.importorskip("torch", reason="torchmetrics needs torch, which is no part of the test set-up")
    metrics = pytest.importorskip("torchmetrics.functional.classification", reason="pip install torchmetrics")
    for classes, n_bins in ((2, 15), (5, 10)):
        logits, labels = network(1000, classes)
        probs = np.exp(log_softmax(logits))
        given = {"num_classes": classes, "n_bins": n_bins}
        tensors = torch.tensor(probs), torch.tensor(labels)
        for norm, ours in (("l1", expected_calibration_error), ("max", maximum_calibration_error)):
            theirs = metrics.multiclass_calibration_error(*tensors, **given, norm=norm)
            assert ours(probs, labels, n_bins=n_bins) == pytest.approx(float(theirs), abs=1e-6)
    on_edge = torch.tensor([[0.5, 0.5], [0.55, 0.45]]), torch.tensor([0, 1])
    theirs = metrics.multiclass_calibration_error(*on_edge, num_classes=2, n_bins=10, norm="l1")
    assert float(theirs) == pytest.approx(0.025, abs=1e-6)  # [lo, hi): both in one bin, see `test_relplot`


# ---- the property

SUBJECT = Subject("alone/seed0@10", "alone", 0, "seed0", 10, "f")


def evidence_of(test, ood, validation):
    """Evidence of one network from (logits, labels) of each set."""
    sets = {name: of_labels(labels) for name, (_, labels) in (("test", test), ("ood", ood))}
    answers = {"test": test[0].astype(np.float32), "ood": ood[0].astype(np.float32)}
    return Evidence(
        sets,
        lambda subject, split: answers[split],
        (),
        validation=of_labels(validation[1]),
        validation_logits=lambda subject: validation[0].astype(np.float32),
    )


def of_labels(labels):
    return Dataset({"label": labels, "id": np.arange(len(labels))}, {})


def measured(evidence):
    rows = list(PROPERTIES["calibration"].measure([SUBJECT], evidence))
    assert len({row.key for row in rows}) == len(rows)
    return {(row.split, row.metric, row.coords): row for row in rows}


def test_rows():
    logits, labels = network(500)
    found = measured(evidence_of((logits, labels), (logits, labels), network(300, seed=1)))
    assert len(found) == 2 * (8 + 3 * 15)
    test = {key[1:]: row for key, row in found.items() if key[0] == "test"}
    bins = [dict(coords)["confidence"] for metric, coords in test if metric == "reliability_count"]
    cells = [(test["reliability_count", (("confidence", b),)].value, b) for b in bins]
    assert sum(count for count, _ in cells) == 500
    ece, gaps = 0.0, []
    for count, b in cells:
        accuracy, confidence = (test[f"reliability_{m}", (("confidence", b),)] for m in ("accuracy", "confidence"))
        assert accuracy.n == count and (accuracy.value is None) == (count == 0)
        if count:
            assert abs(confidence.value - b) <= 0.5 / 15 + 1e-9
            gaps.append(abs(accuracy.value - confidence.value))
            ece += count / 500 * gaps[-1]
    probs = np.exp(log_softmax(logits.astype(np.float32)))
    assert test["ece", ()].value == pytest.approx(ece) and test["mce", ()].value == pytest.approx(max(gaps))
    assert test["ece_mass", ()].value == expected_calibration_error(probs, labels, scheme="mass")
    assert test["smooth_ece", ()].value == smooth_ece(probs, labels)
    assert test["nll", ()].se == pytest.approx(nll(logits, labels).std() / math.sqrt(500), rel=1e-5)
    assert PROPERTIES["calibration"].primary.metric == "ece" and not PROPERTIES["calibration"].higher_is_better
    drawn = {curve.metric for curve in PROPERTIES["calibration"].curves}
    assert drawn == {"reliability_accuracy", "reliability_count"} <= {metric for metric, _ in test}


def test_everything_is_measured_on_the_set_it_names():
    """Published was ECE on validation beside accuracy on test (PAPERS 1.6.7). Labels change the rows of their set."""
    test, ood, validation = network(400), network(300, seed=1), network(350, seed=2)
    before = measured(evidence_of(test, ood, validation))
    assert {row.n for (split, metric, coords), row in before.items() if not coords and metric != "temperature"} == {
        400,
        300,
    }
    after = measured(evidence_of((test[0], 1 - test[1]), ood, validation))
    assert {key: row for key, row in before.items() if key[0] == "ood"} == {
        key: row for key, row in after.items() if key[0] == "ood"
    }
    for metric in ("ece", "ece_mass", "mce", "smooth_ece", "brier", "nll", "ece_scaled"):
        assert before["test", metric, ()].value != after["test", metric, ()].value
    assert before["test", "temperature", ()] == after["test", "temperature", ()]  # test sets select nothing


def test_the_temperature_is_fitted_on_validation_and_serves_every_set():
    test, ood, validation = network(2000), network(2000, seed=1), network(2000, seed=2)
    found = measured(evidence_of(test, ood, validation))
    by = found["test", "temperature", ()]
    assert by.value == found["ood", "temperature", ()].value == pytest.approx(2, rel=0.1) and by.n == 2000
    for split, (logits, labels) in (("test", test), ("ood", ood)):
        scaled = found[split, "ece_scaled", ()].value
        probs = np.exp(log_softmax(logits.astype(np.float32) / by.value))
        assert scaled == pytest.approx(expected_calibration_error(probs, labels))
        assert scaled < 0.5 * found[split, "ece", ()].value
    other = measured(evidence_of(test, ood, (validation[0] * 3, validation[1])))
    assert other["test", "temperature", ()].value == pytest.approx(3 * by.value, rel=1e-6)
    assert other["test", "ece", ()] == found["test", "ece", ()]


def test_no_temperature_no_value():
    """A validation set without an error does not say how sure to be: no bound passes for an answer."""
    logits, labels = network(100)
    found = measured(evidence_of((logits, labels), (logits, labels), (logits, logits.argmax(axis=1))))
    for metric in ("temperature", "ece_scaled"):
        assert found["test", metric, ()].value is None and found["test", metric, ()].n == 100
    assert found["test", "ece", ()].value is not None


def test_evidence_without_validation_is_refused():
    logits, labels = network(50)
    evidence = evidence_of((logits, labels), (logits, labels), (logits, labels))._replace(validation=None)
    with pytest.raises(TypeError, match="alone/seed0@10: this evidence holds no validation set"):
        list(PROPERTIES["calibration"].measure([SUBJECT], evidence))


# ---- errors


@pytest.mark.parametrize(
    ("probs", "labels", "options", "message"),
    [
        ([[2.0, -1.0]], [0], {}, "apply a softmax"),
        ([[0.5, 0.5]], [2], {}, r"labels in 0\.\.1, got 2\.\.2"),
        ([[0.5, 0.5]], [0, 1], {}, r"\(1, 2\) and \(2,\)"),
        ([[0.5, np.nan]], [0], {}, "finite"),
        ([[0.5, 0.5]], [0], {"scheme": "depth"}, r"\['mass', 'width'\], got 15 and 'depth'"),
        ([[0.5, 0.5]], [0], {"n_bins": 0}, "n_bins >= 1"),
    ],
)
def test_errors(probs, labels, options, message):
    for metric in (expected_calibration_error, maximum_calibration_error, *([] if options else [smooth_ece])):
        with pytest.raises(ValueError, match=message):
            metric(np.array(probs), np.array(labels), **options)
