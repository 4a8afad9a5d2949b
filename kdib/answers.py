"""What a network answers on a whole dataset, and what is made of a teacher's answers before a student sees them."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from kdib.models.base import Model, Variables
from kdib.properties.calibration import expected_calibration_error, nll
from kdib.step import predict

BATCH = 512  # one shape for every dataset, so that a model is compiled once for all of them


@functools.partial(jax.jit, static_argnames="model")
def _logits(variables: Variables, batch, model: Model) -> jax.Array:
    return predict(variables, batch, model=model).logits


def answer(model: Model, variables: Variables, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The logits [N, K] float32 of a network in evaluation mode on all N examples.

    Raises:
      FloatingPointError: if one of them is not finite.
    """
    n_examples = len(inputs["label"])
    padded = -(-n_examples // BATCH) * BATCH
    rows = np.arange(padded) % n_examples  # the last batch is filled up with examples from the start
    batches = [
        _logits(variables, {name: values[rows[at : at + BATCH]] for name, values in inputs.items()}, model)
        for at in range(0, padded, BATCH)
    ]
    logits_NxK = np.concatenate(jax.device_get(batches))[:n_examples]
    if not np.isfinite(logits_NxK).all():
        raise FloatingPointError(f"{np.sum(~np.isfinite(logits_NxK).all(-1))} of {n_examples} answers are not finite")
    return logits_NxK


def summary(logits_NxK: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Accuracy, loss (mean NLL of the labels), entropy (mean, nats) and ECE (15 equal-width bins) of stored answers."""
    probs_NxK = np.asarray(jax.nn.softmax(jnp.asarray(logits_NxK, jnp.float32)), np.float64)
    return {
        "accuracy": float((logits_NxK.argmax(-1) == labels_N).mean()),
        "loss": float(nll(logits_NxK, labels_N).mean()),
        "entropy": mean_entropy(logits_NxK),
        "ece": float(expected_calibration_error(probs_NxK, labels_N)),
    }


def mean_entropy(logits_NxK: np.ndarray) -> float:
    """The mean entropy, in nats, of softmax(logits)."""
    from scipy.special import entr, softmax

    return float(entr(softmax(logits_NxK.astype(np.float64), axis=-1)).sum(-1).mean())


def shuffled_within_class(key: jax.Array, logits_NxK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """The rows permuted among the examples of one label: the same answers, without knowledge of the instance."""
    out_NxK = logits_NxK.copy()
    for label in np.unique(labels_N):
        rows = np.flatnonzero(labels_N == label)
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, int(label)), len(rows)))
        out_NxK[rows] = logits_NxK[rows[order]]
    return out_NxK


def matched_epsilon(logits_NxK: np.ndarray) -> float:
    """The epsilon at which (1-epsilon) onehot + epsilon/K has the mean entropy of softmax(logits).

    The control of DESIGN's science rule 4: as soft as the teacher on average, and ignorant of the instance.
    """
    from scipy.optimize import root_scalar
    from scipy.special import entr

    n_classes, target = logits_NxK.shape[-1], mean_entropy(logits_NxK)

    def excess(epsilon: float) -> float:
        rest = epsilon / n_classes
        return float(entr(1 - epsilon + rest) + (n_classes - 1) * entr(rest)) - target

    return float(root_scalar(excess, bracket=(0.0, 1.0), xtol=1e-12).root)
