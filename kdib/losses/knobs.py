"""Keyword arguments of a function as data: leaves if they may be swept, options if they shape the program."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, get_args, get_origin

import jax
import jax.numpy as jnp

from kdib.losses import schedules


def bind(kind: str, fn: Callable[..., Any], given: Mapping[str, Any]):
    """Split all keyword arguments of fn into float32 leaves (traced) and sorted options (static)."""
    knobs = knobs_of(fn)
    for name in given:
        check_member(kind, name, knobs)
    values = {name: knob.default for name, knob in knobs.items()} | dict(given)
    missing = [name for name, value in values.items() if value is inspect.Parameter.empty]
    if missing:
        raise ValueError(f"missing {kind} {', '.join(missing)}; known: {', '.join(sorted(knobs))}")
    static = sorted(name for name, knob in knobs.items() if _is_static(knob.annotation))
    leaves = {name: _leaf(name, value, knobs[name]) for name, value in values.items() if name not in static}
    return leaves, tuple((name, _option(name, values[name], knobs[name].annotation)) for name in static)


def knobs_of(fn: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only arguments of fn except `where`, which is an array and not a setting."""
    parameters = inspect.signature(fn, eval_str=True).parameters
    return {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n != "where"}


def _is_static(annotation: Any) -> bool:
    return annotation in (int, str, bool) or get_origin(annotation) is Literal


def _option(name: str, value: Any, annotation: Any) -> Any:
    if get_origin(annotation) is Literal:
        check_member(name, value, get_args(annotation))
    elif not isinstance(value, annotation):
        raise ValueError(f"{name} must be of type {annotation.__name__}, got {value!r}")
    return value


def _leaf(name: str, value: Any, knob: inspect.Parameter) -> jax.Array:
    if knob.annotation != schedules.Knots:
        return scalar(name, value)
    knots = _array(name, value, "a list of numbers")
    if knots.ndim != 1:
        raise ValueError(f"{name} must be a list of numbers, got {value!r}")
    return knots


def _array(name: str, value: Any, kind: str) -> jax.Array:
    try:
        if isinstance(value, str):  # jnp.asarray would parse it as a number
            raise TypeError
        return jnp.asarray(value, jnp.float32)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {kind}, got {value!r}") from None


def scalar(name: str, value: Any) -> jax.Array:
    """Convert a number to a float32 leaf of shape []."""
    number = _array(name, value, "a number")
    if number.shape != ():
        raise ValueError(f"{name} must be a scalar, got shape {number.shape}; stack whole terms to sweep it")
    return number


def check_member(kind: str, name: Any, known: Collection[str]) -> None:
    """Raise a one-line ValueError that lists the known names if `name` is not among them."""
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")


def required(table: Mapping[str, Any], name: str) -> Any:
    """Return table[name], or raise a ValueError that lists the names in the table."""
    if not hasattr(table, "keys"):
        raise ValueError(f"expected a mapping with {name!r}, got {table!r}")
    if name not in table:
        raise ValueError(f"missing {name!r}; there is: {', '.join(table.keys()) or 'nothing'}")
    return table[name]


def lookup(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """Return table[name], or raise a ValueError that lists the known names."""
    check_member(kind, name, table)
    return table[name]
