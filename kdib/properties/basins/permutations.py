"""Which units of a network may change places without changing what it computes, described as data.

A `Spec` says of every leaf which of its axes run over which group of units; a `Permutation` is an order of the units of
every group. Families that are covered, recognised by the names of their leaves, and what is permuted in them:

- mlp, cnn: the units of every hidden layer, the filters of every convolution.
- resnet: the residual stream of a stage is one group, shared by its blocks and by the shortcut that leads into it; the
  inner channels of every block are a group of their own.
- lstm: the units of every layer, all four gates alike. The embedding stays.
- transformer (bidirectional, causal, or with one shared block): whole attention heads, and the hidden units of every
  block's MLP. Left out are the residual stream of width D, which norms, positions and embedding would have to follow,
  and the order of the D / H directions within a head.

Networks with maxout are refused: filters under one maximum would have to be permuted within and between maxima.
Dropout draws its masks by position, so what is computed stays the same in evaluation mode only.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from kdib.models.base import Variables
from kdib.properties.basins.families import FAMILIES, HEADS, Axis, Family

Rule = tuple[tuple[Axis | None, ...], str | None]  # a leaf's axes as in its table; its layer's number, "" if shared
Permutation = dict[str, np.ndarray]  # by group: unit n of the permuted network was unit permutation[group][n]


@dataclass(frozen=True)
class Spec:
    """By the path of every leaf, such as "params/layer1/kernel": what each of its axes runs over; None stays."""

    family: str
    axes: Mapping[str, tuple[Axis | None, ...]]


def spec_of(variables: Variables, *, heads: int | None = None) -> Spec:
    """What may be permuted in a network.

    Args:
      variables: {"params": ..., **model_state} of one network, arrays or their shapes.
      heads: of a Transformer, whose parameters do not tell how many it has; of others it is not used.

    Raises:
      ValueError: for a network of no known family, with a leaf that is in none; for a Transformer without `heads`, or
        whose width they do not divide; where leaves disagree about how many units a group has, as with maxout.

    Reference: Ainsworth, Hayase & Srinivasa, Git Re-Basin: Merging Models modulo Permutation Symmetries, ICLR (2023)
    (https://arxiv.org/abs/2209.04836).
    """
    found = leaves(variables)
    name, rules = _family(found)
    names = _names(FAMILIES[name], rules)
    axes = {}
    for path, leaf in found.items():
        template, i = rules[path]
        given = [_filled(axis, names[i], leaf.shape[k], heads) for k, axis in enumerate(template)]
        axes[path] = (*given, *[None] * (len(leaf.shape) - len(given)))
    spec = Spec(name, axes)
    sizes(spec, variables)
    return spec


def leaves(variables: Variables) -> dict[str, Any]:
    """The leaves of a tree by path, such as "params/layer1/kernel", in the tree's order."""
    return {_path(entries): leaf for entries, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]}


def sizes(spec: Spec, variables: Variables) -> dict[str, int]:
    """How many units each group has. `variables` may lack leaves of `spec`, such as the statistics of norms.

    Raises:
      ValueError: for a leaf that `spec` does not know or that has other axes, or that disagrees with another one.
    """
    found: dict[str, tuple[int, str]] = {}
    for path, leaf in leaves(variables).items():
        axes = spec.axes.get(path)
        if axes is None or len(axes) != len(leaf.shape):
            raise ValueError(
                f"{path} {list(leaf.shape)} is no leaf of this {spec.family}: make the spec of this network"
            )
        for axis, length in zip(axes, leaf.shape, strict=True):
            if axis is not None:
                _count(found, axis, length, path)
    return {group: n for group, (n, _) in found.items()}


def apply(spec: Spec, permutation: Permutation, variables: Variables) -> Variables:
    """The same network with its units in another order; parameters and the statistics of norms move together.

    Args:
      spec: of the network.
      permutation: of every group; arrays of the host.
      variables: {"params": ...} with or without the model state; numpy or jax arrays, traced ones too.

    Raises:
      ValueError: for groups or numbers of units that are not the network's, or an order that is none.
    """
    check(permutation, sizes(spec, variables))
    return jax.tree_util.tree_map_with_path(
        lambda entries, leaf: permuted(leaf, spec.axes[_path(entries)], permutation), variables
    )


def permuted(leaf: Any, axes: tuple[Axis | None, ...], permutation: Permutation, skip: int | None = None) -> Any:
    """A leaf with all its axes in their new order, but for the axis `skip`."""
    for k, axis in enumerate(axes):
        if axis is not None and k != skip:
            leaf = leaf.take(_positions(axis, permutation[axis.group], leaf.shape[k]), axis=k)
    return leaf


def check(permutation: Permutation, sizes: Mapping[str, int]) -> None:
    """Raise ValueError unless `permutation` orders the units of these groups, each once."""
    if set(permutation) != set(sizes):
        raise ValueError(f"expected an order of the groups {', '.join(sizes)}, got {', '.join(permutation)}")
    for group, n in sizes.items():
        if not np.array_equal(np.sort(permutation[group]), np.arange(n)):
            raise ValueError(f"expected an order of the {n} units of {group}, each once, got {permutation[group]}")


def identity(spec: Spec, variables: Variables) -> Permutation:
    """Every unit where it is."""
    return {group: np.arange(n) for group, n in sizes(spec, variables).items()}


def random(spec: Spec, variables: Variables, key: jax.Array) -> Permutation:
    """Every group in an order of its own, all orders equally likely."""
    groups = enumerate(sizes(spec, variables).items())
    return {group: np.asarray(jax.random.permutation(jax.random.fold_in(key, i), n)) for i, (group, n) in groups}


def inverse(permutation: Permutation) -> Permutation:
    """What takes `permutation` back."""
    return {group: np.argsort(order) for group, order in permutation.items()}


def compose(second: Permutation, first: Permutation) -> Permutation:
    """One permutation for two: apply(compose(q, p), v) is apply(q, apply(p, v))."""
    return {group: first[group][order] for group, order in second.items()}


def _family(found: Mapping[str, Any]) -> tuple[str, dict[str, Rule]]:
    """The family that has all these leaves, and the rule of each."""
    tables = {name: {path: _rule(family, path) for path in found} for name, family in FAMILIES.items()}
    strangers = {name: [path for path, rule in rules.items() if rule is None] for name, rules in tables.items()}
    name = min(strangers, key=lambda name: len(strangers[name]))
    rules = {path: rule for path, rule in tables[name].items() if rule}
    if strangers[name] or all(i is None for _, i in rules.values()):
        what = f"{name} has no leaf {strangers[name][0]}" if strangers[name] else "it has no hidden layers"
        raise ValueError(f"no permutations are known of this network: {what}; known: {', '.join(FAMILIES)}")
    return name, rules


def _rule(family: Family, path: str) -> Rule | None:
    for name, axes in family.leaves.items():
        pattern = name.replace("*", "[a-z_]+").replace("#", r"(?P<i>\d*)")
        if match := re.fullmatch(pattern, path):
            return axes, match.groupdict().get("i")
    return None


def _names(family: Family, rules: Mapping[str, Rule]) -> dict[str | None, dict[str, str]]:
    """By the number of a layer, and None for leaves without one: what to write for {i}, {before}, {after}, {last}."""
    numbers = sorted({i for _, i in rules.values() if i is not None}, key=lambda i: int(i or 0))
    names: dict[str | None, dict[str, str]] = {}
    before = after = family.first
    for i in numbers:
        own = not family.changes or family.changes.format(i=i) in rules
        before, after = after, family.stream.format(i=i) if own else after
        names[i] = {"i": i, "before": before, "after": after}
    return {**names, None: {"last": after}}


def _filled(axis: Axis | None, names: dict[str, str], length: int, heads: int | None) -> Axis | None:
    """An axis of the table as that of one leaf."""
    group = axis.group.format(**names) if axis else ""
    if axis is None or not group:
        return None
    if axis != HEADS:
        return replace(axis, group=group)
    if heads is None or heads < 1 or length % heads:
        raise ValueError(f"expected heads, a divisor of the Transformer's width {length}, got heads={heads}")
    return Axis(group, width=length // heads)


def _count(found: dict[str, tuple[int, str]], axis: Axis, length: int, path: str) -> None:
    """Add an axis to `found`: by group, the number of units and the first leaf that has them."""
    n, rest = divmod(length, axis.copies * axis.width)
    expected, first = found.setdefault(axis.group, (n, path))
    if rest or n != expected:
        raise ValueError(
            f"{path} has {length / (axis.copies * axis.width):g} units of {axis.group} and {first} has {expected}: "
            "units that are joined, as by maxout, are not covered"
        )


def _positions(axis: Axis, order_N: np.ndarray, length: int) -> np.ndarray:
    """The positions [length] that an axis takes its values from."""
    positions_CxNxW = np.arange(length).reshape(axis.copies, -1, axis.width)
    return positions_CxNxW[:, order_N].reshape(length)


def _path(entries: Any) -> str:
    return jax.tree_util.keystr(entries, simple=True, separator="/")
