"""Temperature scaling: dividing all logits of a network by one number that is fitted on the validation set."""

import numpy as np

from kdib.properties.base import Evidence, check_classified
from kdib.records import Subject


class NoTemperature(ValueError):
    """The negative log-likelihood has no minimum at a finite temperature above 0."""


def temperature(logits_NxK: np.ndarray, labels_N: np.ndarray) -> float:
    """The T > 0 that minimises the mean negative log-likelihood of softmax(logits / T).

    The negative log-likelihood is convex in 1/T, so its slope, the mean over examples of the expected logit minus the
    label's logit, has one root. Fit T on examples that the network was not trained on, and never on a test set. T
    changes no prediction, only its confidence. If logits are c times as large, so is T.

    Args:
      logits_NxK: [N, K] logits, such as a network's outputs on the validation set.
      labels_N: [N] int, the true classes.

    Raises:
      ValueError: for shapes or labels that do not match, or logits that are not finite.
      NoTemperature: (a ValueError) if every prediction is right (the likelihood keeps improving as T falls to 0), if
        the label's logit is on average no larger than the others (it keeps improving as T grows), or if every example
        has equal logits for all classes (it is the same at every T).
    Reference: Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML (2017), section 4.2.
    """
    from scipy.optimize import root_scalar

    logits_NxK, labels_N = np.asarray(logits_NxK, np.float64), np.asarray(labels_N)
    check_classified(logits_NxK, labels_N)
    below_NxK = logits_NxK - logits_NxK.max(axis=1, keepdims=True)  # at most 0, so that no exponential overflows
    label_N = np.take_along_axis(below_NxK, labels_N[:, None], axis=1)[:, 0]

    def slope(inverse: float) -> float:
        """The derivative of the mean negative log-likelihood with respect to 1/T."""
        weights_NxK = np.exp(inverse * below_NxK)
        expected_N = (weights_NxK * below_NxK).sum(axis=1) / weights_NxK.sum(axis=1)
        return float((expected_N - label_N).mean())

    _check_minimum(slope(0.0), slope_cold=-float(label_N.mean()), n=len(labels_N))
    low = high = float(-np.log(-below_NxK.mean()))  # log 1/T, at the scale of the logits
    while slope(np.exp(low)) >= 0:
        low -= 1
    while slope(np.exp(high)) <= 0:
        high += 1
    return float(np.exp(-root_scalar(lambda log: slope(np.exp(log)), bracket=(low, high), xtol=1e-12).root))


def fitted(subject: Subject, evidence: Evidence) -> tuple[float | None, int]:
    """The fitted temperature of a network (None if no temperature is best) and the number of validation examples.

    Raises TypeError if the evidence has no validation set.
    """
    if evidence.validation is None:
        raise TypeError(f"{subject.id}: this evidence holds no validation set, on which temperatures are fitted")
    labels_N = np.asarray(evidence.validation.inputs["label"])
    try:
        return temperature(evidence.validation_logits(subject), labels_N), len(labels_N)
    except NoTemperature:
        return None, len(labels_N)


def _check_minimum(slope_hot: float, *, slope_cold: float, n: int) -> None:
    """Raise NoTemperature unless the slope in 1/T is below 0 at 1/T = 0 (hot) and above 0 as T goes to 0 (cold)."""
    if slope_hot == slope_cold == 0:
        raise NoTemperature(
            f"each of {n} examples has the same logit for every class: the likelihood is the same at every "
            "temperature; expected a network whose logits differ between classes"
        )
    if slope_cold <= 0:
        raise NoTemperature(
            f"all {n} predictions are right: the likelihood keeps improving as the temperature falls to 0; "
            "fit on more examples, or on harder ones"
        )
    if slope_hot >= 0:
        raise NoTemperature(
            f"over {n} examples the label's logit is on average no larger than the others: the likelihood keeps "
            "improving as the temperature grows; expected a network that predicts these labels better than chance"
        )
