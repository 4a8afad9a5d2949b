"""Calibration: calibration errors, Brier score, NLL, reliability diagrams and temperature scaling.

Metrics of the rows, all at group "", of every test set. At coords ():

- "ece" and "mce" in bins of equal width, "ece_mass" in bins of equal numbers of examples, "smooth_ece" without bins;
- "brier" and "nll", which also reward sharpness;
- "temperature", fitted on the validation set, and "ece_scaled", the ECE of the logits divided by it. One temperature is
  used for all test sets, including those out of distribution, since validation is in distribution and no test set may
  select anything. Its `n` is the size of the validation set. If no temperature is best, for example because all
  validation predictions are correct (kdib.properties.scaling), both values are None.

At coords (("confidence", middle of the bin),): the reliability diagram as "reliability_accuracy",
"reliability_confidence" and "reliability_count"; the last is the histogram of confidences.

Bins are (lo, hi]: a value on an edge belongs to the bin below it, except that 0 belongs to the first bin. Guo et al.
use the same bins; torchmetrics and relplot use [lo, hi), and scikit-learn's calibration_curve (lo, hi].
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kdib.properties.base import Curve, Evidence, Primary, Property, check_classified, log_softmax, mean_and_se
from kdib.properties.scaling import fitted
from kdib.records import Row, Subject

N_BINS = 15
CELLS = 2**14  # cells of [0, 1] into which `smooth_ece` sorts the confidences
NARROWEST = 2 / CELLS  # the smallest kernel width of `smooth_ece`

# Inner edges [n_bins - 1] of bins of equal width, or of (nearly) equal numbers of examples.
SCHEMES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "width": lambda confidence_N, n_bins: np.arange(1, n_bins) / n_bins,
    "mass": lambda confidence_N, n_bins: np.quantile(confidence_N, np.arange(1, n_bins) / n_bins),
}


class Reliability(NamedTuple):
    """Per bin [n_bins]: the number of examples, mean accuracy and mean confidence (nan in an empty bin)."""

    count_B: np.ndarray
    accuracy_B: np.ndarray
    confidence_B: np.ndarray


def reliability(
    probs_NxK: np.ndarray, labels_N: np.ndarray, *, n_bins: int = N_BINS, scheme: str = "width"
) -> Reliability:
    """Accuracy and confidence in bins (lo, hi] of the confidence, an example's largest probability.

    Arguments, errors and reference as in `expected_calibration_error`.
    """
    return reliability_of(*_top(probs_NxK, labels_N), n_bins=n_bins, scheme=scheme)


def reliability_of(
    confidence_N: np.ndarray, correct_N: np.ndarray, *, n_bins: int = N_BINS, scheme: str = "width"
) -> Reliability:
    """`reliability` of arbitrary forecasts: confidences [N] in [0, 1] and whether each event occurred, [N] bool.

    Bins are (lo, hi]; the first also includes 0.

    Raises:
      ValueError: for other shapes, no examples, confidences outside [0, 1], or an unknown scheme.
    Reference: Guo et al. (2017), section 2.
    """
    confidence_N, correct_N = np.asarray(confidence_N, np.float64), np.asarray(correct_N, bool)
    if n_bins < 1 or scheme not in SCHEMES:
        raise ValueError(f"expected n_bins >= 1 and a scheme among {sorted(SCHEMES)}, got {n_bins} and {scheme!r}")
    if confidence_N.shape != correct_N.shape or confidence_N.ndim != 1 or not len(confidence_N):
        raise ValueError(f"expected both [N], N > 0; got {confidence_N.shape} and {correct_N.shape}")
    if not (confidence_N.min() >= 0 and confidence_N.max() <= 1):
        raise ValueError(f"expected confidences in [0, 1], got {confidence_N.min()} to {confidence_N.max()}")
    bin_N = np.searchsorted(SCHEMES[scheme](confidence_N, n_bins), confidence_N, side="left")  # (lo, hi]
    count_B = np.bincount(bin_N, minlength=n_bins)
    size_B = np.where(count_B > 0, count_B, np.nan)
    accuracy_B = np.bincount(bin_N, weights=correct_N, minlength=n_bins) / size_B
    return Reliability(count_B, accuracy_B, np.bincount(bin_N, weights=confidence_N, minlength=n_bins) / size_B)


def expected_calibration_error(
    probs_NxK: np.ndarray, labels_N: np.ndarray, *, n_bins: int = N_BINS, scheme: str = "width"
) -> float:
    """Expected calibration error: the mean over examples of |accuracy - confidence| of their bin, in [0, 1].

    The result depends on the number of bins. With so many bins that each holds one example, such as the 1,000,000 of a
    published analysis, it becomes the mean of |correct - confidence|. That value rewards sharpness, is far from 0 for a
    perfectly calibrated network, and does not measure calibration. With few examples per bin the estimate is biased
    upwards.

    Args:
      probs_NxK: [N, K] probabilities (not logits).
      labels_N: [N] int, the true classes.
      n_bins: the number of bins (lo, hi].
      scheme: "width" for bins of equal width on [0, 1], "mass" for bins of equal numbers of examples.

    Raises:
      ValueError: for shapes or labels that do not match, rows that are not probabilities, or an unknown scheme.
    Reference: Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML (2017), equation 3.
    """
    bins = reliability(probs_NxK, labels_N, n_bins=n_bins, scheme=scheme)
    return float(np.nansum(bins.count_B * np.abs(bins.accuracy_B - bins.confidence_B)) / bins.count_B.sum())


def maximum_calibration_error(
    probs_NxK: np.ndarray, labels_N: np.ndarray, *, n_bins: int = N_BINS, scheme: str = "width"
) -> float:
    """Maximum calibration error: the largest |accuracy - confidence| of any non-empty bin, in [0, 1].

    The maximum is often reached in the emptiest bins, and says little if these hold only a handful of examples.
    Arguments and errors as in `expected_calibration_error`. Reference: Guo et al. (2017), equation 5.
    """
    bins = reliability(probs_NxK, labels_N, n_bins=n_bins, scheme=scheme)
    return float(np.nanmax(np.abs(bins.accuracy_B - bins.confidence_B)))


def smooth_ece(probs_NxK: np.ndarray, labels_N: np.ndarray) -> float:
    """The smooth calibration error, in [0, 1]; it needs no bins and therefore no bin edges.

    The residuals confidence - correct are smoothed along the confidence by a Gaussian that is reflected at 0 and 1. The
    error is the integral of the absolute smoothed residuals, at the kernel width that equals this integral. The
    integral falls as the width grows, so there is exactly one such width. For a calibrated network the error tends to 0
    as the number of examples grows.

    Confidences are sorted into CELLS cells, and the kernel is at least NARROWEST (0.00012) wide: an error below that is
    0 up to this resolution. Arguments and errors as in `expected_calibration_error`.

    Reference: Blasiok, Nakkiran, Smooth ECE: Principled Reliability Diagrams via Kernel Smoothing, ICLR (2024), arXiv
    2309.12236.
    """
    from scipy.fft import dct, idct
    from scipy.optimize import root_scalar

    confidence_N, correct_N = _top(probs_NxK, labels_N)
    residual_N = (confidence_N - correct_N) / len(confidence_N)
    waves_C = dct(np.histogram(confidence_N, CELLS, (0, 1), weights=residual_N)[0])
    # A Gaussian reflected at both ends is the heat kernel of [0, 1]: it damps every cosine by its own factor.
    frequency_C = np.pi * np.arange(CELLS)

    def left(width: float) -> float:
        return float(np.abs(np.asarray(idct(waves_C * np.exp(-0.5 * np.square(width * frequency_C))))).sum())

    if left(NARROWEST) <= NARROWEST:
        return left(NARROWEST)
    return float(root_scalar(lambda width: left(width) - width, bracket=(NARROWEST, 2.0)).root)  # at most 1


def brier(probs_NxK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """The Brier score of each example [N], in [0, 2]: the squared distance of its probabilities to the one-hot label.

    With two classes it is twice the score computed from one class only. Reference: Brier, Verification of forecasts
    expressed in terms of probability, Mon. Weather Rev. 78 (1950).
    """
    probs_NxK, labels_N = _check_probs(probs_NxK, labels_N)
    onehot_NxK = np.eye(probs_NxK.shape[1])[labels_N]
    return np.square(probs_NxK - onehot_NxK).sum(axis=1)


def nll(logits_NxK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """The negative log-likelihood of each label [N], in nats; computed from logits, so it is always finite."""
    logits_NxK, labels_N = np.asarray(logits_NxK), np.asarray(labels_N)
    check_classified(logits_NxK, labels_N)
    return -np.take_along_axis(log_softmax(logits_NxK), labels_N[:, None], axis=1)[:, 0]


def measure(subjects: Sequence[Subject], evidence: Evidence) -> Iterator[Row]:
    """The rows of every subject on every test set.

    Raises TypeError if the evidence has no validation set, on which the temperature is fitted.
    """
    for subject in subjects:
        by, n_validation = fitted(subject, evidence)
        for split, dataset in evidence.sets.items():
            logits_NxK, labels_N = evidence.logits(subject, split), np.asarray(dataset.inputs["label"])
            yield from _set_rows(subject.id, split, logits_NxK, labels_N)
            ece = None if by is None else expected_calibration_error(_softmax(logits_NxK / by), labels_N)
            for metric, value, n in (("temperature", by, n_validation), ("ece_scaled", ece, len(labels_N))):
                yield Row(subject.id, None, "calibration", metric, split, "", (), value, n, None)


def _set_rows(subject: str, split: str, logits_NxK: np.ndarray, labels_N: np.ndarray) -> Iterator[Row]:
    def row(metric, value, n, se=None, coords=()):
        return Row(subject, None, "calibration", metric, split, "", coords, value, n, se)

    n, probs_NxK = len(labels_N), _softmax(logits_NxK)
    yield row("ece", expected_calibration_error(probs_NxK, labels_N), n)
    yield row("ece_mass", expected_calibration_error(probs_NxK, labels_N, scheme="mass"), n)
    yield row("mce", maximum_calibration_error(probs_NxK, labels_N), n)
    yield row("smooth_ece", smooth_ece(probs_NxK, labels_N), n)
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


def _softmax(logits_NxK: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(logits_NxK))


def _top(probs_NxK: np.ndarray, labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The confidence (largest probability) of each example, and whether its prediction is correct."""
    probs_NxK, labels_N = _check_probs(probs_NxK, labels_N)
    confidence_N = np.minimum(probs_NxK.max(axis=1), 1)  # rounding may make a row sum to slightly more than 1
    return confidence_N, probs_NxK.argmax(axis=1) == labels_N


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
    caption="Expected calibration error (ECE): the mean gap between accuracy and confidence in "
    f"{N_BINS} bins of equal width. The reliability diagrams show accuracy against confidence: on the diagonal a "
    "network is calibrated, below it the network is overconfident. Temperatures are fitted on the validation set, in "
    "distribution, and used for every test set.",
    reference="Guo, Pleiss, Sun, Weinberger (ICML 2017), equation 3; Blasiok, Nakkiran (ICLR 2024); Brier (1950)",
    curves=(
        Curve(
            "reliability_accuracy",
            group="",
            x="confidence",
            xlabel="confidence",
            ylabel="accuracy",
            diagonal=True,
            weight_metric="reliability_count",
            x_metric="reliability_confidence",  # a point at the middle of its bin could be on the wrong side
        ),
        Curve("reliability_count", "", x="confidence", xlabel="confidence", ylabel="examples in the bin"),
    ),
    caveat="An ECE depends on its bins. Even a calibrated network scores above 0, more so with fewer examples, so "
    "compare networks on the same test set only. The equal-mass ECE and the smooth ECE show whether a result depends "
    "on the bins. A network without errors on the validation set has no best temperature, and none is reported.",
)
