"""The report's figures: functions from arrays to matplotlib figures; a fit looks the same in all of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from kdib.report.canvas import GREY, PALE, Box, Style, grid, mark

BASELINE_MARKERS = ("x", "+", "1", "2", "3", "4")
IN_COLOUR, FAINT = 8, 0.35  # the number of lines a reader can tell apart; the opacity of all others


class Band(NamedTuple):
    """Means with intervals along x: four parallel arrays [P]; `low` and `high` are NaN where there is no interval."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Panel(NamedTuple):
    """One panel: bands by fit; `baselines` are (x, y) by name; `weights` are bars (x, share of examples) by fit."""

    title: str
    bands: Mapping[str, Band]
    baselines: Mapping[str, tuple[np.ndarray, np.ndarray]] = {}
    weights: Mapping[str, tuple[np.ndarray, np.ndarray]] = {}


class Trace(NamedTuple):
    """The learning curve of one run: values [P] at steps [P]."""

    fit: str
    steps: np.ndarray
    values: np.ndarray


class Dot(NamedTuple):
    """One row of a dot plot: the values of single seeds, their mean and its interval (NaN if there is none)."""

    label: str
    fit: str
    values: Sequence[float]
    mean: float
    low: float
    high: float


def lines(
    panels: Sequence[Panel], look: Mapping[str, Style], *, ylabel: str, chance: float | None, first: Sequence[str] = ()
) -> Figure:
    """Mean and interval against x for every fit, on one y scale; a panel's title is its x label.

    If there are more than IN_COLOUR fits, those chosen by `in_colour` are coloured and the others are grey lines.
    """
    names = in_order(look, [fit for panel in panels for fit in panel.bands])
    coloured = in_colour(panels, names, first)

    def draw(axes: Axes, panel: Panel) -> None:
        axes.set_xlabel(panel.title, va="center")
        _baselines(axes, panel, chance)
        for fit in panel.bands.keys() - {*coloured}:
            mark(axes.plot(*panel.bands[fit][:2], color=GREY, alpha=FAINT, lw=0.9, zorder=1), look[fit])
        for fit, band in _dodged({fit: band for fit, band in panel.bands.items() if fit in coloured}).items():
            _band(axes, band, look[fit])
        _ticks_at_values(axes, [band.x for band in panel.bands.values()])

    baselines = dict.fromkeys(name for panel in panels for name in panel.baselines)
    handles = [handle(fit, look[fit]) for fit in coloured]
    if others := len(names) - len(coloured):
        handles.append(Line2D([], [], color=GREY, alpha=FAINT, lw=1, label=f"{others} other fit{'s' * (others > 1)}"))
    handles += [_mark(name, BASELINE_MARKERS[i % 6]) for i, name in enumerate(baselines)]
    if chance is not None:
        handles.append(Line2D([], [], color=GREY, lw=1, ls=":", label="chance"))
    return grid(panels, draw, xlabel=None, ylabel=ylabel, handles=handles, columns=3, box=Box(top=0.12))


def in_colour(panels: Sequence[Panel], names: Sequence[str], first: Sequence[str]) -> list[str]:
    """At most IN_COLOUR fits: those of `first`, then repeatedly the one farthest from all fits chosen so far."""
    if len(names) <= IN_COLOUR:
        return list(names)
    chosen = [name for name in names if name in first][:IN_COLOUR]
    while len(chosen) < IN_COLOUR:
        rest = [name for name in names if name not in chosen]
        chosen.append(max(rest, key=lambda name: min((_distance(panels, name, c) for c in chosen), default=0.0)))
    return [name for name in names if name in chosen]


def _distance(panels: Sequence[Panel], a: str, b: str) -> float:
    """The largest difference between two fits' means at the same x."""
    largest = 0.0
    for bands in (panel.bands for panel in panels if {a, b} <= panel.bands.keys()):
        _, at_a, at_b = np.intersect1d(bands[a].x, bands[b].x, return_indices=True)
        differences = np.abs(bands[a].mean[at_a] - bands[b].mean[at_b])
        largest = max(largest, float(np.max(differences, initial=0.0, where=np.isfinite(differences))))
    return largest


def reliability(panels: Sequence[Panel], look: Mapping[str, Style], *, xlabel: str, ylabel: str) -> Figure:
    """Small multiples, one panel per fit: the curve against the diagonal, and bars with the share of the examples."""

    def draw(axes: Axes, panel: Panel) -> None:
        title(axes, panel.title)
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
        for fit, (x, share) in panel.weights.items():
            width = 0.8 * np.min(np.diff(np.sort(x))) if len(x) > 1 else 0.05
            mark(axes.bar(x, share, width=width, color=look[fit].colour, alpha=0.25, lw=0), look[fit])
        for fit, band in panel.bands.items():
            _band(axes, band, look[fit])
        xs = np.concatenate([band.x for band in panel.bands.values()])
        axes.set_xlim(np.floor(10 * xs.min()) / 10 - 0.02, 1.02)
        axes.set_ylim(0, 1.03)

    box = Box(width=2.2, height=1.75)
    handles = [Line2D([], [], color=GREY, lw=1, ls=":", label="perfectly calibrated")]
    handles.append(Line2D([], [], color=PALE, lw=6, label="share of the examples"))
    return grid(panels, draw, xlabel=xlabel, ylabel=ylabel, handles=handles, columns=4, box=box)


def learning(panels: Mapping[str, Sequence[Trace]], look: Mapping[str, Style]) -> Figure:
    """Learning curves: one thin line per run and one thick mean per fit; one panel per metric.

    The first tenth of a run does not count for the y range, since a start at chance would hide how fits differ later.
    """

    def draw(axes: Axes, item: tuple[str, Sequence[Trace]]) -> None:
        label, traces = item
        title(axes, label)
        late = np.concatenate([trace.values[trace.steps >= trace.steps[-1] / 10] for trace in traces])
        late = late[np.isfinite(late)]
        if late.size and np.ptp(late):
            axes.set_ylim(late.min() - 0.05 * np.ptp(late), late.max() + 0.05 * np.ptp(late))
        for trace in traces:
            style = look[trace.fit]
            mark(axes.plot(trace.steps, trace.values, color=style.colour, lw=0.6, alpha=0.4), style)
        for fit in in_order(look, [trace.fit for trace in traces]):
            steps, mean = _mean_trace([trace for trace in traces if trace.fit == fit])
            mark(axes.plot(steps, mean, color=look[fit].colour, ls=look[fit].line, lw=1.8), look[fit])
        steps = sorted({int(step) for trace in traces for step in trace.steps if step > 0})
        if steps and 20 * steps[0] < steps[-1]:  # geometrically spaced snapshots
            axes.set_xscale("symlog", linthresh=steps[0], linscale=0.3)
            axes.xaxis.set_major_formatter(ScalarFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    names = in_order(look, [trace.fit for traces in panels.values() for trace in traces])
    handles = [handle(fit, look[fit], marker=False) for fit in names]
    box = Box(width=4.2, height=2.6, gap=0.7)
    return grid(
        list(panels.items()), draw, xlabel="step", ylabel=None, handles=handles, columns=2, box=box, share=False
    )


def dots(panels: Mapping[str, Sequence[Dot]], look: Mapping[str, Style], *, xlabel: str) -> Figure:
    """One row per fit (or pair of fits) with pale seeds and the mean with its interval; one panel per test set."""
    labels = list(dict.fromkeys(dot.label for dots in panels.values() for dot in dots))

    def draw(axes: Axes, item: tuple[str, Sequence[Dot]]) -> None:
        title(axes, item[0])
        for dot in item[1]:
            style, y = look[dot.fit], labels.index(dot.label)
            places = [y] * len(dot.values)
            drawn = axes.plot(dot.values, places, style.marker, color=style.colour, ms=4, alpha=0.3, mew=0)
            drawn += axes.plot([dot.low, dot.high], [y, y], color=style.colour, lw=1.6)
            mark([*drawn, *axes.plot([dot.mean], [y], style.marker, color=style.colour, ms=6)], style)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(4))

    left = 0.15 + 0.074 * max(map(len, labels))
    box = Box(width=2.9, height=0.24 * len(labels) + 0.15, left=left, gap=0.2)
    return grid(list(panels.items()), draw, xlabel=xlabel, ylabel=None, handles=[], columns=3, box=box)


def title(axes: Axes, text: str) -> None:
    """Set a panel's title, left-aligned."""
    axes.set_title(text, loc="left", y=1.0)  # a fixed y spares matplotlib's search for a free place


def _band(axes: Axes, band: Band, style: Style) -> None:
    error = np.stack([band.mean - band.low, band.high - band.mean])
    drawn = axes.errorbar(
        band.x, band.mean, yerr=error, color=style.colour, marker=style.marker, ls=style.line,
        lw=1.3, ms=4.5, elinewidth=0.9, capsize=1.8,
    )  # fmt: skip
    mark(drawn.get_children(), style)


def _baselines(axes: Axes, panel: Panel, chance: float | None) -> None:
    if chance is not None:
        axes.axhline(chance, color=GREY, lw=1, ls=":")
    for i, (x, y) in enumerate(panel.baselines.values()):
        axes.plot(x, y, BASELINE_MARKERS[i % 6], color=GREY, ms=6)


def _dodged(bands: Mapping[str, Band]) -> dict[str, Band]:
    """Bands shifted along x by about a tenth of the spacing each way, so that their intervals do not overlap."""
    xs = np.unique(np.concatenate([band.x for band in bands.values()])) if bands else np.zeros(0)
    gap = np.min(np.diff(xs)) if len(xs) > 1 else 1.0
    offsets = gap * 0.24 * (np.linspace(-0.5, 0.5, len(bands)) if len(bands) > 1 else np.zeros(1))
    return {fit: band._replace(x=band.x + dx) for (fit, band), dx in zip(bands.items(), offsets, strict=False)}


def _ticks_at_values(axes: Axes, xs: Sequence[np.ndarray]) -> None:
    values = np.unique(np.concatenate(xs)) if xs else np.zeros(0)
    if 0 < len(values) <= 8:
        axes.set_xticks(values, [f"{value:g}" for value in values])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _mean_trace(traces: Sequence[Trace]) -> tuple[np.ndarray, np.ndarray]:
    """The mean over runs at the steps that all of them have, so that a run that stopped early does not bend it."""
    steps = sorted(set.intersection(*(set(trace.steps.tolist()) for trace in traces)))
    values = [dict(zip(trace.steps.tolist(), trace.values, strict=True)) for trace in traces]
    return np.array(steps), np.array([np.mean([value[step] for value in values]) for step in steps])


def in_order(look: Mapping[str, Style], names: Sequence[str]) -> list[str]:
    """The fits among `names`, once each, in the order of the config."""
    return [fit for fit in look if fit in set(names)]


def handle(fit: str, style: Style, *, marker: bool = True) -> Line2D:
    """A fit's entry in a legend."""
    return Line2D(
        [], [], color=style.colour, marker=style.marker if marker else "", ls=style.line, lw=1.6, ms=5, label=fit
    )


def _mark(name: str, marker: str) -> Line2D:
    return Line2D([], [], color=GREY, marker=marker, ls="", ms=6, label=name)
