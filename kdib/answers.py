"""What a network answers on a whole dataset, and what is made of a teacher's answers before a student sees them."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kdib.models.base import Model, Variables
from kdib.population import runs_mesh
from kdib.properties.calibration import expected_calibration_error, nll
from kdib.step import predict
from kdib.tasks.base import cut, gather

BLOCK = 2**16  # examples in memory at a time
BATCH, LANGUAGE_BATCH = 256, 32  # examples a device and call; a language model answers a vocabulary at every word
LOOK = 125  # examples a call whose hidden activations are kept
STRIDE = 8  # inputs are cut to a multiple of this many tokens, so that few lengths are compiled


class Answers(NamedTuple):
    """What a network answers on N examples: `logits` [N, K] float32 and, of a language model, `nll` [N]; on the host.

    A language model's logits are those of the two words it is asked to choose from; its nll is the sum over the tokens
    of a sentence, in nats.
    """

    logits: Any
    nll: Any = None


def answer(model: Model, variables: Variables, inputs: Mapping[str, np.ndarray]) -> Answers:
    """The answers of a network in evaluation mode on all N examples.

    Every device answers a share of each batch. Inputs with a `length` are asked in the order of their length, without
    the padding that a whole batch has in common. Inputs on the disk are read in blocks of BLOCK examples, and sorted
    within them.

    Raises:
      FloatingPointError: if one of them is not finite.
    """
    devices = jax.local_device_count()
    size, mesh = (LANGUAGE_BATCH if "choices" in inputs else BATCH) * devices, runs_mesh(devices)
    variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    blocks = (gather(inputs, slice(start, start + BLOCK)) for start in range(0, len(inputs["label"]), BLOCK))
    answers = [_block(model, variables, block, size, mesh) for block in blocks]
    return jax.tree.map(lambda *parts: _finite(np.concatenate(parts)), *answers)


def hidden(model: Model, variables: Variables, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every named intermediate of a network in evaluation mode, float32 [N, D], in its order, "penultimate" last.

    Sequences are read where the network answers: at `position`, or else at the last word (the bidirectional Transformer
    reads a CLS, whose states have no name but in the last block). Pictures are flattened. An array that is
    "penultimate" under another name too is left out there.
    """
    n = len(inputs["label"])
    parts = [
        jax.device_get(_look_inside(variables, gather(inputs, slice(first, first + LOOK)), model=model))
        for first in range(0, n, LOOK)
    ]
    return {name.partition(" ")[2]: np.concatenate([part[name] for part in parts]) for name in sorted(parts[0])}


@functools.partial(jax.jit, static_argnames="model")
def _look_inside(variables: Variables, batch, *, model: Model) -> dict[str, jax.Array]:
    """By "<number> <name>", so that sorting, which is what jit does to dictionaries, keeps the order."""
    found = dict(predict(variables, batch, model=model).hidden)
    last = found.pop("penultimate")
    found.pop("teacher_logits", None)  # of a pair: its teacher's
    inside = {**{name: value for name, value in found.items() if value is not last}, "penultimate": last}
    return {f"{i:03} {name}": _vectors(value, batch) for i, (name, value) in enumerate(inside.items())}


def _vectors(hidden_BxD: jax.Array, batch) -> jax.Array:
    if "length" in batch and hidden_BxD.ndim == 3:
        read_B = batch["position"] if "position" in batch else jnp.maximum(batch["length"] - 1, 0)
        hidden_BxD = jnp.take_along_axis(hidden_BxD, read_B[:, None, None], axis=1)
    return hidden_BxD.reshape(len(hidden_BxD), -1).astype(jnp.float32)


def _block(model: Model, variables: Variables, inputs: Mapping[str, np.ndarray], size: int, mesh: Mesh) -> Answers:
    """The answers on examples that are in memory, asked in batches of `size`."""
    n_examples = len(inputs["label"])
    rows = np.argsort(inputs["length"], kind="stable") if "length" in inputs else np.arange(n_examples)
    padded = rows[np.arange(-(-n_examples // size) * size) % n_examples]  # the last batch is filled up from the start
    answers = [
        _ask(variables, _shortest({name: values[part] for name, values in inputs.items()}), model=model, mesh=mesh)
        for part in padded.reshape(-1, size)
    ]
    return jax.tree.map(lambda *parts: _in_order(parts, rows), *jax.device_get(answers))


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _ask(variables: Variables, batch, *, model: Model, mesh: Mesh) -> Answers:
    ask = jax.shard_map(
        lambda variables, batch: _answers(predict(variables, batch, model=model).logits, batch),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("runs")),
        out_specs=PartitionSpec("runs"),
        check_vma=False,
    )
    return ask(variables, batch)


def _answers(logits: jax.Array, batch) -> Answers:
    if "choices" not in batch:
        return Answers(logits)
    at_BxV = jnp.take_along_axis(logits, batch["position"][:, None, None], axis=1)[:, 0]
    nll_BxL = optax.softmax_cross_entropy_with_integer_labels(logits, batch["target"])
    return Answers(
        jnp.take_along_axis(at_BxV, batch["choices"], axis=1), jnp.where(batch["mask"], nll_BxL, 0).sum(axis=1)
    )


def _in_order(parts: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """The answers to sorted and filled up questions, as they were asked."""
    sorted_N = np.concatenate(parts)[: len(rows)]
    out_N = np.empty_like(sorted_N)
    out_N[rows] = sorted_N
    return out_N


def _finite(answers_N: np.ndarray) -> np.ndarray:
    if not np.isfinite(answers_N).all():
        wrong_N = ~np.isfinite(answers_N.reshape(len(answers_N), -1)).all(-1)
        raise FloatingPointError(f"{wrong_N.sum()} of {len(answers_N)} answers are not finite")
    return answers_N


def _shortest(batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    if "length" not in batch:
        return batch
    return cut(batch, -(-int(batch["length"].max()) // STRIDE) * STRIDE)


def summary(answers: Answers, inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Accuracy, loss, entropy (mean, nats) and ECE (15 equal-width bins) of stored answers.

    `loss` is what training minimises: the mean NLL of the labels, or of the tokens of a language model, which has its
    "perplexity" (exp of it) beside.
    """
    probs_NxK = np.asarray(jax.nn.softmax(jnp.asarray(answers.logits, jnp.float32)), np.float64)
    values = {
        "accuracy": float((answers.logits.argmax(-1) == inputs["label"]).mean()),
        "loss": float(nll(answers.logits, inputs["label"]).mean()),
        "entropy": mean_entropy(answers.logits),
        "ece": float(expected_calibration_error(probs_NxK, inputs["label"])),
    }
    if answers.nll is None:
        return values
    loss = float(answers.nll.sum(dtype=np.float64) / inputs["mask"].sum())
    return {**values, "loss": loss, "perplexity": float(np.exp(loss))}


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


def matched_temperature(logits_NxK: np.ndarray, entropy: float) -> float:
    """The temperature at which softmax(logits / temperature) has a given mean entropy, in nats.

    The control for a weaker teacher: a strong one that is as soft on average. Raises ValueError if no temperature in
    [0.01, 100] gives this entropy.
    """
    from scipy.optimize import root_scalar

    def excess(log_temperature: float) -> float:
        return mean_entropy(logits_NxK / np.exp(log_temperature)) - entropy

    ends = np.log(0.01), np.log(100.0)
    if not excess(ends[0]) <= 0 <= excess(ends[1]):
        within = [f"{excess(end) + entropy:.3g}" for end in ends]
        raise ValueError(f"a mean entropy of {entropy:.3g} is outside of what temperatures give: {' to '.join(within)}")
    return float(np.exp(root_scalar(excess, bracket=ends, xtol=1e-9).root))


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
