"""The interface of every network: a pair of pure functions from a batch to logits and hidden values."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp

Batch = Mapping[str, jax.Array]
"""B examples as named arrays. `id` [B] int32 is the index of the example in its data set.

A network reads `image`, or `tokens` and `length`. Losses and metrics read the other keys.

Images:

- `image` [B, H, W, C]: uint8 from 0 to 255; float32 in [0, 1] in training with an augmentation;
- `label` [B] int32: the class.

Agreement, setup "classification":

- `tokens` [B, L] int32: the words before the verb and an end token, right-padded with 0;
- `length` [B] int32: the number of tokens without padding;
- `label` [B] int32: the number of the verb, 0 singular or 1 plural.

Agreement, setup "language_model", training set:

- `tokens` [B, L] int32: a start token and the words of the sentence, right-padded with 0;
- `length` [B] int32: the number of tokens without padding;
- `label` [B, L] int32: the next token at every position, right-padded with 0;
- `mask` [B, L] bool: True at the positions that have a next token, which are the first `length`.

Agreement, setup "language_model", validation and test sets: `tokens`, `length` and `mask` as in training, and

- `target` [B, L] int32: the next token at every position, right-padded with 0;
- `label` [B] int32: the number of the verb, 0 singular or 1 plural;
- `position` [B] int32: the position whose next token is the verb;
- `choices` [B, 2] int32: the ids of the verb's singular and plural form.

L is at most the `max_length` of the task: a batch of short sentences may lose padding that all of them share.
`kdib.properties.basins` adds `counted` [B] bool, which is False for examples that only fill up the last batch.
"""
Variables = dict[str, Any]  # {"params": ..., **model_state}


class Outputs(NamedTuple):
    """The result of a forward pass: `logits` [B, K], or [B, L, V] of a language model, and named hidden values.

    `hidden` maps names to arrays [B, ...]; "penultimate" is the last hidden layer. `units` holds what a linen
    module sows in evaluation mode: for every path, one array per application of the module. Losses do not see `units`,
    and a compiled function that does not return them does not compute them.
    """

    logits: jax.Array
    hidden: Mapping[str, jax.Array]
    units: Mapping[str, tuple[jax.Array, ...]] = {}


class Model(NamedTuple):
    """A network as two pure functions.

    `init(key, batch) -> {"params": ..., **model_state}` draws the variables. `apply(params, model_state, batch, *,
    train, key) -> (Outputs, model_state)` is the forward pass. In evaluation (`train=False`) `key` may be None and
    model_state is returned unchanged. `train="statistics"` normalises batches as in training, but without dropout.
    `Batch` lists the keys of a batch. `fields` are the sizes that the network was built with.
    """

    init: Callable[[jax.Array, Batch], Variables]
    apply: Callable[..., tuple[Outputs, Any]]
    fields: tuple[tuple[str, Any], ...] = ()


def split(variables: Variables) -> tuple[Any, Variables]:
    """Split `{"params": ..., **model_state}` into (params, model_state)."""
    return variables["params"], {name: value for name, value in variables.items() if name != "params"}


@functools.cache
def nothing() -> Model:
    """The placeholder teacher of a fit that learns from labels alone: its logits are [B, 0]."""

    def apply(params, model_state, batch, *, train=False, key=None):
        del params, train, key
        return Outputs(jnp.zeros((batch["label"].shape[0], 0)), {}), model_state

    return Model(init=lambda key, batch: {"params": {}}, apply=apply)


@functools.cache
def table() -> Model:
    """A teacher with precomputed logits: its variables are {"params": {"teacher": t}, "answers": logits [T, N, K]}.

    Its logits are the rows `batch["id"]` of teacher t. Runs with different teachers, or with different losses and the
    same teacher, share the array and differ in t.
    """

    def apply(params, model_state, batch, *, train=False, key=None):
        del train, key
        return Outputs(model_state["answers"][params["teacher"], batch["id"]], {}), model_state

    def init(key, batch):
        raise TypeError("a table cannot be initialized: its variables are given, see the docstring of `table`")

    return Model(init=init, apply=apply)


def from_linen(module: Any, fields: tuple[tuple[str, Any], ...] = ()) -> Model:
    """The Model of a flax.linen module whose `__call__(batch, *, train) -> Outputs` draws from the rng "dropout" only.

    All collections except "params" (such as "batch_stats") are the model_state, which is updated in training only.
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
