"""Metrics on the straight line between two networks' parameters, with all points in one compiled program.

`interpolation_path` computes a metric along the line, and `barrier` how high the loss rises on it. `batched` and
`loss_and_error` turn a network and a data set of any size into a metric.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdib.losses import Mean
from kdib.models.base import Batch, Model
from kdib.properties.translation import fitting_chunk
from kdib.tasks.base import cut

STRIDE = 8  # sentences are cut to a multiple of this many tokens


def interpolation_path(
    metric_fn: Callable[[Any], Any], params_a: Any, params_b: Any, alphas_A: Any, *, chunk: int | None = None
) -> Any:
    """A metric of (1 - alpha) a + alpha b at every alpha, in one compiled program whose memory does not grow with A.

    At alpha = 0 and 1 the parameters are exactly those of the two networks.

    >>> path = interpolation_path(lambda p: p["w"].sum(), {"w": np.zeros(3, "f")}, {"w": np.ones(3, "f")}, [0, 0.5, 1])
    >>> path.tolist()
    [0.0, 1.5, 3.0]

    Args:
      metric_fn: params -> pytree of arrays [...]. Arrays it closes over become constants of the program; a call within
        your own jit takes them as arguments. Pass the same function object again to reuse the program.
      params_a, params_b: pytrees of float32 of the same structure and shapes.
      alphas_A: [A] numbers, A > 0; values outside [0, 1] extrapolate.
      chunk: the number of points evaluated at a time (vmap within a chunk, lax.map over chunks). None takes as many as
        fit into the budget of `kdib.properties.translation`, judged by the largest step, and at least 1 (1 for an MLP
        of width 2000).

    Returns:
      metric_fn's pytree with a leading axis: [A, ...].

    Raises:
      ValueError: for parameters that differ in a leaf's name, shape or type, or are not float32 (the message names the
        leaf); for alphas that are not [A] with A > 0; for a chunk below 1.
    Reference: Goodfellow, Vinyals, Saxe, Qualitatively Characterizing Neural Network Optimization Problems, ICLR
    (2015), section 3.
    """
    alphas_A = jnp.asarray(alphas_A, jnp.float32)
    if alphas_A.ndim != 1 or not len(alphas_A):
        raise ValueError(f"expected alphas [A], A > 0, got {alphas_A.shape}")
    return combinations(metric_fn, (params_a, params_b), jnp.stack([1 - alphas_A, alphas_A], axis=1), chunk=chunk)


def combinations(
    metric_fn: Callable[[Any], Any], params_T: Sequence[Any], weights_AxT: Any, *, chunk: int | None = None
) -> Any:
    """A metric of A weighted sums of T networks' parameters, weights [A, T]; otherwise like `interpolation_path`."""
    check_alike(params_T)
    weights_AxT = jnp.asarray(weights_AxT, jnp.float32)
    if weights_AxT.ndim != 2 or weights_AxT.shape[1] != len(params_T) or not len(weights_AxT):
        raise ValueError(f"expected weights [A, {len(params_T)}], A > 0, got {weights_AxT.shape}")
    params = tuple(params_T)
    if chunk is None:
        chunk = fitting_chunk(lambda weights_T: metric_fn(_combined(params, weights_T)), weights_AxT[0])
    if chunk < 1:
        raise ValueError(f"expected chunk >= 1, got {chunk}")
    return _combinations(metric_fn, params, weights_AxT, min(chunk, len(weights_AxT)))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _combinations(metric_fn, params_T, weights_AxT: jax.Array, chunk: int):
    n_points = len(weights_AxT)
    # Fill up to whole chunks, since a remainder would need a program of its own; the repeated values are cut off.
    weights_AxT = weights_AxT[jnp.arange(-(-n_points // chunk) * chunk) % n_points]

    def one(weights_T):
        return metric_fn(_combined(params_T, weights_T))

    if chunk == 1:
        return jax.lax.map(one, weights_AxT)
    values = jax.lax.map(jax.vmap(one), weights_AxT.reshape(-1, chunk, len(params_T)))
    return jax.tree.map(lambda parts: parts.reshape(-1, *parts.shape[2:])[:n_points], values)


def _combined(params_T: Sequence[Any], weights_T: jax.Array) -> Any:
    """sum_t w_t p_t; exactly p_t where w_t is 1 and the others are 0."""
    return jax.tree.map(lambda *leaves: sum(w * leaf for w, leaf in zip(weights_T, leaves, strict=True)), *params_T)


def check_alike(params_T: Sequence[Any]) -> None:
    """Raise ValueError, naming the first leaf that differs, unless all are pytrees of float32 with the same leaves."""
    first, *others = [_described(params) for params in params_T]
    for path, (shape, dtype) in first.items():
        if dtype != np.float32:
            raise ValueError(f"expected float32 parameters, got {dtype} of shape {shape} at {path}: cast them first")
    for other in others:
        for path in [*first, *other]:
            if first.get(path) != other.get(path):
                found = " and ".join(_said(params.get(path)) for params in (first, other))
                raise ValueError(f"expected parameters of one architecture, got {found} at {path}")


def _described(params: Any) -> dict[str, tuple[tuple[int, ...], Any]]:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {
        jax.tree_util.keystr(path): (np.shape(leaf), getattr(leaf, "dtype", type(leaf).__name__))
        for path, leaf in leaves
    }


def _said(leaf: tuple[tuple[int, ...], Any] | None) -> str:
    return "nothing" if leaf is None else f"{leaf[1]} of shape {leaf[0]}"


class Barrier(NamedTuple):
    """The largest height of an inner point of a path above the chord, and above the mean of the ends."""

    above_chord: float
    above_mean: float


def barrier(losses_A: Any, alphas_A: Any) -> Barrier:
    """The largest height of the loss on a path above the chord between its ends, and above their mean.

    Both maxima are over inner points, 0 < alpha < 1, and are not clipped: a path that sags below the chord has a
    negative barrier. The published maxima include the ends and would be 0. If both ends have the same loss, the two
    values are equal.

    >>> barrier([1.0, 3.0, 2.0], [0.0, 0.5, 1.0])
    Barrier(above_chord=1.5, above_mean=1.5)

    Args:
      losses_A: [A] losses (or error rates) of the points.
      alphas_A: [A] values rising from 0 to 1, A > 2.

    Raises:
      ValueError: for other shapes or alphas, or losses that are not finite.
    Reference: Entezari, Sedghi, Saukh, Neyshabur (ICLR 2022), definition 2.1 (chord); Frankle, Dziugaite, Roy, Carbin
    (ICML 2020), section 2 (mean).
    """
    losses_A, alphas_A = np.asarray(losses_A, np.float64), np.asarray(alphas_A, np.float64)
    if losses_A.shape != alphas_A.shape or losses_A.ndim != 1 or len(losses_A) < 3:
        raise ValueError(f"expected losses and alphas of one shape [A], A > 2, got {losses_A.shape}, {alphas_A.shape}")
    if alphas_A[0] != 0 or alphas_A[-1] != 1 or not (np.diff(alphas_A) > 0).all():
        raise ValueError(f"expected alphas that rise from 0 to 1, got {alphas_A}")
    if not np.isfinite(losses_A).all():
        raise ValueError(f"expected finite losses, got {losses_A}")
    chord_A = (1 - alphas_A) * losses_A[0] + alphas_A * losses_A[-1]
    mean = (losses_A[0] + losses_A[-1]) / 2
    return Barrier(float((losses_A - chord_A)[1:-1].max()), float(losses_A[1:-1].max() - mean))


# ------------------------------------------------------------------------------------------ a network on a data set


class Answered(NamedTuple):
    """The mean cross-entropy (nats) and the error rate of a network on a data set."""

    loss: jax.Array
    error: jax.Array


def batched(inputs: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """Columns [N, ...] as batches [n, B, ...] with "counted" [n, B], B = min(size, N).

    The last batch is filled up with rows from the start that are not counted. Padding that all sentences share is cut
    off.
    """
    n_rows = len(inputs["label"])
    size = min(size, n_rows)
    if "length" in inputs:
        inputs = cut(inputs, -(-int(np.max(inputs["length"])) // STRIDE) * STRIDE)
    filled = np.arange(-(-n_rows // size) * size)
    columns = {name: np.asarray(column)[filled % n_rows] for name, column in inputs.items()}
    columns["counted"] = filled < n_rows
    return {name: column.reshape(-1, size, *column.shape[1:]) for name, column in columns.items()}


def loss_and_error(model: Model, params: Any, model_state: Any, batches: Batch) -> Answered:
    """Mean loss and error rate over batches [n, B, ...] (see `batched`) in evaluation mode, one batch at a time.

    A language model's loss is the mean over tokens. Its error rate is that of the forced choice if the data have
    `choices`, else that of the next token.
    """

    def add(sums, batch):
        outputs, _ = model.apply(params, model_state, batch, train=False, key=None)
        return jax.tree.map(jnp.add, sums, sums_of(outputs.logits, batch)), None

    zero = Mean(jnp.float32(0), jnp.float32(0))
    sums, _ = jax.lax.scan(add, Answered(zero, zero), batches)  # type: ignore[arg-type]
    return Answered(sums.loss.value, sums.error.value)


def sums_of(logits: jax.Array, batch: Batch) -> Any:
    """An Answered of Means over the counted rows of a batch; logits are [B, K], or [B, L, V] of a language model."""
    label, counted = batch["label"], batch["counted"]
    if logits.ndim == 2:
        return _summed(logits, label, counted)
    tokens = _summed(logits, batch.get("target", label), batch["mask"] & counted[:, None])
    if "choices" not in batch:
        return tokens
    at_BxV = jnp.take_along_axis(logits, batch["position"][:, None, None], axis=1)[:, 0]
    chosen = _summed(jnp.take_along_axis(at_BxV, batch["choices"], axis=1), label, counted)
    return Answered(tokens.loss, chosen.error)


def _summed(logits: jax.Array, labels: jax.Array, where: jax.Array) -> Any:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    return Answered(Mean.of(losses, where=where), Mean.of(logits.argmax(-1) != labels, where=where))  # type: ignore
