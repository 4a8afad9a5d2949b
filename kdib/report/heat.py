"""Heat maps of a property over two coordinates, such as accuracy over image offsets: one panel per fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from kdib.properties.base import Map, Property
from kdib.report.canvas import PAGE, PALE, RC, Box, grid
from kdib.report.figures import title
from kdib.report.tables import Block
from kdib.report.view import View, capital, metric_words

COLOURS = "viridis"  # perceptually uniform, monotone in lightness, readable with colour blindness
PANEL, BAR = 1.75, 0.95  # inches: the side of a panel, and the strip at the right that holds the colour bar
MOST_TICKS = 7
CELL = 0.2  # inches per named row or column, such as a layer
Axis = tuple[float, ...] | tuple[str, ...]


def map_blocks(view: View, prop: Property) -> list[Block]:
    """The maps that a property declares, on the first test set."""
    return [block for declared in prop.maps for block in _map_block(view, prop, declared)]


def _map_block(view: View, prop: Property, declared: Map) -> list[Block]:
    """One figure for each group of fits that share both axes; axes of names, such as layers, differ between models."""
    split = view.in_distribution
    places = view.places(prop, declared.metric, split, declared.group, (declared.x, declared.y))
    by_axes: dict[tuple[Axis, Axis], dict[str, np.ndarray]] = {}
    for fit in view.look:
        if levels := {at: level.estimate for at, cell in places.items() if (level := view.level(prop, cell, fit))}:
            xs, ys = (_in_order([at[axis] for at in levels]) for axis in (0, 1))
            by_axes.setdefault((xs, ys), {})[fit] = _filled(levels, xs, ys)
    if not by_axes:
        return []
    name = metric_words(declared.metric)
    limits = _limits([values for maps in by_axes.values() for values in maps.values()])
    what = f"{capital(name)} on {split} by {declared.xlabel} and {declared.ylabel}"
    blocks: list[Block] = []
    for i, ((xs, ys), maps_YxX) in enumerate(by_axes.items()):
        figure = heat(maps_YxX, xs, ys, xlabel=declared.xlabel, ylabel=declared.ylabel, label=name, limits=limits)
        grey = any(np.isnan(values).any() for values in maps_YxX.values())
        caption = f"{what}: means over {view.seeds}, on a common colour scale." + " Grey: not measured." * grey
        alt = f"{what}. " + "; ".join(_in_words(fit, values, xs, ys) for fit, values in maps_YxX.items())
        part = f"-{i}" if i else ""
        blocks.append(view.picture(figure, f"{prop.name}-{declared.metric}-{declared.group}-map{part}", alt, caption))
    return blocks


def _in_order(places: Sequence[float | int | str]) -> Axis:
    """Numbers in increasing order; names, such as those of layers, in the order of the rows."""
    if any(isinstance(place, str) for place in places):
        return tuple(dict.fromkeys(map(str, places)))
    return tuple(sorted({float(place) for place in places}))


def _filled(levels: Mapping[tuple, float], xs: Axis, ys: Axis) -> np.ndarray:
    """The values as a matrix [Y, X], with nan where there is none."""
    values_YxX = np.full((len(ys), len(xs)), np.nan)
    for (x, y), value in levels.items():
        values_YxX[ys.index(type(ys[0])(y)), xs.index(type(xs[0])(x))] = value
    return values_YxX


def _limits(maps_YxX: Sequence[np.ndarray]) -> tuple[float, float]:
    finite = np.concatenate([values[np.isfinite(values)] for values in maps_YxX])
    return float(finite.min()), float(finite.max())


def _in_words(fit: str, values_YxX: np.ndarray, xs: Axis, ys: Axis) -> str:
    extremes = []
    for find in (np.nanargmin, np.nanargmax):
        row, column = divmod(int(find(values_YxX)), len(xs))
        extremes.append(f"{values_YxX[row, column]:.3f} at ({_said(xs[column])}, {_said(ys[row])})")
    return f"{fit} from {extremes[0]} to {extremes[1]}"


def _said(place: float | str) -> str:
    return place if isinstance(place, str) else f"{place:g}"


def heat(
    maps_YxX: Mapping[str, np.ndarray],
    xs: Axis,
    ys: Axis,
    *,
    xlabel: str,
    ylabel: str,
    label: str,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """One panel per name with values [Y, X] at `xs` (rightwards) and `ys` (downwards), on a common colour scale."""
    norm = Normalize(*(limits or _limits(list(maps_YxX.values()))))
    cmap = mpl.colormaps[COLOURS].with_extremes(bad=PALE)
    aspect = "auto" if isinstance(xs[0], str) or isinstance(ys[0], str) else "equal"

    def draw(axes: Axes, item: tuple[str, np.ndarray]) -> None:
        title(axes, item[0])
        axes.imshow(item[1], cmap=cmap, norm=norm, interpolation="none", aspect=aspect, origin="upper")
        axes.grid(visible=False)
        axes.set_xticks(*_ticks(xs), rotation=90 if isinstance(xs[0], str) else 0)
        axes.set_yticks(*_ticks(ys))

    panels, box = list(maps_YxX.items()), _box(xs, ys)
    columns = min(4, max(1, int((PAGE - BAR - box.left) / (box.width + box.gap))))
    figure = grid(panels, draw, xlabel=xlabel, ylabel=ylabel, handles=[], columns=columns, box=box, margin=BAR)
    colour_bar(figure, ScalarMappable(norm, cmap), label)
    return figure


def _box(xs: Axis, ys: Axis) -> Box:
    """The panel's lengths: near square for numbers; for names, one text line per cell and room for the longest name."""
    tall = PANEL * min(max(len(ys) / len(xs), 0.5), 2.0)
    box = Box(width=PANEL, height=tall, left=0.72, bottom=0.55)
    if isinstance(ys[0], str):
        box = box._replace(left=0.42 + _inches(ys), height=max(CELL * len(ys), 1.2))
    if isinstance(xs[0], str):
        box = box._replace(bottom=0.42 + _inches(xs), width=max(CELL * len(xs), 1.6))
    return box


def _inches(names: Axis) -> float:
    return 0.074 * max(len(str(name)) for name in names)


def colour_bar(figure: Figure, scale: ScalarMappable, label: str, **options: Any) -> None:
    """Draw the colour bar beside the first row of panels, in the margin of BAR inches at the right."""
    first, width = figure.axes[0].get_position(), figure.get_figwidth()
    with mpl.rc_context({**RC, "axes.grid": False}):
        bar = figure.add_axes(((width - BAR + 0.08) / width, first.y0, 0.14 / width, first.height))
        figure.colorbar(scale, cax=bar, label=label, **options)


def _ticks(values: Axis) -> tuple[list[int], list[str]]:
    """Positions and labels of ticks: all names, or at most MOST_TICKS numbers, zero among them if it is a value."""
    if any(isinstance(value, str) for value in values):
        return list(range(len(values))), list(map(str, values))
    step = -(-len(values) // MOST_TICKS)
    start = list(values).index(0.0) % step if 0.0 in values else 0
    places = list(range(start, len(values), step))
    return places, [f"{values[i]:g}".replace("-", "\u2212") for i in places]
