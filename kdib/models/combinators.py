"""Models made of models: several that teach as one, and a student trained together with its teacher."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdib.models.base import Model, Outputs, Variables, split


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
