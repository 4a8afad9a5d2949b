"""An architecture is two pure functions, and a teacher is an architecture with variables."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp

Batch = Mapping[str, jax.Array]
Variables = dict[str, Any]  # {"params": ..., **model_state}


class Outputs(NamedTuple):
    """What a forward pass answers: `logits` [B, K] and every named intermediate.

    `units` are what a linen module has sown beside, in evaluation mode: by its path, an array for every time that it is
    applied. Losses do not see them; a compiled function that does not hand them on does not compute them.
    """

    logits: jax.Array
    hidden: Mapping[str, jax.Array]
    units: Mapping[str, tuple[jax.Array, ...]] = {}


class Model(NamedTuple):
    """Two pure functions.

    `init(key, batch) -> {"params": ..., **model_state}`; `apply(params, model_state, batch, *, train, key) ->
    (Outputs, model_state)`. In evaluation (`train=False`) `key` may be None and model_state comes back unchanged;
    `train="statistics"` normalises batches as training does, without dropout. `fields` are the sizes it was built with.
    """

    init: Callable[[jax.Array, Batch], Variables]
    apply: Callable[..., tuple[Outputs, Any]]
    fields: tuple[tuple[str, Any], ...] = ()


def split(variables: Variables) -> tuple[Any, Variables]:
    """`{"params": ..., **model_state}` -> (params, model_state)."""
    return variables["params"], {name: value for name, value in variables.items() if name != "params"}


@functools.cache
def nothing() -> Model:
    """The teacher of a fit that learns from labels alone: its logits are [B, 0]."""

    def apply(params, model_state, batch, *, train=False, key=None):
        del params, train, key
        return Outputs(jnp.zeros((batch["label"].shape[0], 0)), {}), model_state

    return Model(init=lambda key, batch: {"params": {}}, apply=apply)


@functools.cache
def table() -> Model:
    """A teacher that was asked beforehand: variables are {"params": {"teacher": t}, "answers": logits [T, N, K]}.

    It answers row `batch["id"]` of teacher t. Runs that learn from different teachers, or by different losses from the
    same one, share the answers and differ in t.
    """

    def apply(params, model_state, batch, *, train=False, key=None):
        del train, key
        return Outputs(model_state["answers"][params["teacher"], batch["id"]], {}), model_state

    def init(key, batch):
        raise TypeError("a table has no initial values: see its docstring for its variables")

    return Model(init=init, apply=apply)


def from_linen(module: Any, fields: tuple[tuple[str, Any], ...] = ()) -> Model:
    """A flax.linen module whose `__call__(batch, *, train) -> Outputs` draws its randomness from the rng "dropout".

    Collections beside "params" (such as "batch_stats") are the model_state; they are updated in training only.
    `init` is compiled as a whole.
    """

    @jax.jit
    def init(key, batch):
        return dict(module.init(key, batch, train=False))

    def apply(params, model_state, batch, *, train, key=None):
        variables = {"params": params, **model_state}
        if not train:
            outputs, sown = module.apply(variables, batch, train=False, mutable=["intermediates"])
            return outputs._replace(units=_by_path(sown)), model_state
        rngs = {} if key is None else {"dropout": key}  # a network without dropout needs no key
        return module.apply(variables, batch, train=train, rngs=rngs, mutable=list(model_state))

    return Model(init=init, apply=apply, fields=fields)


def _by_path(sown: Mapping[str, Any]) -> Any:
    return flax.traverse_util.flatten_dict(sown.get("intermediates", {}), sep="/")
