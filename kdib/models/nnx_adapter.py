"""Models written in flax.nnx: split once into a graph and paths, merged with the caller's arrays at every call."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.interpreters.partial_eval import dce_jaxpr

from kdib.models.base import Model

Path = tuple[str | int, ...]


class _Skeleton(NamedTuple):
    """All of a module but its arrays. nnx keeps the mode in the graph, so that there is one for each."""

    graphs: Mapping[bool | str, Any]  # by `train`
    params: tuple[Path, ...]
    rngs: tuple[tuple[Path, Any], ...]  # with the Variables, abstract: keys and counters of draws
    state: tuple[Path, ...]  # batch statistics and whatever else is neither


@functools.cache
def from_nnx(make_module: Callable[..., nnx.Module], **fields: Any) -> Model:
    """A flax.nnx module, made by `make_module(**fields, rngs=rngs)`, whose `__call__(batch)` answers Outputs.

    Training and evaluation are what `module.train()` and `module.eval()` make of it; `train="statistics"` is evaluation
    with `use_running_average=False`. Every random stream that the module holds starts anew from the `key` of apply, so
    that no random state is kept. nnx.Param are the params; all other Variables (such as nnx.BatchStat) are
    {"state": ...}, updated in training only. Both are dicts with string keys, an index in a list its number. Equal
    arguments give the same object, so that jit recognises its functions; fields must be hashable. `init` is compiled as
    a whole.

    Raises:
      ValueError: by `apply`, if the module's answer in evaluation depends on what it draws, or in training without key.
    """
    skeleton = _skeleton(functools.partial(make_module, **fields))

    @jax.jit
    def init(key, batch):
        del batch  # an nnx module knows its shapes
        _, params, _, state = _split(make_module(**fields, rngs=nnx.Rngs(key)))
        return {"params": _nest(params), **_model_state(state)}

    def apply(params, model_state, batch, *, train, key=None):
        def answer(key):
            module = nnx.merge(
                skeleton.graphs[train],
                nnx.from_flat_state(_pick(params, skeleton.params)),
                nnx.from_flat_state(_random(skeleton.rngs, key) if skeleton.rngs else []),
                nnx.from_flat_state(_pick(model_state["state"], skeleton.state) if skeleton.state else []),
            )
            outputs = module(batch)
            moved = dict(_split(module)[3]) if train else {}
            return outputs, _model_state([(path, moved[path]) for path in skeleton.state]) if train else model_state

        if skeleton.rngs and (train is not True or key is None):
            key = jax.random.key(0)  # nnx.RNN asks for one and starts from zeros
            _check_draws(answer, key)
        return answer(key)

    return Model(init=init, apply=apply, fields=tuple(fields.items()))


def _skeleton(make: Callable[..., nnx.Module]) -> _Skeleton:
    module: Any = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(jax.random.key(0))))
    graphs = {}
    statistics = functools.partial(module.set_attributes, use_running_average=False, raise_if_not_found=False)
    for train, set_mode in ((True, module.train), (False, module.eval), ("statistics", statistics)):  # on top of eval
        set_mode()
        graphs[train], params, rngs, state = _split(module)
    return _Skeleton(graphs, _paths(params), tuple(rngs), _paths(state))


def _split(module: nnx.Module) -> tuple[Any, Any, Any, Any]:
    """(graph, params, random state, other state); all but the graph as sequences of (path, Variable)."""
    graph, params, rngs, state = nnx.split(module, nnx.Param, nnx.RngState, ...)
    return graph, nnx.to_flat_state(params), nnx.to_flat_state(rngs), nnx.to_flat_state(state)


def _paths(flat: Iterable[tuple[Path, Any]]) -> tuple[Path, ...]:
    return tuple(path for path, _ in flat)


def _check_draws(answer: Callable[[jax.Array], Any], key: jax.Array) -> None:
    """Raises ValueError if what a network answers depends on the key: that it asks for one says nothing."""
    jaxpr = jax.make_jaxpr(answer)(key).jaxpr
    if dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1][0]:
        raise ValueError(
            "dropout draws from the `key` of apply(..., train=True, key=key); in evaluation nothing may draw: does the "
            "network heed module.eval()?"
        )


def _random(rngs: Iterable[tuple[Path, Any]], key: jax.Array) -> list[tuple[Path, Any]]:
    """The random state of a call: a key of its own for every stream, and nothing drawn yet."""
    leaves = []
    for number, (path, variable) in enumerate(rngs):
        shape = variable.get_value().shape  # of nnx's own vmapped layers: a key each
        if isinstance(variable, nnx.RngKey):
            own = jax.random.fold_in(key, number)
            leaves.append((path, jax.random.split(own, shape) if shape else own))
        else:
            leaves.append((path, jnp.zeros(shape, jnp.uint32)))
    return leaves


def _model_state(flat: Iterable[tuple[Path, Any]]) -> dict[str, Any]:
    """No entry at all for a module without state: an empty dict would not survive a snapshot."""
    state = _nest(flat)
    return {"state": state} if state else {}


def _nest(flat: Iterable[tuple[Path, Any]]) -> dict[str, Any]:
    """(path, Variable) pairs -> nested dicts of arrays, whose keys are strings as snapshots ask."""
    nested: dict[str, Any] = {}
    for path, variable in flat:
        node = nested
        for part in path[:-1]:
            node = node.setdefault(str(part), {})
        node[str(path[-1])] = variable[...]
    return nested


def _pick(nested: Mapping[str, Any], paths: Iterable[Path]) -> list[tuple[Path, Any]]:
    """The inverse of `_nest`, by the module's own paths."""
    return [(path, functools.reduce(lambda node, part: node[str(part)], path, nested)) for path in paths]
