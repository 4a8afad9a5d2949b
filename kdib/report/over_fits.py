"""Curves over fits (config.curves): a metric of related fits against a number, with other fits as horizontal bands."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from kdib.estimands import Cell
from kdib.properties.base import Property
from kdib.report.canvas import COLOURS, GREY, INK, Box, Style, grid
from kdib.report.figures import title
from kdib.report.tables import NOTHING, Block, Entry, Section, Table, Text, mean_entry
from kdib.report.view import LIKENESS_NOTE, View, capital, intervals, metric_name
from kdib.selection import CHOOSES, chosen
from kdib.stats import Interval, mean_interval

CURVE_COLOURS = ("#0072B2", *COLOURS[1:])  # a curve takes the first one that no band in its figure uses
LINE_OF_TEXT = 11.0  # points from one direct label to the next
ARROWS = {True: "higher is better", False: "lower is better"}


class Strip(NamedTuple):
    """One panel: the curve's levels by increasing x, and the levels of the fits shown as bands, by name."""

    prop: Property
    split: str
    curve: Mapping[float, Interval]
    beside: Mapping[str, Interval]


def curve_sections(view: View) -> list[Section]:
    """One section per curve of the configuration."""
    return [
        Section(f"curve-{re.sub(r'[^a-zA-Z0-9_-]+', '_', name)}", f"Over {curve['xlabel']}", _blocks(view, name, curve))
        for name, curve in view.material.config["curves"].items()
    ]


def _blocks(view: View, name: str, curve: Mapping[str, Any]) -> list[Block]:
    """Figures of each property's primary metric, one for the first test set and one for the others, and tables."""
    blocks: list[Block] = []
    shown: list[Strip] = []
    for suffix, splits in {"": view.splits[:1], "-other-sets": view.splits[1:]}.items():
        for prop in view.properties.values():
            strips = [strip for split in splits if (strip := _strip(view, prop, curve, split)).curve]
            if strips:
                blocks.append(_picture(view, f"curve-{name}-{prop.name}{suffix}", curve, strips))
                shown += strips
    if not shown:
        return [Text("Nothing was measured.", "note")]
    return [*blocks, _table(view, curve, shown), *_chosen(view, curve)]


def _strip(view: View, prop: Property, curve: Mapping[str, Any], split: str) -> Strip:
    cell = view.primary(prop, split)
    at = sorted((float(x), fit) for fit, x in curve["x"].items())
    levels = {x: level for x, fit in at if (level := view.level(prop, cell, fit))}
    beside = {fit: level for fit in curve["beside"] if (level := view.level(prop, cell, fit))}
    return Strip(prop, split, levels, beside)


# ----------------------------------------------------------------------------------------------------- pictures


def _picture(view: View, name: str, curve: Mapping[str, Any], strips: Sequence[Strip]) -> Block:
    prop, metric = strips[0].prop, metric_name(view.primary(strips[0].prop))
    where = " and ".join(strip.split for strip in strips) if len(strips) < 3 else f"{len(strips)} other test sets"
    direction = f" ({ARROWS[prop.higher_is_better]})" if prop.higher_is_better is not None else ""
    named = prop.title if prop.title.lower() == metric.lower() else f"{prop.title} ({metric})"
    what = f"{named} on {where} over {curve['xlabel']}"
    caption = f"{what}{direction}: means with {intervals(view)}. Bands show the fits named at their right."
    caption += LIKENESS_NOTE * (prop.kind == "relational")
    figure = over_fits(strips, view.look, xlabel=curve["xlabel"], ylabel=metric, log=curve["log"])
    return view.picture(figure, name, f"{what}. {'. '.join(map(_in_words, strips))}.", caption)


def _in_words(strip: Strip) -> str:
    (x0, low), *_, (x1, high) = [*strip.curve.items()] * (1 if len(strip.curve) > 1 else 2)
    beside = "".join(f"; {fit} {level.estimate:.3f}" for fit, level in strip.beside.items())
    return f"{strip.split}: from {low.estimate:.3f} at {x0:g} to {high.estimate:.3f} at {x1:g}{beside}"


def over_fits(strips: Sequence[Strip], look: Mapping[str, Style], *, xlabel: str, ylabel: str, log: bool) -> Figure:
    """One panel per strip, each with its own y scale; fits beside the curve are bands, labelled at their right."""
    names = dict.fromkeys(fit for strip in strips for fit in strip.beside)
    styles = {fit: look.get(fit, Style(GREY, "", "-")) for fit in names}
    taken = {style.colour for style in styles.values()}
    colour = next((colour for colour in CURVE_COLOURS if colour not in taken), INK)
    right = 0.3 + 0.072 * max((len(fit) for fit in names), default=0)
    alone = len(strips) == 1
    box = Box(width=5.2 if alone else 2.4, height=2.7 if alone else 1.8, right=right, gap=0.55)

    def draw(axes: Axes, strip: Strip) -> None:
        title(axes, strip.split)
        for fit, level in strip.beside.items():
            style = styles[fit]
            if np.isfinite(level.low):  # a level without an interval is drawn as a line only
                axes.axhspan(level.low, level.high, color=style.colour, alpha=0.13, lw=0)
            axes.axhline(level.estimate, color=style.colour, ls=style.line, lw=1.2)
        mean, low, high = np.array([level[:3] for level in strip.curve.values()]).T
        error = np.stack([mean - low, high - mean])
        axes.errorbar(list(strip.curve), mean, yerr=error, color=colour, marker="o", lw=1.5, ms=4.5, capsize=2)
        axes.set_xscale("log" if log else "linear")
        axes.set_xticks(*_ticks(list(strip.curve), box.width, log=log))
        axes.xaxis.set_minor_locator(NullLocator())
        _name_bands(axes, {fit: (level.estimate, styles[fit]) for fit, level in strip.beside.items()}, box.height)

    columns = 1 if alone else 3
    return grid(strips, draw, xlabel=xlabel, ylabel=ylabel, handles=[], columns=columns, box=box, share=False)


def _ticks(values: Sequence[float], width: float, *, log: bool) -> tuple[list[float], list[str]]:
    """A tick at every one of the increasing values, and labels where they do not overlap on `width` inches."""
    labels = [f"{value:,.10g}".replace("-", "\u2212") for value in values]
    places = np.log10(values) if log else np.array(values)
    inches = (places - places[0]) / max(np.ptp(places), 1e-12) * width * 0.9
    apart, last = 0.08 * max(map(len, labels)) + 0.12, 0
    for i in range(1, len(values)):
        if inches[i] - inches[last] >= apart:
            last = i
        else:
            labels[i] = ""
    return list(values), labels


def _name_bands(axes: Axes, levels: Mapping[str, tuple[float, Style]], height: float) -> None:
    """Write the bands' names right of the axes, moved apart where they overlap, each joined to its level by a line."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top)  # fixed, so that nothing drawn later moves the bands away from their names
    names = sorted(levels, key=lambda fit: levels[fit][0])
    points = np.array([(levels[fit][0] - bottom) / (top - bottom) * height * 72 for fit in names])
    for fit, at, moved in zip(names, points, _apart(points, LINE_OF_TEXT), strict=True):
        value, style = levels[fit]
        axes.annotate(
            fit, (1.0, value), xycoords=("axes fraction", "data"), xytext=(12, moved - at), textcoords="offset points",
            va="center", color=INK, fontsize=8.5, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": style.colour, "lw": 1.5, "shrinkA": 1, "shrinkB": 0},
        )  # fmt: skip


def _apart(places: np.ndarray, gap: float) -> np.ndarray:
    """Increasing positions, moved up and down by equal amounts until all are `gap` apart."""
    up, down = places.astype(float), places.astype(float)
    for i in range(1, len(places)):
        up[i] = max(up[i], up[i - 1] + gap)
        down[-i - 1] = min(down[-i - 1], down[-i] - gap)
    return (up + down) / 2


# ------------------------------------------------------------------------------------------------------ numbers


def _table(view: View, curve: Mapping[str, Any], strips: Sequence[Strip]) -> Table:
    """One row per fit of the curve by x, then one per band; one column per panel."""
    columns = [(strip.prop, view.primary(strip.prop, strip.split)) for strip in strips]
    at = sorted((float(x), fit) for fit, x in curve["x"].items())
    named = [(f"{x:,.10g}", fit) for x, fit in at] + [(NOTHING, fit) for fit in curve["beside"]]
    rows = [
        (Entry(fit), Entry(x), *(mean_entry(view.level(prop, cell, fit)) for prop, cell in columns)) for x, fit in named
    ]
    header = ("Fit", capital(curve["xlabel"]), *(f"{strip.prop.title}, {strip.split}" for strip in strips))
    return Table(f"Over {curve['xlabel']}.", f"Mean ± half of the {intervals(view)}.", header, rows)


def _chosen(view: View, curve: Mapping[str, Any]) -> list[Block]:
    """Scores of the fit that validation selects for each seed, beside those of the curve's last fit."""
    fits = sorted(curve["x"], key=lambda fit: float(curve["x"][fit]))
    scalars = [prop for prop in view.properties.values() if prop.kind == "scalar"]
    cells = [(prop, view.primary(prop, split)) for split in view.splits for prop in scalars]
    cells = [(prop, cell) for prop, cell in cells if all((cell, fit) in view.values for fit in fits)]
    if not cells:
        return []
    last = dict.fromkeys(view.values[cells[0][1], fits[-1]], fits[-1])
    picks: dict[str, Mapping[int, Any]] = {f"the last ({fits[-1]})": last}
    picks |= {f"chosen on {CHOOSES[metric]}": chosen(of, fits) for metric, of in view.material.validation.items()}
    rows = [
        (Entry(name), Entry(_counted(pick)), *(_mean_of(view.values, cell, pick) for _, cell in cells))
        for name, pick in picks.items()
        if pick
    ]
    if len(rows) < 2:
        return []
    header = ("Selection", "Fits (seeds)", *(f"{prop.title}, {cell.split}" for prop, cell in cells))
    caption = f"Validation data choose the fit of each seed, never test sets. Mean ± half of the {intervals(view)}."
    return [Table(f"Chosen over {curve['xlabel']}.", caption, header, rows)]


def _counted(pick: Mapping[int, str]) -> str:
    return ", ".join(f"{fit} ({n})" for fit, n in Counter(pick.values()).most_common())


def _mean_of(values: Mapping[tuple[Cell, str], Mapping[int, float]], cell: Cell, pick: Mapping[int, str]) -> Entry:
    found = [values[cell, fit][seed] for seed, fit in pick.items() if seed in values[cell, fit]]
    return mean_entry(mean_interval(found) if found else None)
