"""Architectures by name: sizes that train on a CPU, and the published ones. Reads without jax or flax."""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdib.models.base import Model


def _lstm(size: int, layers: int, input_dropout=0.0, dropout=0.0, recurrent_dropout=0.0) -> dict[str, Any]:
    rates = {"input_dropout": input_dropout, "dropout": dropout, "recurrent_dropout": recurrent_dropout}
    return {"network": "lstm", "embedding_size": size, "hidden_size": size, "layers": layers, **rates}


def _transformer(network: str, width: int, layers: int, heads: int, dropout=0.0, embedding_dropout=0.0, attention=0.0):
    rates = {"dropout": dropout, "embedding_dropout": embedding_dropout, "attention_dropout": attention}
    return {"network": network, "width": width, "layers": layers, "heads": heads, **rates, "init_scale": 0.05}


# `*_published`: Abnar, Dehghani & Zuidema (2020); `lm_` are their language models. Initial values of the classification
# networks are not published: init_scale .05 is that of the language models, and our choice for the small sizes too. Nor
# are the layers and heads of the small language Transformer: they are the large one's here.
PRESETS: dict[str, dict[str, Any]] = {
    "lstm_tiny": _lstm(16, 1),
    "lstm_small": _lstm(64, 2, 0.1, 0.1),
    "lstm_published": _lstm(256, 2, 0.2, 0.8, 0.8),
    "lm_lstm_published": _lstm(1024, 2, 0.2, 0.5, 0.5),
    "lm_small_lstm_published": _lstm(512, 2, 0.2, 0.3, 0.3),
    "transformer_tiny": _transformer("transformer", 16, 1, 2),
    "transformer_small": _transformer("transformer", 64, 2, 4, 0.1, 0.1, 0.1),
    "transformer_published": _transformer("transformer", 128, 6, 8, 0.4, 0.2, 0.6),
    "transformer_seq_tiny": _transformer("transformer_seq", 16, 1, 2),
    "transformer_seq_small": _transformer("transformer_seq", 64, 2, 4, 0.1, 0.1, 0.1),
    "transformer_seq_published": _transformer("transformer_seq", 128, 6, 8, 0.4, 0.2, 0.6),
    "ut_seq_tiny": _transformer("ut_seq", 16, 2, 2),
    "ut_seq_small": _transformer("ut_seq", 64, 2, 4, 0.1, 0.1, 0.1),
    "ut_seq_published": _transformer("ut_seq", 256, 6, 8, 0.4, 0.2, 0.6),
    "lm_transformer_published": _transformer("transformer_seq", 512, 6, 8, 0.4, 0.2, 0.6),
    "lm_small_transformer_published": _transformer("transformer_seq", 256, 6, 8, 0.2, 0.2, 0.3),
}


def known_fields(preset: str) -> tuple[str, ...]:
    """What may be overridden in `preset`. Raises ValueError listing the known presets where it is none of them."""
    if preset not in PRESETS:
        raise ValueError(f"unknown model preset {preset!r}; known: {', '.join(PRESETS)}")
    return tuple(name for name in PRESETS[preset] if name != "network")


def build(preset: str, *, vocab_size: int, num_classes: int | None, max_length: int, **overrides: Any) -> "Model":
    """The model of a preset, with some of its fields changed; an override that is None is left alone.

    `num_classes` None makes it a language model, with the output tied to the embedding.

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
        if name == "network" or (name == "num_classes" and value is None):
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
    causal, shared = network != "transformer", network == "ut_seq"
    return from_linen(Transformer(max_length=max_length, causal=causal, shared=shared, **fields))
