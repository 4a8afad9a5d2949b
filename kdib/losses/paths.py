"""Paths into the context of a loss, such as "student.hidden.block2"."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax


def resolve(context: Any, path: str) -> Any:
    """Return the value at a dotted path through mapping keys and attributes.

    Raises:
      ValueError: if the path does not exist; the message lists the names and array shapes at the point of failure.
    """
    node, place = context, "the context"
    for part in path.split("."):
        children = _children(node)
        if part not in children:
            there = ", ".join(_described(name, child) for name, child in children.items()) or "nothing"
            raise ValueError(f"no {part!r} in {place} (path {path!r}); there is: {there}")
        node, place = children[part], repr(part)
    return node


def _described(name: Any, child: Any) -> str:
    shape = getattr(child, "shape", None)
    return str(name) if shape is None else f"{name} {list(shape)}"


def _children(node: Any) -> Mapping[str, Any]:
    if isinstance(node, Mapping):
        return node
    if hasattr(node, "_asdict"):  # a NamedTuple
        return node._asdict()
    if dataclasses.is_dataclass(node):
        return {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    return {} if isinstance(node, jax.Array) else getattr(node, "__dict__", {})
