"""Models from flax.nnx modules: split once into graph and paths, and merged with the given arrays at every call."""

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
    """A module without its arrays. nnx stores the mode in the graph, so there is one graph per mode."""

    graphs: Mapping[bool | str, Any]  # by `train`
    params: tuple[Path, ...]
    rngs: tuple[tuple[Path, Any], ...]  # with abstract Variables: keys and counters
    state: tuple[Path, ...]  # all other Variables, such as batch statistics


@functools.cache
def from_nnx(make_module: Callable[..., nnx.Module], **fields: Any) -> Model:
    """The Model of a flax.nnx module from `make_module(**fields, rngs=rngs)` whose `__call__(batch)` returns Outputs.

    `module.train()` and `module.eval()` set training and evaluation mode; `train="statistics"` is evaluation with
    `use_running_average=False`. Every random stream of the module restarts from the `key` of `apply`, so no random
    state is kept. The nnx.Param are the params. All other Variables (such as nnx.BatchStat) are {"state": ...}, which
    is updated in training only. Both are dicts with string keys; a list index becomes its decimal string. Equal
    arguments return the same object, so that jit does not compile again; fields must be hashable. `init` is compiled as
    a whole.

    Raises:
      ValueError: by `apply`, if the output depends on random draws in evaluation, or in training without a key.
    """
    skeleton = _skeleton(functools.partial(make_module, **fields))

    @jax.jit
    def init(key, batch):
        del batch  # an nnx module does not infer shapes from a batch
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
            key = jax.random.key(0)  # nnx.RNN requests a key, but starts from zeros
            _check_draws(answer, key)
        return answer(key)

    return Model(init=init, apply=apply, fields=tuple(fields.items()))


def _skeleton(make: Callable[..., nnx.Module]) -> _Skeleton:
    module: Any = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(jax.random.key(0))))
    graphs = {}
    statistics = functools.partial(module.set_attributes, use_running_average=False, raise_if_not_found=False)
    for train, set_mode in ((True, module.train), (False, module.eval), ("statistics", statistics)):  # after eval
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
    """Raise ValueError if the output of a network depends on the key. Requesting a key without using it is allowed."""
    jaxpr = jax.make_jaxpr(answer)(key).jaxpr
    if dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1][0]:
        raise ValueError(
            "dropout draws from the `key` of apply(..., train=True, key=key); in evaluation nothing may draw: does "
            "module.eval() switch off all randomness of the network?"
        )


def _random(rngs: Iterable[tuple[Path, Any]], key: jax.Array) -> list[tuple[Path, Any]]:
    """The random state at the start of a call: a separate key for every stream, and counters at zero."""
    leaves = []
    for number, (path, variable) in enumerate(rngs):
        shape = variable.get_value().shape  # layers made by nnx.vmap have one key each
        if isinstance(variable, nnx.RngKey):
            own = jax.random.fold_in(key, number)
            leaves.append((path, jax.random.split(own, shape) if shape else own))
        else:
            leaves.append((path, jnp.zeros(shape, jnp.uint32)))
    return leaves


def _model_state(flat: Iterable[tuple[Path, Any]]) -> dict[str, Any]:
    """{"state": ...}, or {} for a module without state, because a snapshot does not keep an empty dict."""
    state = _nest(flat)
    return {"state": state} if state else {}


def _nest(flat: Iterable[tuple[Path, Any]]) -> dict[str, Any]:
    """(path, Variable) pairs -> nested dicts of arrays, with the string keys that snapshots require."""
    nested: dict[str, Any] = {}
    for path, variable in flat:
        node = nested
        for part in path[:-1]:
            node = node.setdefault(str(part), {})
        node[str(path[-1])] = variable[...]
    return nested


def _pick(nested: Mapping[str, Any], paths: Iterable[Path]) -> list[tuple[Path, Any]]:
    """The inverse of `_nest`, given the paths of the module."""
    return [(path, functools.reduce(lambda node, part: node[str(part)], path, nested)) for path in paths]
