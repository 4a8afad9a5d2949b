"""Your own networks, which a config names as "FILE.py:NAME".

NAME is one of

- a flax.linen module whose `__call__(self, batch, *, train)` returns `Outputs` (see `from_linen`);
- a flax.nnx module whose `__call__(self, batch)` returns `Outputs` (see `from_nnx`);
- a function that returns a `Model`, written in any library that JAX can trace.

Among the arguments of NAME, those in OF_THE_TASK are filled in by the task: `num_classes`, and `vocab_size` and
`max_length` for tokens or `image_shape` (H, W, C) for images. All others are fields of the config. Values must be
hashable, and lists become tuples.

`kdib.models.base.Batch` lists the keys of a batch with shapes and dtypes. `Outputs.logits` is float32 [B, num_classes].
For a language model `num_classes` is None, and the logits are [B, L, vocab_size]; at a position they may depend only on
the tokens up to that position, and at padding they are ignored. `Outputs.hidden` may be empty, but properties and
losses that compare hidden values read its entry "penultimate". Per-token hidden values are [B, L, D]. The network runs
under `jax.jit` and `jax.vmap`.

The file my_networks.py:

    import flax.linen as nn
    import jax.numpy as jnp
    from kdib.models.base import Outputs

    class BagOfWords(nn.Module):
        vocab_size: int
        num_classes: int
        width: int = 64

        @nn.compact
        def __call__(self, batch, *, train):
            words_BxLxD = nn.Embed(self.vocab_size, self.width)(batch["tokens"])
            real_BxLx1 = (jnp.arange(words_BxLxD.shape[1]) < batch["length"][:, None])[..., None]
            mean_BxD = jnp.where(real_BxLx1, words_BxLxD, 0).sum(1) / batch["length"][:, None]
            x_BxD = nn.Dropout(0.1, deterministic=train is not True)(mean_BxD)
            return Outputs(nn.Dense(self.num_classes)(x_BxD), {"penultimate": mean_BxD})

The line of the config: `config.models.mine = {"preset": "my_networks.py:BagOfWords", "width": 128}`.

`train` is True, False, or "statistics" for a network with batch normalisation: batch statistics as in training, but no
dropout. Hence `train is not True` for dropout, and `use_running_average=not train` for `nn.BatchNorm`.

A resumed study does not notice that the code in the file has changed. Rename the class or function when you change it.
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
    """Whether `preset` has the form "FILE.py:NAME"."""
    return ":" in preset


@functools.cache
def load(preset: str) -> Any:
    """The object that "FILE.py:NAME" names; the file runs once. Raises a one-line ValueError if it is missing."""
    file, _, name = preset.rpartition(":")
    if not Path(file).is_file():
        raise ValueError(f"model preset {preset!r}: there is no file {file!r}, expected FILE.py:NAME")
    spec: Any = importlib.util.spec_from_file_location(f"kdib_own_{Path(file).stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses such as linen modules resolve their annotations there
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        there = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == spec.name]
        raise ValueError(f"model preset {preset!r}: no {name!r} in {file}; there is: {', '.join(there) or 'nothing'}")
    return getattr(module, name)


def known_fields(preset: str) -> tuple[str, ...]:
    """The arguments that a config may set: those that neither the task nor flax provides."""
    return tuple(name for name in _arguments(preset) if name not in OF_THE_TASK)


def fields(preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for the network: the task's shapes that it takes, and every other field in `given`.

    Raises a one-line ValueError for a field that the network does not take and for a required argument without value.
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
    signature = inspect.signature(makes.__init__ if isinstance(makes, type) else makes)  # nnx hides the class signature
    return {name: own for name, own in signature.parameters.items() if name not in OF_FLAX}
