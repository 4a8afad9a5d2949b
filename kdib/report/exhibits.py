"""Exhibits: what a property shows beyond numbers per network, such as sets of errors, planes, or examples.

An exhibit is JSON written by a property. A block that cannot be drawn is left out, with a note in its place.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from kdib.properties.base import Property
from kdib.report.canvas import GREY, INK, MARKERS, PAGE, PALE, RC, STRIPE, Box, Style, grid
from kdib.report.figures import handle
from kdib.report.heat import BAR, COLOURS, colour_bar
from kdib.report.tables import NOTHING, Block, Entry, Example, Gallery, Table, Text, digits, number
from kdib.report.view import View, capital, listed

LEVELS, SIDE = 14, 3.6


def exhibit_blocks(view: View, prop: Property) -> list[Block]:
    """The blocks of the property's exhibit under its title; empty if it has none."""
    exhibit = view.material.exhibits.get(prop.name)
    if exhibit is None:
        return []
    blocks: list[Block] = [Text(str(exhibit.get("title", "")), "subtitle"), Text(str(exhibit.get("caption", "")))]
    for i, block in enumerate(exhibit.get("blocks", ())):
        try:
            blocks += DRAWN[block["kind"]](view, f"{prop.name}-{block['kind']}-{i}", block)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            said = f"{type(error).__name__}: {error}"
            blocks.append(Text(f"exhibits/{prop.name}.json, block {i + 1}, is left out ({said}).", "problems"))
    return blocks


# --------------------------------------------------------------------------------------------------- UpSet plots


def _upset_blocks(view: View, name: str, block: Mapping[str, Any]) -> list[Block]:
    names, sets = [str(fit) for fit in block["names"]], block["sets"]
    what = f"Exact memberships, {block['unit']}, n = {int(block['n'])}"
    caption = (
        f"{what}. Each bar is the share of examples that lie in all of the marked sets and in no other, with a 95 % "
        "interval over seeds. A coloured mark below a bar marks a set that contains them. Examples in none of the sets "
        "appear in the table only."
    )
    figure = upset(names, [one for one in sets if one["members"]], view.look, ylabel=str(block["unit"]))
    rows = [
        (
            Entry(_members(one["members"])),
            number(float(one["mean"])),
            Entry(NOTHING if one["low"] is None else f"[{digits(one['low'], 3)}, {digits(one['high'], 3)}]"),
        )
        for one in sets
    ]
    header = ("In exactly these sets", capital(str(block["unit"])), "95 % interval")
    return [view.picture(figure, name, str(block["alt"]), caption), Table("The same as numbers.", "", header, rows)]


def _members(members: Sequence[str]) -> str:
    return listed(list(map(str, members))) if members else "none of them"


def upset(names: Sequence[str], sets: Sequence[Mapping[str, Any]], look: Mapping[str, Style], *, ylabel: str) -> Figure:
    """An UpSet plot (Lex et al., 2014): bars over a matrix with one column per combination and one row per set."""
    left = 0.62 + 0.074 * max(map(len, names))
    width = min(0.42 * len(sets) + 0.2, PAGE - left - 0.2)
    bars, marks = 1.9, 0.24 * len(names) + 0.1
    size = (left + width + 0.15, bars + marks + 0.4)
    with mpl.rc_context(RC):
        figure = Figure(figsize=size)
        top = figure.add_axes((left / size[0], (marks + 0.22) / size[1], width / size[0], bars / size[1]))
        below = figure.add_axes((left / size[0], 0.12 / size[1], width / size[0], marks / size[1]))
        _bars(top, sets, ylabel)
        _marks(below, names, sets, look)
        for axes in (top, below):
            axes.set_xlim(-0.6, len(sets) - 0.4)
            axes.set_xticks([])
    return figure


def _bars(axes: Axes, sets: Sequence[Mapping[str, Any]], ylabel: str) -> None:
    for x, one in enumerate(sets):
        axes.bar(x, float(one["mean"]), width=0.62, color=GREY)
        if one["low"] is not None:
            axes.plot([x, x], [float(one["low"]), float(one["high"])], color=INK, lw=1.2)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(ylabel)
    axes.grid(axis="x", visible=False)


def _marks(axes: Axes, names: Sequence[str], sets: Sequence[Mapping[str, Any]], look: Mapping[str, Style]) -> None:
    for y in range(0, len(names), 2):
        axes.axhspan(y - 0.5, y + 0.5, color=STRIPE, lw=0)
    for x, one in enumerate(sets):
        inside = [y for y, name in enumerate(names) if name in one["members"]]
        axes.plot([x] * len(names), range(len(names)), "o", color=PALE, ms=7)
        axes.plot([x] * len(inside), inside, color=GREY, lw=1.6)
        for y in inside:
            axes.plot([x], [y], "o", color=look[names[y]].colour if names[y] in look else INK, ms=7)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


# ----------------------------------------------------------------------------------------------------- planes


def _contour_blocks(view: View, name: str, block: Mapping[str, Any]) -> list[Block]:
    names = [str(fit) for fit in block["names"]]
    x, y, z_YxX = (np.asarray(block[key], float) for key in ("x", "y", "z"))
    points_3x2 = np.asarray(block["points"], float)
    if z_YxX.shape != (len(y), len(x)) or points_3x2.shape != (len(names), 2):
        found = f"z {z_YxX.shape}, points {points_3x2.shape}"
        raise ValueError(f"expected z [{len(y)}, {len(x)}] and points [{len(names)}, 2], got {found}")
    label = str(block["label"])
    caption = f"{capital(label)} on the plane through {listed(names)}. Both axes show distance in parameter space."
    figure = contour(names, x, y, z_YxX, points_3x2, label=label)
    return [view.picture(figure, name, str(block["alt"]), caption)]


def contour(
    names: Sequence[str], x_X: np.ndarray, y_Y: np.ndarray, z_YxX: np.ndarray, points_3x2: np.ndarray, *,
    label: str,
) -> Figure:  # fmt: skip
    """Filled contours of z [Y, X] with the networks on top; levels are quantiles, since losses far away are huge."""
    finite = z_YxX[np.isfinite(z_YxX)]
    levels = np.unique(np.quantile(finite, np.linspace(0, 1, LEVELS)))
    norm = BoundaryNorm(levels, mpl.colormaps[COLOURS].N)
    styles = {name: Style(GREY, MARKERS[i % len(MARKERS)], "") for i, name in enumerate(names)}

    def draw(axes: Axes, panel: str) -> None:
        axes.contourf(x_X, y_Y, z_YxX, levels=levels, cmap=COLOURS, norm=norm)
        for (x, y), style in zip(points_3x2, styles.values(), strict=True):
            axes.plot([x], [y], style.marker, color="#fffffe", mec="#000001", ms=8, mew=1.2)  # over any colour
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlim(x_X.min(), x_X.max())
        axes.grid(visible=False)

    handles = [handle(name, style) for name, style in styles.items()]
    tall = SIDE * min(max(float(np.ptp(y_Y) / np.ptp(x_X)), 0.5), 1.5)
    box = Box(width=SIDE, height=tall, left=0.75, right=0.2)
    axis = "distance between parameters"
    figure = grid([""], draw, xlabel=axis, ylabel=axis, handles=handles, columns=1, box=box, margin=BAR)
    colour_bar(figure, ScalarMappable(norm, mpl.colormaps[COLOURS]), label, format="%.3g")
    return figure


# --------------------------------------------------------------------------------------------------- examples


def _examples_blocks(view: View, name: str, block: Mapping[str, Any]) -> list[Block]:
    return [Gallery(str(block["heading"]), [_example(item) for item in block["items"]])]


def _example(item: Mapping[str, Any]) -> Example:
    answers = [(str(fit), str(answer)) for fit, answer in item["answers"].items()]
    if "text" in item:
        return Example(str(item["label"]), answers, text=str(item["text"]))
    return Example(str(item["label"]), answers, png=_checked(item["png"]), alt=str(item["alt"]))


def _checked(png: str) -> str:
    """Return the text if it is a PNG in base64; it becomes part of a data URL.

    Raises ValueError if it is not.
    """
    try:
        data = base64.b64decode(png, validate=True)
    except binascii.Error as error:
        raise ValueError(f"expected a PNG in base64: {error}") from error
    if not data.startswith(b"\x89PNG"):
        raise ValueError(f"expected a PNG in base64, got data that begin with {data[:4]!r}")
    return png


DRAWN = {"upset": _upset_blocks, "contour": _contour_blocks, "examples": _examples_blocks}
