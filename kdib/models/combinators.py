"""Models composed of models: ensembles of teachers, and a student trained together with its teacher."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdib.models.base import Model, Outputs, Variables, split

PARTS = ("student", "teacher")  # of a pair's params
TEACHER_STREAM = 1_000_003  # folded into a pair's key for the teacher; far from the numbers that models use


def mean_probability(logits_ExBxK: jax.Array) -> jax.Array:
    """The log of the mean softmax, [B, K]; it is normalised, so its softmax is the mean."""
    log_probs_ExBxK = jax.nn.log_softmax(logits_ExBxK.astype(jnp.float32))
    return jax.nn.logsumexp(log_probs_ExBxK, axis=0) - jnp.log(len(logits_ExBxK))


def mean_logit(logits_ExBxK: jax.Array) -> jax.Array:
    """The mean of the logits, [B, K]: the normalised geometric mean of the probabilities."""
    return logits_ExBxK.astype(jnp.float32).mean(axis=0)


RULES: dict[str, Callable[[jax.Array], jax.Array]] = {"mean_probability": mean_probability, "mean_logit": mean_logit}


@functools.cache
def ensemble(models: tuple[Model, ...], rule: str) -> Model:
    """A teacher of E members: its params are the tuple of their variables, and `rule` combines their logits.

    `models` holds one model per member, or a single model for any number of members. The ensemble runs in evaluation
    mode only and has no hidden outputs. Equal arguments return the same object.

    Raises:
      ValueError: for no models or an unknown rule. `apply` raises it in training mode and for the variables of a
        wrong number of members.
    """
    if not models:
        raise ValueError("an ensemble needs at least one model, got none")
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} of an ensemble is unknown; known: {', '.join(RULES)}")

    def init(key, batch):
        keys = jax.random.split(key, len(models))
        return {"params": tuple(model.init(own, batch) for model, own in zip(models, keys, strict=True))}

    def apply(params, model_state, batch, *, train=False, key=None):
        del key
        if train:
            raise ValueError("an ensemble is a teacher and is not trained: expected train=False")
        members = models * len(params) if len(models) == 1 else models
        if len(params) != len(members):
            raise ValueError(f"expected the variables of {len(members)} models, got {len(params)}")
        logits = [_ask(model, variables, batch) for model, variables in zip(members, params, strict=True)]
        return Outputs(RULES[rule](jnp.stack(logits)), {}), model_state

    return Model(init=init, apply=apply)


def _ask(model: Model, variables: Variables, batch) -> jax.Array:
    params, model_state = split(variables)
    return model.apply(params, model_state, batch, train=False, key=None)[0].logits


@functools.cache
def pair(student: Model, teacher: Model) -> Model:
    """Online distillation: a student and its teacher, trained in the same steps. Equal arguments give the same object.

    The params are {"student": ..., "teacher": ...}. The logits and hidden values are the student's. Additional entries
    of `hidden` are:

    - "teacher_logits" [B, K]: the targets, from the teacher in evaluation mode and without gradient;
    - "teacher_train_logits" [B, K], in training only: for the teacher's own loss on the labels;
    - "student_logits" [B, K], in training only: from the student in evaluation mode and without gradient, as targets
      for the teacher in deep mutual learning (Zhang et al., 2018).

    Entries that no loss reads are not computed. The student's random draws are the same as without a teacher. Train the
    pair with `make_optimizer(..., parts=PARTS)`; otherwise clipping by the global gradient norm couples the two.

    >>> loss = {
    ...     "kd": {"fn": "softened_kl", "weight": 1.0, "inputs": ("student.logits", "student.hidden.teacher_logits")},
    ...     "teacher_ce": {
    ...         "fn": "cross_entropy", "weight": 1.0, "inputs": ("student.hidden.teacher_train_logits", "batch.label")
    ...     },
    ... }
    """

    def init(key, batch):
        student_params, student_state = split(student.init(key, batch))
        teacher_params, teacher_state = split(teacher.init(jax.random.fold_in(key, TEACHER_STREAM), batch))
        params = {"student": student_params, "teacher": teacher_params}
        return {"params": params, **_states(student_state, teacher_state)}

    def apply(params, model_state, batch, *, train, key=None):
        states = [model_state.get(part, {}) for part in PARTS]
        outputs, student_state = student.apply(params["student"], states[0], batch, train=train, key=key)
        targets, _ = teacher.apply(params["teacher"], states[1], batch, train=False, key=None)
        hidden = {**outputs.hidden, "teacher_logits": jax.lax.stop_gradient(targets.logits)}
        if not train:
            return Outputs(outputs.logits, hidden), model_state
        own = None if key is None else jax.random.fold_in(key, TEACHER_STREAM)
        trained, teacher_state = teacher.apply(params["teacher"], states[1], batch, train=True, key=own)
        hidden["teacher_train_logits"] = trained.logits
        answers, _ = student.apply(params["student"], states[0], batch, train=False, key=None)
        hidden["student_logits"] = jax.lax.stop_gradient(answers.logits)
        return Outputs(outputs.logits, hidden), _states(student_state, teacher_state)

    return Model(init=init, apply=apply)


def _states(*states: Variables) -> Variables:
    """The states by part. Empty states are left out, because a snapshot does not keep them."""
    return {part: state for part, state in zip(PARTS, states, strict=True) if state}
