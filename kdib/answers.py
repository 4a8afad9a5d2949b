"""What a network answers on a whole dataset, and what is made of a teacher's answers before a student sees them."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from kdib.models.base import Model, Variables
from kdib.properties.calibration import expected_calibration_error, nll
from kdib.step import cut, predict, runs_mesh

BATCH = 256  # examples a device and call
STRIDE = 8  # inputs are cut to a multiple of this many tokens, so that few lengths are compiled


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _logits(variables: Variables, batch, *, model: Model, mesh: Mesh) -> jax.Array:
    ask = jax.shard_map(
        lambda variables, batch: predict(variables, batch, model=model).logits,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("runs")),
        out_specs=PartitionSpec("runs"),
        check_vma=False,
    )
    return ask(variables, batch)


def answer(model: Model, variables: Variables, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The logits [N, K] float32 of a network in evaluation mode on all N examples.

    Every device answers a share of each batch. Inputs with a `length` are asked in the order of their length, without
    the padding that a whole batch has in common.

    Raises:
      FloatingPointError: if one of them is not finite.
    """
    devices = jax.local_device_count()
    size, mesh = BATCH * devices, runs_mesh(devices)
    n_examples = len(inputs["label"])
    rows = np.argsort(inputs["length"], kind="stable") if "length" in inputs else np.arange(n_examples)
    padded = rows[np.arange(-(-n_examples // size) * size) % n_examples]  # the last batch is filled up from the start
    answers = [
        _logits(variables, _shortest({name: values[part] for name, values in inputs.items()}), model=model, mesh=mesh)
        for part in padded.reshape(-1, size)
    ]
    by_row = np.concatenate(jax.device_get(answers))[:n_examples]
    logits_NxK = np.empty_like(by_row)
    logits_NxK[rows] = by_row
    if not np.isfinite(logits_NxK).all():
        raise FloatingPointError(f"{np.sum(~np.isfinite(logits_NxK).all(-1))} of {n_examples} answers are not finite")
    return logits_NxK


def _shortest(batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    if "length" not in batch:
        return batch
    return cut(batch, -(-int(batch["length"].max()) // STRIDE) * STRIDE)


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
