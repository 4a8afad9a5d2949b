"""One training step and the forward pass, as pure functions; only this file differentiates the training loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kdib.losses import LossSpec, Mean, combine, terms
from kdib.models.base import Batch, Model, Outputs, Variables, split

METRICS = frozenset({"loss", "accuracy", "gradient_norm"})  # reported by every step, besides the terms of its loss
ORDER_STREAM, NOISE_STREAM, VIEW_STREAM = 0, 1, 2  # folded into a run's key, before the epoch or the step


class TrainState(NamedTuple):
    """The state of a run: arrays only, so that it can be stacked, vmapped, sharded and saved.

    `params` is {"model": ..., "heads": {name: ...}}; `model_state` (batch statistics, memory banks) has the same form.
    `key` is the run's own and never changes. The epoch and the step are folded into it, so that a step is a function of
    its number.
    """

    step: jax.Array
    params: dict[str, Any]
    model_state: dict[str, Any]
    opt_state: Any
    key: jax.Array


class Architecture(NamedTuple):
    """Everything a step is compiled for. All fields are static; equal architectures share one compilation.

    `augment(key, batch) -> batch` makes the view of a batch that student and teacher see; with None they see the
    examples unchanged.
    """

    model: Model
    teacher: Model
    heads: tuple[tuple[str, Model], ...]
    tx: optax.GradientTransformation
    augment: Callable[[jax.Array, Batch], Batch] | None = None


def init_state(init_key, run_key, batch: Batch, teacher_variables: Variables, *, arch: Architecture) -> TrainState:
    """The state at step 0. `init_key` draws the weights, `run_key` is the run's own key (data order and noise)."""
    params, model_state = split(arch.model.init(init_key, batch))
    student, _ = arch.model.apply(params, model_state, batch, train=False, key=None)
    context = {"student": student, "teacher": _teacher_outputs(arch.teacher, teacher_variables, batch), "batch": batch}
    head_params, head_states = {}, {}
    for number, (name, head) in enumerate(arch.heads):
        head_params[name], head_states[name] = split(head.init(jax.random.fold_in(init_key, number + 1), context))
    all_params = {"model": params, "heads": head_params}
    return TrainState(
        step=jnp.int32(0),
        params=all_params,
        model_state={"model": model_state, "heads": head_states},
        opt_state=arch.tx.init(all_params),
        key=run_key,
    )


def train_step(
    state: TrainState, batch: Batch, teacher_variables: Variables, loss: LossSpec, *, arch: Architecture
) -> tuple[TrainState, dict[str, Mean]]:
    """Take one step of one run.

    Returns the next state and mergeable metrics: every term, `loss`, `accuracy` and `gradient_norm`. The teacher runs
    in evaluation mode, outside the differentiated function.

    Studies train with `population._guarded_step` instead, which makes the same update but freezes a run that goes
    non-finite. This function is for the checks before a study and for users' own training loops.
    """
    grads, model_state, metrics = gradients(state, batch, teacher_variables, loss, arch=arch)
    return updated(state, grads, model_state, arch=arch), metrics


def gradients(state: TrainState, batch: Batch, teacher_variables: Variables, loss: LossSpec, *, arch: Architecture):
    """The gradients of one step, the model's state after the batch, and the metrics."""
    targets = _teacher_outputs(arch.teacher, teacher_variables, batch)
    noise = jax.random.fold_in(jax.random.fold_in(state.key, NOISE_STREAM), state.step)

    def objective(params):
        context, model_state = _forward(params, state.model_state, batch, targets, noise, arch=arch)
        means = terms(loss, context, step=state.step)
        return combine(means, loss, step=state.step), (means, model_state, context["student"].logits)

    (value, (means, model_state, logits_BxK)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    metrics = {
        **means,
        "loss": Mean.of(value[None]),
        "accuracy": Mean.of(_is_correct(logits_BxK, batch["label"]), where=batch.get("mask")),
        "gradient_norm": Mean.of(_gradient_norm_or_nan(value, grads)[None]),
    }
    return grads, model_state, metrics


def _is_correct(logits_xK: jax.Array, labels_x: jax.Array) -> jax.Array:
    """logits.argmax(-1) == labels, [...]: no class exceeds the label's logit, and no earlier class equals it.

    On XLA:CPU an argmax over a vocabulary takes eight times as long, which is a twelfth of a language model's step.
    """
    own_xx1 = jnp.take_along_axis(logits_xK, labels_x[..., None], axis=-1)
    before_xK = jax.lax.broadcasted_iota(labels_x.dtype, logits_xK.shape, logits_xK.ndim - 1) < labels_x[..., None]
    beaten_xK = ~(logits_xK <= own_xx1) | (before_xK & (logits_xK == own_xx1))
    return ~beaten_xK.any(-1)


def _gradient_norm_or_nan(loss: jax.Array, grads) -> jax.Array:
    """The global norm of the gradients, or nan if the loss is not finite.

    It is computed in a branch because XLA:CPU gives a branch's inputs a layout in which it sums squares fast. In the
    layout that the derivatives of products leave, it sums in windows of 32 x 32: an eighth of an MLP's step.
    """
    return jax.lax.cond(jnp.isfinite(loss), optax.tree.norm, lambda _: jnp.float32(jnp.nan), grads)


def updated(state: TrainState, grads, model_state, *, arch: Architecture) -> TrainState:
    """The state after an update by `grads`."""
    updates, opt_state = arch.tx.update(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, model_state, opt_state, state.key)


def predict(variables: Variables, batch: Batch, *, model: Model) -> Outputs:
    """The forward pass in evaluation mode."""
    params, model_state = split(variables)
    return model.apply(params, model_state, batch, train=False, key=None)[0]


def model_variables(state: TrainState) -> Variables:
    """The model's variables without heads, optimiser and key: the content of a snapshot."""
    return {"params": state.params["model"], **state.model_state["model"]}


def _teacher_outputs(teacher: Model, variables: Variables, batch: Batch) -> Outputs:
    return jax.lax.stop_gradient(predict(variables, batch, model=teacher))


def _forward(params, model_state, batch, targets, noise, *, arch: Architecture):
    """Run the student, then the heads: each head's batch is the loss context, which its outputs join under its name."""
    student, student_state = arch.model.apply(
        params["model"], model_state["model"], batch, train=True, key=jax.random.fold_in(noise, 0)
    )
    context: dict[str, Any] = {"student": student, "teacher": targets, "batch": batch}
    head_states = {}
    for number, (name, head) in enumerate(arch.heads):
        context[name], head_states[name] = head.apply(
            params["heads"][name],
            model_state["heads"][name],
            context,
            train=True,
            key=jax.random.fold_in(noise, number + 1),
        )
    return context, {"model": student_state, "heads": head_states}
