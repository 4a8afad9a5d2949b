"""Interpolation between networks: the loss along the straight line, and barriers, for every pair of fits."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdib.properties.base import Property
from kdib.records import Row
from kdib.report.canvas import COLOURS, GREY, Box, Style, grid
from kdib.report.figures import title
from kdib.report.material import fit_and_run
from kdib.report.tables import NOTHING, Block, Details, Entry, Table, mean_entry
from kdib.report.view import View, capital, metric_words
from kdib.stats import Interval, mean_interval

GROUP, PLACE = "interpolation", "alpha"
UNITS = {"loss": "cross-entropy (nats)", "error": "error (share of examples)"}
MOST_PANELS = 9  # pairs of fits in the open figure; the others are folded away
Pair = tuple[str, str]


class Bundle(NamedTuple):
    """The curves [C, A] of all C pairs of networks of two fits, at alphas [A]."""

    name: str
    fit: str  # of the first network; gives the colour
    alphas_A: np.ndarray
    values_CxA: np.ndarray


def interpolation_blocks(view: View, prop: Property) -> list[Block]:
    """One figure per metric with one panel per pair of fits, and a table of the barriers of every pair of fits."""
    own = [row for row in view.material.rows if row.property == prop.name and row.other and row.value is not None]
    own = [row for row in own if row.split == view.in_distribution]
    curves = [row for row in own if row.group == GROUP and [name for name, _ in row.coords] == [PLACE]]
    blocks: list[Block] = []
    for metric in dict.fromkeys(row.metric for row in curves):
        bundles = bundles_of([row for row in curves if row.metric == metric])
        bundles = [bundle for bundle in bundles if bundle.fit in view.look]
        for part, found in (("", bundles[:MOST_PANELS]), ("-more", bundles[MOST_PANELS:])):
            if found:
                picture = _picture(view, prop, metric, found, part)
                fold = part or metric != curves[0].metric
                pairs = f"{len(found)} pair{'' if len(found) == 1 else 's'} of fits"
                summary = f"{capital(metric_words(metric))} along the line: {pairs}"
                blocks.append(Details(summary, [picture]) if fold else picture)
    whole = [row for row in own if prop.kind == "pairwise" and not row.group and not row.coords]
    return [*blocks, _table(prop, whole)] if whole else blocks


def pair_name(subject: str, other: str) -> str:
    """A name for a pair of networks: their two fits, or "snapshot to end" for snapshots of one run."""
    a, b = fit_and_run(subject), fit_and_run(other)
    if a == b:
        return f"{a}: snapshot to end"
    return f"{a.rpartition('/')[0]} \u2013 {b.rpartition('/')[0]}"


def bundles_of(rows: Sequence[Row]) -> list[Bundle]:
    """The curves by pair of fits, pairs within one fit first; a pair of networks that lacks an alpha is left out."""
    found: dict[str, dict[Pair, dict[float, float]]] = {}
    for row in rows:
        pairs = found.setdefault(pair_name(row.subject, str(row.other)), {})
        values = pairs.setdefault((row.subject, str(row.other)), {})
        values[float(dict(row.coords)[PLACE])] = float(row.value or 0.0)
    bundles = [_bundle(name, pairs) for name, pairs in found.items()]
    return sorted(bundles, key=lambda bundle: bundle.name != f"{bundle.fit} \u2013 {bundle.fit}")


def _bundle(name: str, pairs: Mapping[Pair, Mapping[float, float]]) -> Bundle:
    alphas = sorted(set().union(*pairs.values()))
    values = [[of[alpha] for alpha in alphas] for of in pairs.values() if len(of) == len(alphas)]
    fit = fit_and_run(next(iter(pairs))[0]).rpartition("/")[0]
    return Bundle(name, fit, np.array(alphas), np.array(values).reshape(-1, len(alphas)))


def _picture(view: View, prop: Property, metric: str, bundles: Sequence[Bundle], part: str) -> Block:
    what = f"{capital(metric_words(metric))} on {view.in_distribution} along the straight line between two networks"
    caption = (
        f"{what}: alpha = 0 is the first network, alpha = 1 the second. Thin lines are single pairs, the thick line is "
        "their mean, and the dotted line is the chord between its ends. A rise above the chord is a barrier."
    )
    alt = f"{what}. " + "; ".join(map(_in_words, bundles)) + "."
    figure = between(bundles, view.look, ylabel=UNITS.get(metric, metric_words(metric)))
    return view.picture(figure, f"{prop.name}-{metric}-interpolation{part}", alt, caption)


def _in_words(bundle: Bundle) -> str:
    mean_A = bundle.values_CxA.mean(axis=0)
    top = int(mean_A.argmax())
    return (
        f"{bundle.name}: from {mean_A[0]:.3f}, with a maximum of {mean_A[top]:.3f} at {bundle.alphas_A[top]:g}, "
        f"to {mean_A[-1]:.3f}"
    )


def between(bundles: Sequence[Bundle], look: Mapping[str, Style], *, ylabel: str) -> Figure:
    """One panel per pair of fits, on one y scale: single pairs thin, their mean thick, its chord dotted."""

    def draw(axes: Axes, bundle: Bundle) -> None:
        title(axes, f"{bundle.name} ({len(bundle.values_CxA)})")
        colour, mean_A = look[bundle.fit].colour if bundle.fit in look else COLOURS[-1], bundle.values_CxA.mean(axis=0)
        axes.plot(bundle.alphas_A, bundle.values_CxA.T, color=colour, lw=0.7, alpha=0.45)
        axes.plot(bundle.alphas_A, mean_A, color=colour, lw=2)
        axes.plot(bundle.alphas_A[[0, -1]], mean_A[[0, -1]], color=GREY, lw=1.2, ls=":")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])

    drawn = [bundle for bundle in bundles if len(bundle.values_CxA)]
    handles = [Line2D([], [], color=GREY, lw=2, label="mean over pairs"),
               Line2D([], [], color=GREY, lw=0.7, label="one pair"),
               Line2D([], [], color=GREY, lw=1.2, ls=":", label="chord")]  # fmt: skip
    box = Box(width=2.75, height=1.7)
    return grid(drawn, draw, xlabel="alpha (share of the second network)", ylabel=ylabel, handles=handles, columns=3,
                box=box)  # fmt: skip


def _table(prop: Property, rows: Sequence[Row]) -> Table:
    """A table of means over pairs of networks: one row per pair of fits, one column per metric."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        of = values.setdefault(pair_name(row.subject, str(row.other)), {})
        of.setdefault(row.metric, []).append(float(row.value or 0.0))
    shown = [
        (Entry(name), *(_mean(of.get(metric, ())) for metric in metrics), Entry(str(max(map(len, of.values())))))
        for name, of in values.items()
    ]
    caption = (
        "Mean ± half of the 95 % t interval over pairs of networks. The intervals are approximate, because pairs that "
        "share a network are not independent."
    )
    header = ("Pair of fits", *(capital(metric_words(metric)) for metric in metrics), "Pairs")
    return Table(f"{prop.title}, by pair of fits.", caption, header, shown)


def _mean(values: Sequence[float]) -> Entry:
    level: Interval | None = mean_interval(np.array(values)) if len(values) else None
    return mean_entry(level) if level else Entry(NOTHING)
