"""The blocks a report page is made of, and how numbers are printed in them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from kdib.stats import Interval

MINUS = "\u2212"
NOTHING = "\u2013"


class Entry(NamedTuple):
    """What a table shows: `number` is the value at full precision (machine-readable), `small` a second line.

    `icon` stands before the text and says the same: it is hidden from screen readers.
    """

    text: str
    number: float | None = None
    small: str = ""
    icon: str = ""


class Table(NamedTuple):
    """A table whose first column names its rows; `words` wraps and left-aligns its cells.

    `card` stacks the cells of a row under each other where the page is narrow, each with its column's name.
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
    """Blocks that are folded away at first."""

    summary: str
    blocks: Sequence["Block"]
    kind: str = "details"


class Example(NamedTuple):
    """One input as text or as a PNG in base64, its label, and what each fit answered."""

    label: str
    answers: Sequence[tuple[str, str]]
    text: str = ""
    png: str = ""
    alt: str = ""


class Gallery(NamedTuple):
    """Inputs beside each other."""

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
    """0.1234 -> "0.123", with a true minus; None and NaN -> a dash."""
    if value is None or math.isnan(value):
        return Entry(NOTHING)
    return Entry(digits(value, places(value), signed=signed), value)


def mean_entry(mean: Interval | None) -> Entry:
    """The mean, and half of its interval in small; the mean alone where n does not allow an interval."""
    if mean is None or math.isnan(mean.estimate):
        return Entry(NOTHING)
    half = "" if math.isnan(mean.high) else f"± {digits(mean.high - mean.estimate, places(mean.estimate))}"
    return number(mean.estimate)._replace(small=half)


def places(value: float) -> int:
    """Decimals that a value deserves, and its interval with it: three, or more below 0.01."""
    return 3 if value == 0 or abs(value) >= 0.01 else 4 if abs(value) >= 0.001 else 5


def digits(value: float, places: int, *, signed: bool = False) -> str:
    """A number with a true minus sign."""
    return (f"{value:+.{places}f}" if signed else f"{value:.{places}f}").replace("-", MINUS)


def interval(low: float, high: float, places: int, *, signed: bool = False) -> str:
    """[0.012, 0.034]."""
    return f"[{digits(low, places, signed=signed)}, {digits(high, places, signed=signed)}]"


def probability(p: float | None) -> Entry:
    """p values: three decimals, or "< 0.001"."""
    if p is None or math.isnan(p):
        return Entry(NOTHING)
    return Entry("< 0.001" if p < 0.001 else f"{p:.3f}", p)


def key_values(title: str, caption: str, header: tuple[str, str], items: Sequence[tuple[str, object]]) -> Table:
    """A two-column table of names and values."""
    rows = [(Entry(name), Entry(str(value))) for name, value in items]
    return Table(title, caption, header, rows, words=True)
