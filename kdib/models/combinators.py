"""Models made of models: several that teach as one, and a student trained together with its teacher."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdib.models.base import Model, Outputs, Variables, split

PARTS = ("student", "teacher")  # of a pair's params
TEACHER_STREAM = 1_000_003  # what a pair's keys are folded with for the teacher; far from what models fold and split


def mean_probability(logits_ExBxK: jax.Array) -> jax.Array:
    """The log of the mean of softmax, [B, K]: normalised, so that softmax gives the mean back."""
    log_probs_ExBxK = jax.nn.log_softmax(logits_ExBxK.astype(jnp.float32))
    return jax.nn.logsumexp(log_probs_ExBxK, axis=0) - jnp.log(len(logits_ExBxK))


def mean_logit(logits_ExBxK: jax.Array) -> jax.Array:
    """The mean of the logits, [B, K]: the normalised geometric mean of the probabilities."""
    return logits_ExBxK.astype(jnp.float32).mean(axis=0)


RULES: dict[str, Callable[[jax.Array], jax.Array]] = {"mean_probability": mean_probability, "mean_logit": mean_logit}


@functools.cache
def ensemble(models: tuple[Model, ...], rule: str) -> Model:
    """A teacher of E members: its params are the tuple of their variables, its logits what `rule` makes of theirs.

    `models` has one a member, or a single one that any number of members share. The ensemble is asked in evaluation
    mode only, and has no hidden outputs. Equal arguments give the same object.

    Raises:
      ValueError: for no member, an unknown rule, or (by `apply`) a call in training mode or variables of another
        number of members.
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
            raise ValueError("an ensemble teaches and is not trained: expected train=False, got train=True")
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

    params are {"student": ..., "teacher": ...}. logits and hidden are the student's, and hidden holds also
    "teacher_logits" [B, K], the targets: the teacher's answers in evaluation mode, through which no gradient passes;
    in training "teacher_train_logits" [B, K], for the teacher's own loss on the labels, and "student_logits" [B, K],
    the student's answers in evaluation mode, from which the teacher learns in its turn in deep mutual learning (Zhang
    et al., 2018). What a loss does not ask for is not computed. The student draws what it would draw without a
    teacher. Train it with `make_optimizer(..., parts=PARTS)`, or the clipping of the global gradient norm lets the
    one slow down the other.

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
    """By part; without the empty ones, which would not survive a snapshot."""
    return {part: state for part, state in zip(PARTS, states, strict=True) if state}
