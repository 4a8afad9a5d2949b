"""Whether a network is right as often as it says: expected calibration error, Brier score, NLL, reliability.

Metrics of the rows, all at group "": "ece", "brier", "nll" at coords (); and the reliability diagram as
"reliability_accuracy", "reliability_confidence" and "reliability_count", at coords (("confidence", middle of
the bin),).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kdib.properties.base import (
    Curve,
    Evidence,
    Primary,
    Property,
    check_classified,
    log_softmax,
    mean_and_se,
)
from kdib.records import Row, Subject

N_BINS = 15

# The inner edges [n_bins - 1]: of equal width, or of (nearly) equal numbers of examples.
SCHEMES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "width": lambda confidence_N, n_bins: np.arange(1, n_bins) / n_bins,
    "mass": lambda confidence_N, n_bins: np.quantile(confidence_N, np.arange(1, n_bins) / n_bins),
}


class Reliability(NamedTuple):
    """By bin [n_bins]: number of examples, mean accuracy and mean confidence, nan in an empty bin."""

    count_B: np.ndarray
    accuracy_B: np.ndarray
    confidence_B: np.ndarray


def reliability(
    probs_NxK: np.ndarray, labels_N: np.ndarray, *, n_bins: int = N_BINS, scheme: str = "width"
) -> Reliability:
    """Accuracy and confidence by bins (lo, hi] of the confidence, the largest probability of an example.

    Arguments, errors and reference as in `expected_calibration_error`.
    """
    probs_NxK, labels_N = _check_probs(probs_NxK, labels_N)
    if n_bins < 1 or scheme not in SCHEMES:
        raise ValueError(f"expected n_bins >= 1 and a scheme among {sorted(SCHEMES)}, got {n_bins} and {scheme!r}")
    confidence_N = probs_NxK.max(axis=1)
    correct_N = probs_NxK.argmax(axis=1) == labels_N
    bin_N = np.searchsorted(SCHEMES[scheme](confidence_N, n_bins), confidence_N, side="left")  # (lo, hi]
    count_B = np.bincount(bin_N, minlength=n_bins)
    size_B = np.where(count_B > 0, count_B, np.nan)
    accuracy_B = np.bincount(bin_N, weights=correct_N, minlength=n_bins) / size_B
    return Reliability(count_B, accuracy_B, np.bincount(bin_N, weights=confidence_N, minlength=n_bins) / size_B)


def expected_calibration_error(
    probs_NxK: np.ndarray, labels_N: np.ndarray, *, n_bins: int = N_BINS, scheme: str = "width"
) -> float:
    """The mean over examples of |accuracy - confidence| of their bin, in [0, 1].

    The number of bins is part of the result. So many that each holds one example, such as the 1,000,000 of a
    published analysis, turn it into the mean of |correct - confidence|: that rewards sharpness, is far from 0
    for a perfectly calibrated network, and is not calibration. With few examples a bin the estimate is biased
    upwards.

    Args:
      probs_NxK: [N, K] probabilities (not logits).
      labels_N: [N] int, the true classes.
      n_bins: how many bins (lo, hi] divide the confidences.
      scheme: "width" for bins of equal width on [0, 1], "mass" for bins of equal numbers of examples.

    Raises:
      ValueError: on shapes or labels that do not fit, rows that are not probabilities, or an unknown scheme.
    Reference: Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML (2017), equation
    3.
    """
    bins = reliability(probs_NxK, labels_N, n_bins=n_bins, scheme=scheme)
    return float(np.nansum(bins.count_B * np.abs(bins.accuracy_B - bins.confidence_B)) / bins.count_B.sum())


def brier(probs_NxK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """The Brier score of each example [N], in [0, 2]: its squared distance to the one-hot label.

    With two classes it is twice the score that looks at one class only. Reference: Brier, Verification of
    forecasts expressed in terms of probability, Mon. Weather Rev. 78 (1950).
    """
    probs_NxK, labels_N = _check_probs(probs_NxK, labels_N)
    onehot_NxK = np.eye(probs_NxK.shape[1])[labels_N]
    return np.square(probs_NxK - onehot_NxK).sum(axis=1)


def nll(logits_NxK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """The negative log-likelihood of each label [N], in nats; from logits, hence finite at any confidence."""
    logits_NxK, labels_N = np.asarray(logits_NxK), np.asarray(labels_N)
    check_classified(logits_NxK, labels_N)
    return -np.take_along_axis(log_softmax(logits_NxK), labels_N[:, None], axis=1)[:, 0]


def measure(subjects: Sequence[Subject], evidence: Evidence) -> Iterator[Row]:
    """The rows of every subject on every test set."""
    for subject in subjects:
        for split, dataset in evidence.sets.items():
            yield from _set_rows(subject.id, split, evidence.logits(subject, split), dataset.inputs["label"])


def _set_rows(subject: str, split: str, logits_NxK: np.ndarray, labels_N: np.ndarray) -> Iterator[Row]:
    def row(metric, value, n, se=None, coords=()):
        return Row(subject, None, "calibration", metric, split, "", coords, value, n, se)

    n, probs_NxK = len(labels_N), np.exp(log_softmax(logits_NxK))
    yield row("ece", expected_calibration_error(probs_NxK, labels_N), n)
    for metric, values_N in (("brier", brier(probs_NxK, labels_N)), ("nll", nll(logits_NxK, labels_N))):
        value, se = mean_and_se(values_N)
        yield row(metric, value, n, se)
    bins = reliability(probs_NxK, labels_N)
    for b, count in enumerate(bins.count_B.tolist()):
        middle = (("confidence", (b + 0.5) / N_BINS),)
        accuracy, confidence = (float(v[b]) if count else None for v in (bins.accuracy_B, bins.confidence_B))
        yield row("reliability_accuracy", accuracy, count, coords=middle)
        yield row("reliability_confidence", confidence, count, coords=middle)
        yield row("reliability_count", float(count), n, coords=middle)


def _check_probs(probs_NxK: np.ndarray, labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probs_NxK, labels_N = np.asarray(probs_NxK, np.float64), np.asarray(labels_N)
    check_classified(probs_NxK, labels_N)
    if probs_NxK.min() < 0 or np.abs(probs_NxK.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError(f"expected probabilities that sum to 1, got a row like {probs_NxK[0]}: apply a softmax first")
    return probs_NxK, labels_N


PROPERTY = Property(
    name="calibration",
    title="Calibration",
    kind="scalar",
    primary=Primary("ece", split="", group=""),
    higher_is_better=False,
    measure=measure,
    caption=f"Reliability: accuracy against confidence in {N_BINS} bins of equal width. On the diagonal a "
    "network is right as often as it says; below it, it is overconfident.",
    reference="Guo, Pleiss, Sun, Weinberger (ICML 2017), equation 3; Brier (1950)",
    curves=(
        Curve(
            "reliability_accuracy",
            group="",
            x="confidence",
            xlabel="confidence",
            ylabel="accuracy",
            diagonal=True,
            weight_metric="reliability_count",
        ),
    ),
)
