"""Overrides on the command line: `--config.train.steps=800`, `--config.fits.distilled.augment.name=shift`.

Any field of a study may be overridden, including those that its config leaves to their defaults: a fit's `augment`, the
`downsampling` of a network, an argument of another schedule. (The flags of ml_collections accept only fields that the
config declares with a value.) The values are checked with the rest of the configuration.
"""

import ast
import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from kdib.config import Study
from kdib.fields import known


def override(config: dict[str, Any], path: str, text: str) -> None:
    """Set the field at `path`, such as "train.steps", to the Python literal `text`, or to `text` if it is none.

    Raises:
      ValueError: in one line, for a field that no config has; the message lists the known ones.
    """
    node, hint, parts = config, Study, path.split(".")
    for i, part in enumerate(parts):
        if not isinstance(node, dict):
            raise ValueError(f"--config.{path}: --config.{'.'.join(parts[:i])} has no fields; it is {node!r}")
        _check(f"--config.{path}", part, node, hint, is_last=i == len(parts) - 1)
        hint = _fields(hint).get(part, _values(hint))
        if i < len(parts) - 1:
            node = node.setdefault(part, {})
    node[parts[-1]] = text if isinstance(node.get(parts[-1]), str) else _read(text)


def _check(where: str, part: str, node: Mapping[str, Any], hint: Any, *, is_last: bool) -> None:
    """Raise ValueError unless the field exists, or may exist as an argument of a network, a task or a loss term."""
    fields = _fields(hint)
    if part not in node and not (is_last and not fields and _values(hint) is Any):
        known(where, part, dict.fromkeys((*node, *fields)))


def _fields(hint: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(hint) if dataclasses.is_dataclass(hint) else {}


def _values(hint: Any) -> Any:
    """The type of a mapping's values."""
    arguments = typing.get_args(hint)
    return arguments[1] if len(arguments) == 2 else Any


def _read(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
