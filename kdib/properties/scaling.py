"""Temperature scaling: one number a network, fitted on the validation set, by which all its logits are divided."""

import numpy as np

from kdib.properties.base import Evidence, check_classified
from kdib.records import Subject


class NoTemperature(ValueError):
    """The likelihood has no minimum at a temperature above 0 and below infinity."""


def temperature(logits_NxK: np.ndarray, labels_N: np.ndarray) -> float:
    """The T > 0 that minimises the mean negative log-likelihood of softmax(logits / T).

    In 1/T the likelihood is convex, so its slope, the mean over examples of the expected logit minus the label's, has
    one root. Fit it on examples that the network has not been trained on, and never on a test set: it changes no
    answer, only how sure each is. Logits c times as large have a T c times as large.

    Args:
      logits_NxK: [N, K] logits, such as a network's answers to the validation set.
      labels_N: [N] int, the true classes.

    Raises:
      ValueError: on shapes or labels that do not fit, or logits that are not finite.
      NoTemperature: if every answer is right (the likelihood improves for ever as T falls to 0), if the label's logit
        is on average no larger than the others' (it improves for ever as T grows), or if the logits of every example
        are all equal (it is the same at every T). A ValueError, too.
    Reference: Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural Networks, ICML (2017), section 4.2.
    """
    from scipy.optimize import root_scalar

    logits_NxK, labels_N = np.asarray(logits_NxK, np.float64), np.asarray(labels_N)
    check_classified(logits_NxK, labels_N)
    below_NxK = logits_NxK - logits_NxK.max(axis=1, keepdims=True)  # at most 0, so that no exponential overflows
    label_N = np.take_along_axis(below_NxK, labels_N[:, None], axis=1)[:, 0]

    def slope(inverse: float) -> float:
        """The derivative of the mean likelihood by 1/T."""
        weights_NxK = np.exp(inverse * below_NxK)
        expected_N = (weights_NxK * below_NxK).sum(axis=1) / weights_NxK.sum(axis=1)
        return float((expected_N - label_N).mean())

    _check_minimum(slope(0.0), slope_cold=-float(label_N.mean()), n=len(labels_N))
    low = high = float(-np.log(-below_NxK.mean()))  # of log 1/T, in the logits' own units
    while slope(np.exp(low)) >= 0:
        low -= 1
    while slope(np.exp(high)) <= 0:
        high += 1
    return float(np.exp(-root_scalar(lambda log: slope(np.exp(log)), bracket=(low, high), xtol=1e-12).root))


def fitted(subject: Subject, evidence: Evidence) -> tuple[float | None, int]:
    """The temperature of a network, None where none is best, and the number of validation examples it is fitted on.

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
    """Raise NoTemperature unless the slope by 1/T is below 0 at 1/T = 0 (hot) and above it where T is 0 (cold)."""
    if slope_hot == slope_cold == 0:
        raise NoTemperature(
            f"each of {n} examples has the same logit for every class: the likelihood is the same at every "
            "temperature; expected a network that tells classes apart"
        )
    if slope_cold <= 0:
        raise NoTemperature(
            f"all {n} answers are right: the likelihood improves for ever as the temperature falls to 0; "
            "fit it on more examples, or on harder ones"
        )
    if slope_hot >= 0:
        raise NoTemperature(
            f"over {n} examples the label's logit is on average no larger than the others': the likelihood improves "
            "for ever as the temperature grows; expected a network that knows something of these labels"
        )
