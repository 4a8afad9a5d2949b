"""kdib.properties.calibration: against loops, scikit-learn and networks whose calibration is known."""

import math

import numpy as np
import pytest

from kdib.properties import of_task
from kdib.properties.base import Evidence, log_softmax
from kdib.properties.calibration import brier, expected_calibration_error, nll, reliability
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


def test_rows():
    logits, labels = network(500)
    subject = Subject("alone/seed0@10", "alone", 0, "seed0", 10, "f")
    dataset = Dataset({"label": labels, "id": np.arange(500)}, {})
    evidence = Evidence({"test": dataset, "ood": dataset}, lambda s, split: logits.astype(np.float32), ())
    rows = list(PROPERTIES["calibration"].measure([subject], evidence))
    assert len({row[:7] for row in rows}) == len(rows) == 2 * (3 + 3 * 15)
    test = {(row.metric, row.coords): row for row in rows if row.split == "test"}
    bins = [dict(coords)["confidence"] for metric, coords in test if metric == "reliability_count"]
    cells = [(test["reliability_count", (("confidence", b),)].value, b) for b in bins]
    assert sum(count for count, _ in cells) == 500
    ece = 0.0
    for count, b in cells:
        accuracy, confidence = (test[f"reliability_{m}", (("confidence", b),)] for m in ("accuracy", "confidence"))
        assert accuracy.n == count and (accuracy.value is None) == (count == 0)
        if count:
            assert abs(confidence.value - b) <= 0.5 / 15 + 1e-9
            ece += count / 500 * abs(accuracy.value - confidence.value)
    assert test["ece", ()].value == pytest.approx(ece)
    assert test["nll", ()].se == pytest.approx(nll(logits, labels).std() / math.sqrt(500), rel=1e-5)
    assert PROPERTIES["calibration"].primary.metric == "ece" and not PROPERTIES["calibration"].higher_is_better


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
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(np.array(probs), np.array(labels), **options)
