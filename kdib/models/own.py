"""Networks that a config names as "FILE.py:NAME".

NAME is a class of flax.linen or flax.nnx (see `from_linen`, `from_nnx` for what it answers), or a function that makes a
Model, of any library. The task gives the OF_THE_TASK that it takes; its other arguments are fields of the config. What
the file says is not compared when a run resumes: change the name with the code.
"""

import functools
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OF_THE_TASK = ("num_classes", "vocab_size", "max_length", "image_shape")
OF_FLAX = ("self", "parent", "name", "rngs")


def is_own(preset: str) -> bool:
    """Whether `preset` names a file and what is in it."""
    return ":" in preset


@functools.cache
def load(preset: str) -> Any:
    """What "FILE.py:NAME" names; the file is run once. Raises ValueError in one line where there is none."""
    file, _, name = preset.rpartition(":")
    if not Path(file).is_file():
        raise ValueError(f"model preset {preset!r}: there is no file {file!r}, expected FILE.py:NAME")
    spec: Any = importlib.util.spec_from_file_location(f"kdib_own_{Path(file).stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses, such as linen's modules, look up annotations
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        there = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == spec.name]
        raise ValueError(f"model preset {preset!r}: no {name!r} in {file}; there is: {', '.join(there) or 'nothing'}")
    return getattr(module, name)


def known_fields(preset: str) -> tuple[str, ...]:
    """What a config may set: the arguments that neither the task nor flax gives."""
    return tuple(name for name in _arguments(preset) if name not in OF_THE_TASK)


def fields(preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What it is made with: of the task's shapes those that it takes, all else as given.

    Raises ValueError in one line for a field that it does not take, and for one that it needs and nothing gives.
    """
    arguments = _arguments(preset)
    for name in given:
        if name not in arguments and (name not in OF_THE_TASK or name == "num_classes"):
            raise ValueError(
                f"unknown field {name!r} of model {preset!r}; it takes: {', '.join(arguments) or 'nothing'}"
            )
    missing = [name for name, own in arguments.items() if own.default is own.empty and name not in given]
    if missing:
        raise ValueError(f"model {preset!r} needs {', '.join(missing)}, which neither the config nor the task gives")
    return {name: value for name, value in given.items() if name in arguments}


def _arguments(preset: str) -> dict[str, inspect.Parameter]:
    makes = load(preset)
    signature = inspect.signature(makes.__init__ if isinstance(makes, type) else makes)  # nnx's classes hide it
    return {name: own for name, own in signature.parameters.items() if name not in OF_FLAX}
