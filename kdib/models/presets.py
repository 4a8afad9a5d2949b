"""Architectures by name: sizes that train on a CPU, and the published ones. Reads without jax or flax."""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdib.models.base import Model

# `*_published`: Abnar, Dehghani & Zuidema (2020), the classification networks. Their initial values are not published;
# init_scale .05 is that of the same authors' language models, and our choice for the small sizes too.
PRESETS: dict[str, dict[str, Any]] = {
    "lstm_tiny": {
        "network": "lstm",
        "embedding_size": 16,
        "hidden_size": 16,
        "layers": 1,
        "input_dropout": 0.0,
        "dropout": 0.0,
        "recurrent_dropout": 0.0,
    },
    "lstm_small": {
        "network": "lstm",
        "embedding_size": 64,
        "hidden_size": 64,
        "layers": 2,
        "input_dropout": 0.1,
        "dropout": 0.1,
        "recurrent_dropout": 0.0,
    },
    "lstm_published": {
        "network": "lstm",
        "embedding_size": 256,
        "hidden_size": 256,
        "layers": 2,
        "input_dropout": 0.2,
        "dropout": 0.8,
        "recurrent_dropout": 0.8,
    },
    "transformer_tiny": {
        "network": "transformer",
        "width": 16,
        "layers": 1,
        "heads": 2,
        "embedding_dropout": 0.0,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "init_scale": 0.05,
    },
    "transformer_small": {
        "network": "transformer",
        "width": 64,
        "layers": 2,
        "heads": 4,
        "embedding_dropout": 0.1,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "init_scale": 0.05,
    },
    "transformer_published": {
        "network": "transformer",
        "width": 128,
        "layers": 6,
        "heads": 8,
        "embedding_dropout": 0.2,
        "dropout": 0.4,
        "attention_dropout": 0.6,
        "init_scale": 0.05,
    },
    "transformer_seq_tiny": {
        "network": "transformer_seq",
        "width": 16,
        "layers": 1,
        "heads": 2,
        "embedding_dropout": 0.0,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "init_scale": 0.05,
    },
    "transformer_seq_small": {
        "network": "transformer_seq",
        "width": 64,
        "layers": 2,
        "heads": 4,
        "embedding_dropout": 0.1,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "init_scale": 0.05,
    },
    "transformer_seq_published": {
        "network": "transformer_seq",
        "width": 128,
        "layers": 6,
        "heads": 8,
        "embedding_dropout": 0.2,
        "dropout": 0.4,
        "attention_dropout": 0.6,
        "init_scale": 0.05,
    },
}


def known_fields(preset: str) -> tuple[str, ...]:
    """What may be overridden in `preset`. Raises ValueError listing the known presets where it is none of them."""
    if preset not in PRESETS:
        raise ValueError(f"unknown model preset {preset!r}; known: {', '.join(PRESETS)}")
    return tuple(name for name in PRESETS[preset] if name != "network")


def build(preset: str, *, vocab_size: int, num_classes: int, max_length: int, **overrides: Any) -> "Model":
    """The model of a preset, with some of its fields changed; an override that is None is left alone.

    Equal arguments give the same object, so that jit recognises its functions. Raises ValueError in one line for an
    unknown preset or field, listing the known ones, and for a value that the field cannot take.
    """
    known = known_fields(preset)
    changes = {name: value for name, value in overrides.items() if value is not None}
    for name in changes:
        if name not in known:
            raise ValueError(f"unknown field {name!r} of model preset {preset!r}; known: {', '.join(known)}")
    sizes = {"vocab_size": vocab_size, "num_classes": num_classes, "max_length": max_length}
    fields = {**sizes, **PRESETS[preset], **changes}
    _check(preset, fields)
    return _build(**fields)


def _check(preset: str, fields: dict[str, Any]) -> None:
    """Raise ValueError where a value is of the wrong kind or out of range."""
    for name, value in fields.items():
        if name == "network":
            continue
        rate, whole = name.endswith("dropout"), not name.endswith(("dropout", "scale"))
        expected = "a number in [0, 1)" if rate else "a whole number > 0" if whole else "a number > 0"
        right_type = type(value) is int or (type(value) is float and not whole)
        if not right_type or not (0 <= value < 1 if rate else value > 0):
            raise ValueError(f"{name} of model preset {preset!r} must be {expected}, got {value!r}")
    if "heads" in fields and fields["width"] % fields["heads"]:
        raise ValueError(
            f"heads must divide width in model preset {preset!r}, got heads={fields['heads']}, width={fields['width']}"
        )


@cache
def _build(network: str, max_length: int, **fields: Any) -> "Model":
    from kdib.models.base import from_linen
    from kdib.models.recurrent import LSTM
    from kdib.models.transformer import Transformer

    if network == "lstm":
        return from_linen(LSTM(**fields))
    return from_linen(Transformer(max_length=max_length, causal=network == "transformer_seq", **fields))
