"""The permutation symmetries of each family of networks, as a table: which axes of which leaves share their units."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Axis:
    """An axis of copies * units * width values that runs over the units of `group`.

    Copies lie side by side and are permuted in the same way, like the four gates of an LSTM. `width` neighbouring
    values form one unit, like the dimensions of an attention head.
    """

    group: str
    copies: int = 1
    width: int = 1


class Family(NamedTuple):
    """The names of a family's leaves and the groups of units that their axes run over.

    In a leaf's name, # stands for the number of a layer and * for any word; axes that are not listed are not permuted.
    In a group's name, {i} is the number of the layer, {before} the group of its input, {after} the group of its output,
    and {last} the output group of the last layer.

    `stream` is the name of a layer's output group. If `changes` is given, a layer without that leaf keeps the group of
    the layer before it. `first` is the input group of the first layer; "" means that the input is not permuted.
    """

    leaves: dict[str, tuple[Axis | None, ...]]
    stream: str = ""
    first: str = ""
    changes: str = ""


BEFORE, AFTER, LAST = Axis("{before}"), Axis("{after}"), Axis("{last}")
GATES = Axis("{after}", copies=4)
HEADS, UNITS = Axis("block{i}/attention/heads"), Axis("block{i}/units")
STEM, INNER = Axis("stem"), Axis("block{i}/inner")
HEAD = {"params/head/kernel": (LAST,), "params/head/bias": ()}

FAMILIES = {
    "mlp": Family(
        {"params/layer#/kernel": (BEFORE, AFTER), "params/layer#/bias": (AFTER,), "*/norm#/*": (AFTER,), **HEAD},
        stream="hidden{i}",
    ),
    "cnn": Family(
        {
            "params/conv#/kernel": (None, None, BEFORE, AFTER),
            "params/conv#/bias": (AFTER,),
            "*/norm#/*": (AFTER,),
            **HEAD,
        },
        stream="conv{i}",
    ),
    "resnet": Family(
        {
            "params/stem/kernel": (None, None, None, STEM),
            "*/stem_norm/*": (STEM,),
            "params/block#/conv1/kernel": (None, None, BEFORE, INNER),
            "*/block#/norm1/*": (INNER,),
            "params/block#/conv2/kernel": (None, None, INNER, AFTER),
            "*/block#/norm2/*": (AFTER,),
            "params/block#/shortcut/kernel": (None, None, BEFORE, AFTER),
            "*/block#/shortcut_norm/*": (AFTER,),
            **HEAD,
        },
        stream="block{i}",
        first="stem",
        changes="params/block{i}/shortcut/kernel",
    ),
    "lstm": Family(
        {
            "params/embedding/embedding": (),
            "params/layer#/input": (BEFORE, GATES),
            "params/layer#/recurrent": (AFTER, GATES),
            "params/layer#/bias": (GATES,),
            "params/projection/kernel": (LAST,),
            "params/projection/bias": (),
            **HEAD,
        },
        stream="block{i}",
    ),
    "transformer": Family(
        {
            **{f"params/block#/attention/{name}/kernel": (None, HEADS) for name in ("query", "key", "value")},
            **{f"params/block#/attention/{name}/bias": (HEADS,) for name in ("query", "key", "value")},
            "params/block#/attention/out/kernel": (HEADS,),
            "params/block#/attention/out/bias": (),
            "params/block#/expand/kernel": (None, UNITS),
            "params/block#/expand/bias": (UNITS,),
            "params/block#/contract/kernel": (UNITS,),
            "params/block#/contract/bias": (),
            "params/block#/*_norm/*": (),
            "params/embedding/*": (),
            "params/cls": (),
            "params/norm/*": (),
            "params/head/*": (),
        }
    ),
}
