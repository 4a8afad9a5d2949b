"""The symmetries of every family of networks, as a table: which axes of which leaves run over the same units."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Axis:
    """An axis of copies * units * width values that runs over the units of `group`.

    The copies lie side by side and are permuted alike, as the four gates of an LSTM; `width` neighbours make a unit, as
    the directions of an attention head.
    """

    group: str
    copies: int = 1
    width: int = 1


class Family(NamedTuple):
    """How the leaves of a family are named and what their axes run over.

    In a name # is the number of a layer and * any word; axes that are not given stay. In groups {i} is that number,
    {before} what the layer reads, {after} what it hands on, {last} what the last one hands on. `stream` names what a
    layer hands on: a group of its own, or that of the layer before where a leaf of `changes` is missing; what the first
    one reads is `first`, or no group.
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
