"""Any pytree of arrays as a table of its leaves and their bytes, and back, bit for bit.

A table has one row a leaf, [path, dtype, shape, key]: path is a list of names and indices such as
["layers", 0, "kernel"]; key is None or names the implementation of a typed PRNG key, stored as its data.
Rows and bytes go in the order of the paths, so that a NamedTuple and a dict of the same fields give the same.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

Path = tuple[str | int, ...]
Table = list[list]


def fingerprint(tree: Any) -> str:
    """SHA-256 over path, dtype, shape and bytes of every leaf.

    A typed PRNG key counts as the name of its implementation and its data, a Python number as the array that
    jax makes of it. Raises ValueError for a leaf that is no array of numbers or a dict key that is no string.
    """
    return digest(*pack(tree))


def digest(table: Table, packed: np.ndarray) -> str:
    """The fingerprint of a packed tree."""
    sha = hashlib.sha256(json.dumps(table).encode())
    sha.update(packed.data)
    return sha.hexdigest()


def pack(tree: Any) -> tuple[Table, np.ndarray]:
    """Tree -> (table, bytes uint8 [n])."""
    leaves = _flatten(tree)
    paths = sorted(leaves, key=json.dumps)
    table = [[list(path), *_describe(leaves[path])] for path in paths]
    data = jax.device_get([_data(leaves[path]) for path in paths])
    parts = [np.asarray(leaf).reshape(-1).view(np.uint8) for leaf in data]
    return table, np.concatenate([np.zeros(0, np.uint8), *parts])


def unpack(table: Table, packed: np.ndarray) -> list[np.ndarray]:
    """The host arrays of `table`, in its order, as views of `packed` uint8 [n]."""
    sizes = [math.prod(shape) * jnp.dtype(dtype).itemsize for _, dtype, shape, _ in table]
    parts = np.split(packed, np.cumsum(sizes)[:-1])
    return [part.view(dtype).reshape(shape) for part, (_, dtype, shape, _) in zip(parts, table, strict=True)]


def build(table: Table, leaves: Sequence[np.ndarray], template: Any = None) -> Any:
    """The tree of `table` with `leaves` (of its shapes, or with more axes in front) on the default device.

    Its structure is the template's, or dicts for names and lists for indices. Raises ValueError saying
    expected and actual if the template's paths, dtypes or shapes are not the table's.
    """
    arrays = {tuple(path): _to_device(leaf, key) for (path, _, _, key), leaf in zip(table, leaves, strict=True)}
    if template is None:
        return _nest(arrays)
    wanted = _flatten(template)
    _check_agreement(wanted, table)
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[path] for path in wanted])


def _check_agreement(wanted: Mapping[Path, Any], table: Table) -> None:
    expected = {path: _describe(leaf) for path, leaf in wanted.items()}
    actual = {tuple(path): described for path, *described in table}
    differences = [
        f"{'/'.join(map(str, path))}: expected {expected.get(path)}, actual {actual.get(path)}"
        for path in dict.fromkeys([*expected, *actual])
        if expected.get(path) != actual.get(path)
    ]
    if differences:
        shown = "; ".join(differences[:5])
        raise ValueError(f"the template differs from what is stored in {len(differences)} leaves: {shown}")


def _flatten(tree: Any) -> dict[Path, Any]:
    """Tree -> {path: array}, in the tree's own order."""
    return {
        tuple(_name(entry) for entry in entries): leaf if hasattr(leaf, "dtype") else _as_array(leaf)
        for entries, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _name(entry: Any) -> str | int:
    match entry:
        case DictKey(key=str(name)) | GetAttrKey(name=name):
            return name
        case SequenceKey(idx=index) | FlattenedIndexKey(key=index):
            return index
    raise ValueError(f"expected dict keys that are strings, found {entry}")


def _as_array(leaf: Any) -> jax.Array:
    if not isinstance(leaf, bool | int | float | complex):
        raise ValueError(f"expected leaves that are arrays of numbers, found {leaf!r}")
    return jnp.asarray(leaf)


def _describe(leaf: Any) -> list:
    """Array or ShapeDtypeStruct -> [dtype, shape, key]."""
    if _is_key(leaf):
        data = jax.eval_shape(jax.random.key_data, leaf)
        return [data.dtype.name, list(data.shape), jax.random.key_impl(jnp.empty((), leaf.dtype))]
    if not (jnp.issubdtype(leaf.dtype, np.number) or leaf.dtype == np.bool_):
        raise ValueError(f"expected leaves that are arrays of numbers, found one of {leaf.dtype}")
    return [np.dtype(leaf.dtype).name, list(leaf.shape), None]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _to_device(leaf: np.ndarray, key: str | None) -> Any:
    if key is not None:
        return jax.random.wrap_key_data(jnp.array(leaf), impl=key)
    if jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
        return leaf.copy()  # 64 bits, which jax without x64 would halve
    return jnp.array(leaf)


def _nest(arrays: Mapping[Path, Any]) -> Any:
    """{path: array} -> nested dicts and lists; an index without arrays holds None."""
    if () in arrays:
        return arrays[()]
    children: dict[str | int, dict[Path, Any]] = {}
    for (first, *rest), leaf in arrays.items():
        children.setdefault(first, {})[tuple(rest)] = leaf
    nested = {name: _nest(child) for name, child in children.items()}
    indices = [name for name in nested if isinstance(name, int)]
    if len(indices) < len(nested) or not nested:
        return nested
    return [nested.get(index) for index in range(max(indices) + 1)]
