"""The common look of a report's figures: colours, a layout in inches, and files with reproducible bytes.

Layouts are computed from lengths, so nothing overlaps for any number of panels and no layout engine has to draw twice.
Figures are made without pyplot, so there is no global state and nothing to close.
"""

import io
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Okabe & Ito (2008), Color Universal Design; their yellow, unreadable on white, is replaced by a grey.
COLOURS = ("#000000", "#56B4E9", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#888888")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (8, 1.5)))
INK, GREY, PALE, STRIPE, GRID, PAPER = "#222222", "#666666", "#dddddd", "#f3f3f3", "#e8e8e8", "#ffffff"
THEMED = {  # colours that style.css sets, for light and dark pages
    "#000000": "var(--ink)", INK: "var(--ink)", GREY: "var(--soft)", PALE: "var(--pale)", STRIPE: "var(--stripe)",
    GRID: "var(--grid)", PAPER: "var(--card)",
}  # fmt: skip
PAGE = 10.3  # inches: the width that style.css gives a figure
SMALLEST = 0.7  # of a figure's size: on a page too narrow for that, the figure scrolls
RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a fit or a word may contain dollar signs
}


class Style(NamedTuple):
    """The look of one fit in every figure."""

    colour: str
    marker: str
    line: str | tuple
    gid: str = ""  # an SVG id by which the page's filter finds the marks of the fit


class Box(NamedTuple):
    """Lengths of a panel grid in inches: the panel itself, and the space for ticks and labels around it."""

    width: float = 2.75
    height: float = 2.0
    left: float = 0.7  # left of the first column, which has the y labels
    gap: float = 0.28  # left of the other columns
    bottom: float = 0.52
    top: float = 0.3
    right: float = 0.1


DEFAULT_BOX = Box()


def styles(fits: Sequence[str]) -> dict[str, Style]:
    """A fixed colour, marker and line for each fit, by its position in the config."""
    return {
        fit: Style(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)], f"fit:{i}")
        for i, fit in enumerate(fits)
    }


def grid(
    panels: Sequence,
    draw: Callable[[Axes, Any], None],
    *,
    xlabel: str | None,
    ylabel: str | None,
    handles: Sequence[Line2D],
    columns: int,
    box: Box = DEFAULT_BOX,
    share: bool = True,
    margin: float = 0.0,
) -> Figure:
    """A grid of equal panels with the legend in a strip above it; with `share`, all panels have one y axis.

    `margin` inches are left free at the right.
    """
    rows = -(-len(panels) // columns)
    columns = -(-len(panels) // rows)  # the fewest columns that need no more rows
    box = box._replace(width=min(box.width, (PAGE - margin - box.left + box.gap) / columns - box.gap - box.right))
    pitch_x, pitch_y = box.gap + box.width + box.right, box.bottom + box.height + box.top
    width = box.left - box.gap + columns * pitch_x + margin
    across, strip = _legend_strip(handles, width)
    height = rows * pitch_y + strip
    with mpl.rc_context(RC):
        figure = Figure(figsize=(width, height))
        first = None
        for i, panel in enumerate(panels):
            row, column = divmod(i, columns)
            x, y = box.left + column * pitch_x, height - strip - (row + 1) * pitch_y + box.bottom
            place = (x / width, y / height, box.width / width, box.height / height)
            axes = figure.add_axes(place, sharey=first if share else None)
            first = first or axes
            draw(axes, panel)
            _label(axes, box, xlabel, ylabel if column == 0 else None)
            axes.tick_params(labelleft=not share or column == 0)
        if handles:
            figure.legend(handles=handles, loc="upper left", ncols=across, bbox_to_anchor=(0, 1), borderaxespad=0.3)
    return figure


def _legend_strip(handles: Sequence[Line2D], width: float) -> tuple[int, float]:
    """The number of legend entries that fit into one row, and the height in inches of all rows."""
    if not handles:
        return 1, 0.0
    entry = 0.55 + 0.072 * max(len(str(handle.get_label())) for handle in handles)
    across = max(1, int(width / entry))
    return across, 0.12 + 0.22 * -(-len(handles) // across)


def _label(axes: Axes, box: Box, xlabel: str | None, ylabel: str | None) -> None:
    """Set axis labels at fixed positions; matplotlib would draw every tick twice to find them."""
    axes.xaxis.set_label_coords(0.5, -(box.bottom - 0.12) / box.height)
    axes.yaxis.set_label_coords(-(box.left - 0.12) / box.width, 0.5)
    if xlabel:
        axes.set_xlabel(xlabel, va="center")
    if ylabel:
        axes.set_ylabel(ylabel, va="center")


def mark(artists: Iterable[Artist], style: Style) -> None:
    """Mark artists as belonging to the fit of this style."""
    for artist in artists:
        artist.set_gid(style.gid or None)


def save(figure: Figure, folder: pathlib.Path, name: str) -> str:
    """Write <name>.png and <name>.svg, and return the SVG text, which has the same bytes for the same data."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({**RC, "svg.hashsalt": name}):
        figure.savefig(folder / f"{name}.png", dpi=144, pil_kwargs={"compress_level": 1})
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = re.sub(r'\bid="fit:(\d+)"', r'data-fit="\1"', buffer.getvalue())  # ids must be unique
    (folder / f"{name}.svg").write_text(text, encoding="utf-8")
    return text


def inline(svg: str, name: str) -> str:
    """The SVG element for a page with other figures: without XML prologue, and with ids that start with `name`.

    Ink and paper colours become variables of style.css, so that a figure follows the page's dark mode; the colours of
    fits do not change.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r"(?<=: )#[0-9a-f]{6}\b", lambda colour: THEMED.get(colour[0], colour[0]), body)
    wide = float(found[1]) if (found := re.search(r'<svg [^>]*\bwidth="([0-9.]+)pt"', body)) else PAGE * 72
    style = f"max-width: max(100%, {SMALLEST * wide:.0f}pt)"
    return body.replace("<svg ", f'<svg aria-hidden="true" focusable="false" style="{style}" ', 1)
