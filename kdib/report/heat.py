"""Heat maps of a property over two coordinates, such as accuracy over the offsets of a picture: one panel a fit."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from kdib.properties.base import Map, Property
from kdib.report.canvas import RC, Box, grid
from kdib.report.figures import PALE, title
from kdib.report.tables import Block
from kdib.report.view import Places, View, capital, metric_words

COLOURS = "viridis"  # perceptually uniform, monotone in lightness, the same to colour-blind readers
PANEL, BAR = 1.75, 0.95  # inches: the side of a panel, and the strip at the right that holds the colour bar
MOST_TICKS = 7


def map_blocks(view: View, prop: Property) -> list[Block]:
    """The maps that a property declares, on the first test set."""
    return [block for declared in prop.maps for block in _map_block(view, prop, declared)]


def _map_block(view: View, prop: Property, declared: Map) -> list[Block]:
    split = view.in_distribution
    places = view.places(prop, declared.metric, split, declared.group, (declared.x, declared.y))
    xs, ys = (sorted({float(at[axis]) for at in places}) for axis in (0, 1))
    maps_YxX = {fit: _values(view, prop, places, xs, ys, fit) for fit in view.look}
    maps_YxX = {fit: values for fit, values in maps_YxX.items() if np.isfinite(values).any()}
    if not maps_YxX:
        return []
    name = metric_words(declared.metric)
    what = f"{capital(name)} on {split} by {declared.xlabel} and {declared.ylabel}"
    figure = heat(maps_YxX, xs, ys, xlabel=declared.xlabel, ylabel=declared.ylabel, label=name)
    grey = any(np.isnan(values).any() for values in maps_YxX.values())
    caption = f"{what}: means over {view.seeds}, one colour scale for all." + " Grey: not measured." * grey
    alt = f"{what}. " + "; ".join(_in_words(fit, values, xs, ys) for fit, values in maps_YxX.items())
    return [view.picture(figure, f"{prop.name}-{declared.metric}-{declared.group}-map", alt, caption)]


def _values(
    view: View, prop: Property, places: Places, xs: Sequence[float], ys: Sequence[float], fit: str
) -> np.ndarray:
    """The means of a fit [Y, X], nan where there is none."""
    values_YxX = np.full((len(ys), len(xs)), np.nan)
    for (x, y), cell in places.items():
        if level := view.level(prop, cell, fit):
            values_YxX[ys.index(float(y)), xs.index(float(x))] = level.estimate
    return values_YxX


def _in_words(fit: str, values_YxX: np.ndarray, xs: Sequence[float], ys: Sequence[float]) -> str:
    extremes = []
    for find in (np.nanargmin, np.nanargmax):
        row, column = divmod(int(find(values_YxX)), len(xs))
        extremes.append(f"{values_YxX[row, column]:.3f} at ({xs[column]:g}, {ys[row]:g})")
    return f"{fit} from {extremes[0]} to {extremes[1]}"


def heat(
    maps_YxX: Mapping[str, np.ndarray],
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    xlabel: str,
    ylabel: str,
    label: str,
) -> Figure:
    """One panel a name, its values [Y, X] at `xs` (to the right) and `ys` (downwards); one colour scale for all."""
    finite = np.concatenate([values[np.isfinite(values)] for values in maps_YxX.values()])
    norm, cmap = Normalize(finite.min(), finite.max()), mpl.colormaps[COLOURS].with_extremes(bad=PALE)

    def draw(axes: Axes, item: tuple[str, np.ndarray]) -> None:
        title(axes, item[0])
        axes.imshow(item[1], cmap=cmap, norm=norm, interpolation="none", aspect="equal", origin="upper")
        axes.grid(visible=False)
        axes.set_xticks(*_ticks(xs))
        axes.set_yticks(*_ticks(ys))

    tall = PANEL * min(max(len(ys) / len(xs), 0.5), 2.0)
    box = Box(width=PANEL, height=tall, left=0.72, bottom=0.55)
    panels = list(maps_YxX.items())
    figure = grid(panels, draw, xlabel=xlabel, ylabel=ylabel, handles=[], columns=4, box=box, margin=BAR)
    _colour_bar(figure, ScalarMappable(norm, cmap), label)
    return figure


def _colour_bar(figure: Figure, scale: ScalarMappable, label: str) -> None:
    """Beside the first row of panels, in the margin at the right."""
    first, width = figure.axes[0].get_position(), figure.get_figwidth()
    with mpl.rc_context({**RC, "axes.grid": False}):
        bar = figure.add_axes(((width - BAR + 0.08) / width, first.y0, 0.14 / width, first.height))
        figure.colorbar(scale, cax=bar, label=label)


def _ticks(values: Sequence[float]) -> tuple[list[int], list[str]]:
    """Positions and labels of at most seven values, zero among them where it is one."""
    step = -(-len(values) // MOST_TICKS)
    start = list(values).index(0.0) % step if 0.0 in values else 0
    places = list(range(start, len(values), step))
    return places, [f"{values[i]:g}".replace("-", "\u2212") for i in places]
