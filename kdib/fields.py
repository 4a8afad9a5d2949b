"""Dataclasses from nested mappings; every error is one line that names the field."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any


def from_mapping(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """Build a dataclass from a mapping, including nested ones.

    Raises ValueError for unknown or missing fields and for values of a wrong type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be a mapping with the fields of {cls.__name__}, got {values!r}")
    hints, fields = typing.get_type_hints(cls), {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        known(f"{where}.{name}", name, fields)
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a tuple, got {value!r}")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ValueError(f"{where} must have {len(arguments)} values, got {value!r}")
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be a mapping, got {value!r}")
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is Any or isinstance(hint, types.GenericAlias):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} must be {hint.__name__}, got {value!r}")
    return value


def known(where: str, name: str, names) -> None:
    """Raise a one-line ValueError that lists the known names if `name` is not among them."""
    if name not in [*names]:  # a list, because a name from a config may be unhashable
        close = difflib.get_close_matches(str(name), list(names), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{where}: {name!r} is unknown.{hint} Known: {', '.join(names)}")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": (1,)}} -> {"a.b": [1]}, with lists for tuples, as JSON has them."""
    if not isinstance(value, Mapping):
        return {prefix: _listed(value)}
    return {
        path: leaf
        for name, item in value.items()
        for path, leaf in flatten(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value
