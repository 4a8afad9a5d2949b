"""The blocks that a report page consists of, and the formatting of numbers in them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from kdib.stats import Interval

MINUS = "\u2212"
NOTHING = "\u2013"


class Entry(NamedTuple):
    """A table cell: `number` is the value at full precision (machine-readable), `small` a second line in small print.

    `icon` stands before the text and repeats its meaning; it is hidden from screen readers.
    """

    text: str
    number: float | None = None
    small: str = ""
    icon: str = ""


class Table(NamedTuple):
    """A table whose first column names its rows; `words` wraps and left-aligns its cells.

    `card` stacks the cells of a row on a narrow page, each labelled with its column's name.
    """

    title: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    words: bool = False
    card: bool = False
    kind: str = "table"


class Picture(NamedTuple):
    """A figure with its alternative text."""

    name: str
    svg: Markup
    alt: str
    caption: str
    kind: str = "picture"


class Text(NamedTuple):
    """A paragraph; `style` is a class of style.css."""

    text: str
    style: str = ""
    kind: str = "text"


class Details(NamedTuple):
    """Blocks that are initially folded away."""

    summary: str
    blocks: Sequence["Block"]
    kind: str = "details"


class Example(NamedTuple):
    """One input as text or as a PNG in base64, with its label and each fit's prediction."""

    label: str
    answers: Sequence[tuple[str, str]]
    text: str = ""
    png: str = ""
    alt: str = ""


class Gallery(NamedTuple):
    """Example inputs side by side."""

    heading: str
    items: Sequence[Example]
    kind: str = "gallery"


Block = Table | Picture | Text | Details | Gallery


class Section(NamedTuple):
    """A titled part of the page."""

    id: str
    title: str
    blocks: Sequence[Block]


def number(value: float | None, *, signed: bool = False) -> Entry:
    """Format a value: 0.1234 -> "0.123", with a true minus sign; None and NaN -> a dash."""
    if value is None or math.isnan(value):
        return Entry(NOTHING)
    return Entry(digits(value, places(value), signed=signed), value)


def mean_entry(mean: Interval | None) -> Entry:
    """A mean, with half of its interval in small print if it has one."""
    if mean is None or math.isnan(mean.estimate):
        return Entry(NOTHING)
    half = "" if math.isnan(mean.high) else f"± {digits(mean.high - mean.estimate, places(mean.estimate))}"
    return number(mean.estimate)._replace(small=half)


def places(value: float) -> int:
    """The number of decimals for a value and its interval: three, or more below 0.01."""
    return 3 if value == 0 or abs(value) >= 0.01 else 4 if abs(value) >= 0.001 else 5


def digits(value: float, places: int, *, signed: bool = False) -> str:
    """A number with a true minus sign."""
    return (f"{value:+.{places}f}" if signed else f"{value:.{places}f}").replace("-", MINUS)


def interval(low: float, high: float, places: int, *, signed: bool = False) -> str:
    """Format an interval, such as "[0.012, 0.034]"."""
    return f"[{digits(low, places, signed=signed)}, {digits(high, places, signed=signed)}]"


def probability(p: float | None) -> Entry:
    """Format a p value: three decimals, or "< 0.001"."""
    if p is None or math.isnan(p):
        return Entry(NOTHING)
    return Entry("< 0.001" if p < 0.001 else f"{p:.3f}", p)


def key_values(title: str, caption: str, header: tuple[str, str], items: Sequence[tuple[str, object]]) -> Table:
    """A two-column table of names and values."""
    rows = [(Entry(name), Entry(str(value))) for name, value in items]
    return Table(title, caption, header, rows, words=True)
