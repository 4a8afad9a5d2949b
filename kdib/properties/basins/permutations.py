"""Permutation symmetries: which units of a network can be reordered without changing the function it computes.

A `Spec` states, for every leaf, which group of units each axis runs over. A `Permutation` is an order of the units of
every group. Families are recognized by the names of their leaves. The permuted units of each family are:

- mlp, cnn: the units of every hidden layer, and the filters of every convolution.
- resnet: the residual stream of a stage is one group, shared by its blocks and by the shortcut that leads into it. The
  inner channels of every block are another group.
- lstm: the units of every layer, with all four gates permuted alike. The embedding is not permuted.
- transformer (bidirectional, causal, or with one shared block): whole attention heads, and the hidden units of every
  block's MLP. Not permuted are the residual stream of width D, which norms, positions and embedding would have to
  follow, and the order of the D / H dimensions within a head.

Networks with maxout are refused, since filters would have to be permuted both within and between their maxima. Dropout
masks are drawn by position, so the function is unchanged in evaluation mode only.
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
    """For the path of every leaf, such as "params/layer1/kernel": what each axis runs over; None is not permuted."""

    family: str
    axes: Mapping[str, tuple[Axis | None, ...]]


def spec_of(variables: Variables, *, heads: int | None = None) -> Spec:
    """The permutation symmetries of a network.

    Args:
      variables: {"params": ..., **model_state} of one network, as arrays or shapes.
      heads: the number of attention heads of a Transformer, which its parameters do not reveal; otherwise unused.

    Raises:
      ValueError: for a network of no known family (the message names an unknown leaf); for a Transformer without
        `heads`, or whose width `heads` does not divide; if leaves disagree on a group's number of units, as with
        maxout.

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
    """The number of units of each group; `variables` may lack leaves of `spec`, such as the statistics of norms.

    Raises:
      ValueError: for a leaf that `spec` does not know, that has other axes, or that disagrees with another leaf.
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
    """The same network with its units permuted; the statistics of norms are permuted with the parameters.

    Args:
      spec: of the network.
      permutation: of every group, as host arrays.
      variables: {"params": ...} with or without the model state; numpy or jax arrays, possibly traced.

    Raises:
      ValueError: if the permutation does not order the units of the network's groups, each once.
    """
    check(permutation, sizes(spec, variables))
    return jax.tree_util.tree_map_with_path(
        lambda entries, leaf: permuted(leaf, spec.axes[_path(entries)], permutation), variables
    )


def permuted(leaf: Any, axes: tuple[Axis | None, ...], permutation: Permutation, skip: int | None = None) -> Any:
    """A leaf with all its axes permuted, except for the axis `skip`."""
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
    """The permutation that leaves every unit in place."""
    return {group: np.arange(n) for group, n in sizes(spec, variables).items()}


def random(spec: Spec, variables: Variables, key: jax.Array) -> Permutation:
    """A random permutation, drawn uniformly and independently for every group."""
    groups = enumerate(sizes(spec, variables).items())
    return {group: np.asarray(jax.random.permutation(jax.random.fold_in(key, i), n)) for i, (group, n) in groups}


def inverse(permutation: Permutation) -> Permutation:
    """The inverse of `permutation`."""
    return {group: np.argsort(order) for group, order in permutation.items()}


def compose(second: Permutation, first: Permutation) -> Permutation:
    """The composition of two permutations: apply(compose(q, p), v) equals apply(q, apply(p, v))."""
    return {group: first[group][order] for group, order in second.items()}


def _family(found: Mapping[str, Any]) -> tuple[str, dict[str, Rule]]:
    """The family that has all these leaves, and the rule for each leaf."""
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
    """For each layer number (None for leaves without one), the values of {i}, {before}, {after} and {last}."""
    numbers = sorted({i for _, i in rules.values() if i is not None}, key=lambda i: int(i or 0))
    names: dict[str | None, dict[str, str]] = {}
    before = after = family.first
    for i in numbers:
        own = not family.changes or family.changes.format(i=i) in rules
        before, after = after, family.stream.format(i=i) if own else after
        names[i] = {"i": i, "before": before, "after": after}
    return {**names, None: {"last": after}}


def _filled(axis: Axis | None, names: dict[str, str], length: int, heads: int | None) -> Axis | None:
    """An axis of the table, with its placeholders filled in for one leaf."""
    group = axis.group.format(**names) if axis else ""
    if axis is None or not group:
        return None
    if axis != HEADS:
        return replace(axis, group=group)
    if heads is None or heads < 1 or length % heads:
        raise ValueError(f"expected heads, a divisor of the Transformer's width {length}, got heads={heads}")
    return Axis(group, width=length // heads)


def _count(found: dict[str, tuple[int, str]], axis: Axis, length: int, path: str) -> None:
    """Add an axis to `found`, which holds each group's number of units and the first leaf that runs over them."""
    n, rest = divmod(length, axis.copies * axis.width)
    expected, first = found.setdefault(axis.group, (n, path))
    if rest or n != expected:
        raise ValueError(
            f"{path} has {length / (axis.copies * axis.width):g} units of {axis.group} and {first} has {expected}: "
            "units that are joined, as by maxout, are not covered"
        )


def _positions(axis: Axis, order_N: np.ndarray, length: int) -> np.ndarray:
    """The old positions [length] from which a permuted axis takes its values."""
    positions_CxNxW = np.arange(length).reshape(axis.copies, -1, axis.width)
    return positions_CxNxW[:, order_N].reshape(length)


def _path(entries: Any) -> str:
    return jax.tree_util.keystr(entries, simple=True, separator="/")
