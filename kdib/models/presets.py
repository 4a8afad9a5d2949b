"""Named architectures: sizes that train on a CPU and the published sizes. Importing this file needs no jax or flax."""

from functools import cache
from typing import TYPE_CHECKING, Any

from kdib.models import own

if TYPE_CHECKING:
    from kdib.models.base import Model


def _lstm(size: int, layers: int, input_dropout=0.0, dropout=0.0, recurrent_dropout=0.0) -> dict[str, Any]:
    rates = {"input_dropout": input_dropout, "dropout": dropout, "recurrent_dropout": recurrent_dropout}
    return {"network": "lstm", "embedding_size": size, "hidden_size": size, "layers": layers, **rates}


def _transformer(network: str, width: int, layers: int, heads: int, dropout=0.0, embedding_dropout=0.0, attention=0.0):
    rates = {"dropout": dropout, "embedding_dropout": embedding_dropout, "attention_dropout": attention}
    return {"network": network, "width": width, "layers": layers, "heads": heads, **rates, "init_scale": 0.05}


def _mlp(widths: tuple[int, ...], dropout=0.0, batch_norm=False) -> dict[str, Any]:
    return {"network": "mlp", "widths": widths, "dropout": dropout, "batch_norm": batch_norm}


def _cnn(channels: tuple[int, ...], downsampling="none") -> dict[str, Any]:
    return {"network": "cnn", "channels": channels, "downsampling": downsampling, "padding": "zero", "dropout": 0.0}


# `*_published`: Abnar, Dehghani & Zuidema (2020); `lm_` marks their language models. The initialization of the
# classification networks is not published: all sizes use the init_scale of the language models, 0.05. The layers and
# heads of the small language Transformer are not published either: they are those of the large one. `*_abnar`: their
# networks for MNIST. `mlp_1`, `cnn_1`, ...: the poster of Wong, Fermin, Zheng, Park & Wang, which does not give kernel
# sizes or downsampling. `resnet_*`: He et al. (2016) for CIFAR-10, named by their number of layers.
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
    "mlp_tiny": _mlp((16,)),
    "mlp_small": _mlp((256, 128), 0.1),
    "mlp_1": _mlp((2000, 1000, 100), 0.3),
    "mlp_2": _mlp((1024, 512, 256, 128), 0.3),
    "mlp_abnar": _mlp((512, 128, 32), 0.1, batch_norm=True),
    "cnn_tiny": _cnn((8, 16), "stride"),
    "cnn_small": _cnn((16, 32, 64), "stride"),
    "cnn_1": _cnn((32, 64, 128, 256)),
    "cnn_2": _cnn((64, 64, 128, 128)),
    "cnn_abnar": {
        "network": "maxout_cnn",
        "channels": (128, 64, 64),
        "units": (128, 64, 16),
        "pool": (1, 2, 2),
        "dropout": 0.3,
    },
    "resnet_8": {"network": "resnet", "channels": (16, 32, 64), "blocks": 1},
    "resnet_20": {"network": "resnet", "channels": (16, 32, 64), "blocks": 3},
}
READS = {"tokens": ("vocab_size", "max_length"), "images": ("image_shape",)}  # and the shapes that give their size
IMAGE_NETWORKS = ("mlp", "cnn", "maxout_cnn", "resnet")
CHOICES = {"downsampling": ("none", "pool", "stride"), "padding": ("zero", "circular")}


def known_fields(preset: str) -> tuple[str, ...]:
    """The fields of `preset` that a config may override. Raises ValueError, listing the presets, for an unknown one."""
    if own.is_own(preset):
        return own.known_fields(preset)
    if preset not in PRESETS:
        raise ValueError(f"unknown model preset {preset!r}; known: {', '.join(PRESETS)}, or FILE.py:NAME")
    return tuple(name for name in PRESETS[preset] if name != "network")


def reads(preset: str) -> str:
    """The kind of input that a preset takes: "tokens" or "images"."""
    known_fields(preset)
    return "images" if PRESETS[preset]["network"] in IMAGE_NETWORKS else "tokens"


def build(preset: str, *, num_classes: int | None, **shapes_and_overrides: Any) -> "Model":
    """Build the model of a preset with some of its fields overridden; an override that is None is ignored.

    The keywords include the shapes of the task: `vocab_size` and `max_length` for tokens, `image_shape` (H, W, C) for
    images. `num_classes=None` builds a language model whose output is tied to the embedding. Lists become tuples. A
    preset "FILE.py:NAME" is a network of your own, see `own.py`.

    Equal arguments return the same object, so that jit does not compile again. Raises a one-line ValueError for an
    unknown preset or field, listing the known ones, for an invalid value, and for a preset whose kind of input the
    task does not have.
    """
    known = known_fields(preset)
    given = {name: _hashable(value) for name, value in shapes_and_overrides.items() if value is not None}
    if own.is_own(preset):
        return _build(preset, **own.fields(preset, {"num_classes": num_classes, **given}))
    shapes = {name: given.pop(name) for names in READS.values() for name in names if name in given}
    _check_shapes(preset, shapes)
    for name in given:
        if name not in known:
            raise ValueError(f"unknown field {name!r} of model preset {preset!r}; known: {', '.join(known)}")
    fields = {**shapes, "num_classes": num_classes, **PRESETS[preset], **given}
    _check(preset, fields)
    return _build(**fields)


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, list | tuple) else value


def _check_shapes(preset: str, shapes: dict[str, Any]) -> None:
    """Raise ValueError if the task does not have the input that the preset reads, or if a shape is missing."""
    mine = reads(preset)
    for kind, names in READS.items():
        if kind != mine and any(name in shapes for name in names):
            raise ValueError(f"model preset {preset!r} reads {mine}, but the task has {kind}")
    missing = [name for name in READS[mine] if name not in shapes]
    if missing:
        raise ValueError(f"model preset {preset!r} reads {mine} and needs {', '.join(missing)}")


def _check(preset: str, fields: dict[str, Any]) -> None:
    """Raise ValueError for a value of the wrong type or out of range."""
    for name, value in fields.items():
        language = name == "num_classes" and value is None and reads(preset) == "tokens"
        if name == "network" or language:
            continue
        expected, right = _expectation(name, value, PRESETS[preset].get(name))
        if not right:
            raise ValueError(f"{name} of model preset {preset!r} must be {expected}, got {value!r}")
    if "heads" in fields and fields["width"] % fields["heads"]:
        raise ValueError(
            f"heads must divide width in model preset {preset!r}, got heads={fields['heads']}, width={fields['width']}"
        )
    if "units" in fields:
        _check_maxout(preset, fields["channels"], fields["units"], fields["pool"])


def _expectation(name: str, value: Any, default: Any) -> tuple[str, bool]:
    """Describe what a field must be, and say whether `value` is."""
    if name in CHOICES:
        return f"one of {', '.join(CHOICES[name])}", value in CHOICES[name]
    if isinstance(default, bool):
        return "True or False", isinstance(value, bool)
    if name == "image_shape":
        return "(height, width, channels), whole numbers > 0", _sizes(value) and len(value) == 3
    if isinstance(default, tuple):
        return "a tuple of whole numbers > 0, such as (64, 32)", _sizes(value)
    return _number(name, value)


def _number(name: str, value: Any) -> tuple[str, bool]:
    right_type = type(value) in (int, float)
    if name.endswith("dropout"):
        return "a number in [0, 1)", right_type and 0 <= value < 1
    if name.endswith("scale"):
        return "a number > 0", right_type and value > 0
    return "a whole number > 0", type(value) is int and value > 0


def _sizes(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(type(size) is int and size > 0 for size in value)


def _check_maxout(preset: str, channels: tuple[int, ...], units: tuple[int, ...], pool: tuple[int, ...]) -> None:
    if not len(channels) == len(units) == len(pool) or any(c % u for c, u in zip(channels, units, strict=False)):
        raise ValueError(
            f"channels, units and pool of model preset {preset!r} must have equal lengths, units divide channels, got "
            f"channels={channels}, units={units}, pool={pool}"
        )


@cache
def _build(network: str, **fields: Any) -> "Model":
    from flax import linen

    module = own.load(network) if own.is_own(network) else network_class(network)
    if not isinstance(module, type):
        return module(**fields)
    if network == "lstm":
        fields.pop("max_length")
    if network in ("transformer", "transformer_seq", "ut_seq"):
        fields |= {"causal": network != "transformer", "shared": network == "ut_seq"}
    if issubclass(module, linen.Module):
        from kdib.models.base import from_linen

        return from_linen(module(**fields), tuple(fields.items()))
    from kdib.models.nnx_adapter import from_nnx  # imports flax.nnx, which most studies do not need

    return from_nnx(module, **fields)


def network_class(network: str) -> Any:
    """The class of a preset's `network`, from flax.linen or flax.nnx; its arguments are the fields of the preset."""
    from kdib.models import convnet, mlp, recurrent, transformer

    return {
        "lstm": recurrent.LSTM,
        "transformer": transformer.Transformer,
        "transformer_seq": transformer.Transformer,
        "ut_seq": transformer.Transformer,
        "mlp": mlp.MLP,
        "cnn": convnet.CNN,
        "maxout_cnn": convnet.MaxoutCNN,
        "resnet": convnet.ResNet,
    }[network]
