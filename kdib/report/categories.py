"""Curves over a categorical coordinate, such as the kind of corruption: one row of dots per category."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdib.properties.base import Curve, Property
from kdib.properties.corruptions import relative_errors
from kdib.report.canvas import PAGE, STRIPE, Box, Style, grid, mark
from kdib.report.figures import handle, in_order
from kdib.report.tables import NOTHING, Block, Details, Entry, Table, Text, mean_entry
from kdib.report.view import Places, View, capital, intervals, listed
from kdib.stats import Interval, mean_interval

Levels = Mapping[str, Mapping[str, Interval]]  # category -> fit -> level


def is_categorical(view: View, prop: Property, curve: Curve, split: str) -> bool:
    """Whether any value on the x axis is a string."""
    return any(isinstance(x, str) for (x,) in view.places(prop, curve.metric, split, curve.group, [curve.x]))


def category_blocks(view: View, prop: Property, curve: Curve, split: str) -> list[Block]:
    """The figure, a table with one row per category, and a folded table of the fits that no figure shows."""
    places = view.places(prop, curve.metric, split, curve.group, [curve.x])
    levels = _levels(view, prop, places, list(view.look))
    if not any(levels.values()):
        return []
    what = f"{capital(curve.ylabel)} on {split} by {curve.xlabel}"
    caption = f"{what}: means with {intervals(view)}; one mark per fit in each row."
    figure = categories(levels, view.look, xlabel=curve.ylabel)
    name = f"{prop.name}-{curve.metric}-{curve.group}-{split}"
    blocks: list[Block] = [view.picture(figure, name, f"{what}. {_in_words(levels)}.", caption)]
    blocks.append(_table(view, curve, levels, list(view.look), f"{what}."))
    if curve.relative_error:
        blocks += _relative_errors(view, places)
    if folded := view.material.on_curves:
        table = _table(view, curve, _levels(view, prop, places, folded), folded, f"{what}: the fits on curves.")
        blocks.append(Details(f"Numbers of the {len(folded)} fits on curves", [table]))
    return blocks


def categories(levels: Levels, look: Mapping[str, Style], *, xlabel: str) -> Figure:
    """One row per category from top to bottom; within a row, one mark with its interval per fit."""
    fits = in_order(look, [fit for row in levels.values() for fit in row])
    offsets = dict(zip(fits, (np.arange(len(fits)) + 0.5) / len(fits) - 0.5, strict=True))

    def draw(axes: Axes, panel: Levels) -> None:
        for y, row in enumerate(panel.values()):
            if y % 2:
                axes.axhspan(y - 0.5, y + 0.5, color=STRIPE, lw=0)
            for fit, level in row.items():
                style, at = look[fit], y + 0.8 * offsets[fit]
                line = axes.plot([level.low, level.high], [at, at], color=style.colour, lw=1.1)
                mark([*line, *axes.plot([level.estimate], [at], style.marker, color=style.colour, ms=4)], style)
        axes.set_yticks(range(len(panel)), list(panel))
        axes.set_ylim(len(panel) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(6))

    left = 0.2 + 0.074 * max(map(len, levels))
    box = Box(width=min(6.0, PAGE - left - 0.2), height=len(levels) * (0.085 * len(fits) + 0.06), left=left)
    handles = [handle(fit, look[fit]._replace(line="")) for fit in fits]
    return grid([levels], draw, xlabel=xlabel, ylabel=None, handles=handles, columns=1, box=box._replace(top=0.1))


def _levels(view: View, prop: Property, places: Places, fits: Sequence[str]) -> dict[str, dict[str, Interval]]:
    """Levels by category, in the order of the rows, then by fit, without what was not measured."""
    return {
        str(x): {fit: level for fit in fits if (level := view.level(prop, cell, fit))} for (x,), cell in places.items()
    }


def _table(view: View, curve: Curve, levels: Levels, fits: Sequence[str], title: str) -> Table:
    rows = [
        (Entry(name), *(mean_entry(row[fit]) if fit in row else Entry(NOTHING) for fit in fits))
        for name, row in levels.items()
    ]
    return Table(title, f"Mean ± half of the {intervals(view)}.", (capital(curve.xlabel), *fits), rows)


def _relative_errors(view: View, places: Places) -> list[Block]:
    """A table of each fit's error divided by that of the role `alone` at the same seed, averaged over categories."""
    alone, errors = view.material.config["roles"]["alone"], {}
    for (name,), cell in places.items():
        for fit in view.material.fits:
            for seed, accuracy in view.values.get((cell, fit), {}).items():
                errors.setdefault((fit, seed), {})[str(name)] = 1 - accuracy
    found, faultless = relative_errors(errors, alone)
    left_out = f"{listed(faultless)} left out, because a network of {alone} makes no error there." if faultless else ""
    if not found:
        return [Text(f"The mean corruption error relative to {alone} is undefined. {left_out}".strip(), "note")]
    caption = (
        f"A network’s error divided by that of {alone} at the same seed, averaged over corruptions. {alone} itself "
        f"scores 1; lower is better. Mean ± half of the {intervals(view)}. {left_out}"
    )
    rows = [(Entry(fit), mean_entry(mean_interval(list(own.values())))) for fit, own in found.items()]
    title = f"Mean corruption error relative to {alone}."
    return [Table(title, caption.strip(), ("Fit", "Mean corruption error"), rows)]


def _in_words(levels: Levels) -> str:
    return "; ".join(
        f"{name}: {', '.join(f'{fit} {level.estimate:.3f}' for fit, level in row.items())}"
        for name, row in levels.items()
    )
