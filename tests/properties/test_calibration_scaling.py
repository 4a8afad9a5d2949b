"""kdib.properties.scaling: temperatures in closed form, at a minimum, against scikit-learn, and where there is none."""

import numpy as np
import pytest

from kdib.properties.base import log_softmax
from kdib.properties.scaling import NoTemperature, temperature


def network(n=1500, classes=4, seed=0, sharpness=2.0):
    """Logits [N, K], and labels [N] drawn from softmax(logits / sharpness)."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(n, classes))
    probs = np.exp(log_softmax(logits / sharpness))
    return logits, (rng.random((n, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)


def loss(logits, labels, by):
    return -log_softmax(logits / by)[np.arange(len(labels)), labels].mean()


def test_one_margin_in_closed_form():
    """All sure by the margin m and right at the rate a: sigmoid(m / T) = a."""
    for margin, right in ((3.0, 0.9), (0.01, 0.55), (50.0, 0.7)):
        logits = np.tile([margin, 0.0], (100, 1))
        labels = np.where(np.arange(100) < round(100 * right), 0, 1)
        assert temperature(logits, labels) == pytest.approx(margin / np.log(right / (1 - right)), rel=1e-9)


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_the_slope_is_zero_and_the_loss_higher_on_both_sides(classes):
    logits, labels = network(classes=classes)
    by = temperature(logits, labels)
    slope = (loss(logits, labels, by * 1.0001) - loss(logits, labels, by / 1.0001)) / (2e-4 * by)
    assert slope == pytest.approx(0, abs=1e-6)
    assert min(loss(logits, labels, by * 1.1), loss(logits, labels, by / 1.1)) > loss(logits, labels, by) + 1e-4
    far = np.geomspace(by / 30, by * 30, 61)
    assert min(loss(logits, labels, t) for t in far) >= loss(logits, labels, by)  # and nowhere lower


def test_logits_c_times_as_large_have_a_temperature_c_times_as_large():
    logits, labels = network()
    by = temperature(logits, labels)
    for c in (1e-6, 0.3, 7.0, 1e8):
        assert temperature(c * logits, labels) == pytest.approx(c * by, rel=1e-8)
    assert temperature(logits + 100 * np.arange(len(labels))[:, None], labels) == pytest.approx(by, rel=1e-8)


def test_it_finds_what_the_labels_were_drawn_at():
    logits, labels = network(20_000, sharpness=2.0)
    assert temperature(logits, labels) == pytest.approx(2, rel=0.03)
    assert temperature(logits / 2, labels) == pytest.approx(1, rel=0.03)


def test_scikit_learn_finds_the_same():
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Network(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(4)

        def __sklearn_is_fitted__(self):
            return True

        def fit(self, x, y):
            return self

        def decision_function(self, x):
            return x

        def predict(self, x):
            return x.argmax(axis=1)

    logits, labels = network()
    scaled = CalibratedClassifierCV(FrozenEstimator(Network()), method="temperature").fit(logits, labels)
    ours = np.exp(log_softmax(logits / temperature(logits, labels)))
    np.testing.assert_allclose(scaled.predict_proba(logits), ours, atol=1e-6)


def test_no_error_has_no_temperature():
    """Where scikit-learn answers the end of its interval, here is an error that says why."""
    logits, _ = network()
    with pytest.raises(NoTemperature, match=r"all 1500 predictions are right: .* as the temperature falls to 0"):
        temperature(logits, logits.argmax(axis=1))
    ties = np.tile([1.0, 1.0, 0.0], (5, 1))
    with pytest.raises(NoTemperature, match="all 5 predictions are right"):
        temperature(ties, np.zeros(5, int))  # a tie is as right as can be
    labels = logits.argmax(axis=1)
    labels[0] = (labels[0] + 1) % 4
    assert 0 < temperature(logits, labels) < 0.5  # one error, and there is a minimum


def test_a_collapsed_network_is_not_said_to_be_right():
    for value in (0.0, -3e7, 0.1):
        with pytest.raises(NoTemperature, match=r"each of 6 examples has the same logit .* the same at every temp"):
            temperature(np.full((6, 3), value) * np.arange(1, 7)[:, None], np.arange(6) % 3)


def test_worse_than_knowing_nothing_has_no_temperature():
    logits, _ = network()
    with pytest.raises(NoTemperature, match=r"over 1500 examples .* as the temperature grows"):
        temperature(logits, logits.argmin(axis=1))


def test_errors():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3,\)"):
        temperature(np.zeros((2, 3)), np.zeros(3, int))
    with pytest.raises(ValueError, match="finite logits"):
        temperature(np.array([[np.inf, 0.0]]), np.array([0]))
    with pytest.raises(ValueError, match=r"labels in 0\.\.1, got 5\.\.5"):
        temperature(np.array([[1.0, 0.0]]), np.array([5]))
