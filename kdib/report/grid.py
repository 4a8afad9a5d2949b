"""Students by teachers: the score of every pair, the published number, and the gain over self-distillation."""

from collections.abc import Mapping

import numpy as np

from kdib.estimands import Cell
from kdib.report.tables import NOTHING, Block, Details, Entry, Table, interval, mean_entry, number, places
from kdib.report.view import KNOWN_AS, View, metric_name, source_of
from kdib.stats import paired_difference

A_ACCURACY, ACCURACY = ("accuracy", "mean_accuracy", "attractors", ()), ("accuracy", "accuracy", "", ())
METRICS = (
    A_ACCURACY,
    ("accuracy", "accuracy", "mu", (("mu", 0),)),
    ("calibration", "ece", "", ()),
    ("perplexity", "perplexity", "", ()),
)


def grid_blocks(view: View) -> list[Block]:
    """The tables of every metric on the first test set, and folded tables for the other test sets."""
    grid, published = view.material.config["grid"], view.material.config["published"]
    of_agreement = Cell(*A_ACCURACY[:2], view.in_distribution, *A_ACCURACY[2:]) in view.summary
    blocks: list[Block] = []
    for split in view.splits:
        tables = [
            table
            for prop, metric, group, coords in (METRICS if of_agreement else (ACCURACY, *METRICS))
            if (cell := Cell(prop, metric, split, group, coords)) in view.summary
            for table in (_scores(view, cell, grid, published), _beyond_self(view, cell, grid))
        ]
        name = f"The same on {split} (another test set, exploratory)"
        blocks += tables if split == view.in_distribution else [Details(name, tables)]
    return blocks


def _scores(view: View, cell: Cell, grid: Mapping, published: Mapping) -> Table:
    """A table of scores: rows are students, columns are what they learned from."""
    label = KNOWN_AS.get((cell.metric, cell.group, cell.coords), cell.metric)
    theirs = published.get("grid", {}).get(label, {}) if cell.split == view.in_distribution else {}
    columns = _columns(grid)
    rows = [
        (
            Entry(student),
            *(_score(view, cell, row.get(column), theirs.get(student, {}).get(column)) for column in columns),
        )
        for student, row in grid.items()
    ]
    source = f" Published: {source_of(published)}" if theirs else ""
    caption = f"On {cell.split}: means ± half of the 95 % t interval over {view.seeds}.{source}"
    return Table(f"{_title(cell)}.", caption, ("Student", *map(_from, columns)), rows)


def _score(view: View, cell: Cell, fit: str | None, theirs: float | None) -> Entry:
    entry = mean_entry(view.summary[cell].get(fit)) if fit else Entry(NOTHING)
    return entry if theirs is None else entry._replace(small=f"{entry.small} published {theirs:g}".strip())


def _beyond_self(view: View, cell: Cell, grid: Mapping) -> Table:
    """A table of paired differences to self-distillation, and on the diagonal of self-distillation to alone."""
    columns = [column for column in _columns(grid) if column != "alone"]
    rows = [
        (Entry(student), *(_difference(view, cell, row, student, column) for column in columns))
        for student, row in grid.items()
    ]
    caption = (
        "Each entry is the distilled student minus the same student after self-distillation; on the diagonal, "
        "self-distillation minus the student trained alone. In small print: 95 % t interval over the paired "
        f"differences of {view.seeds}, not corrected for multiple testing: exploratory."
    )
    title = f"{_title(cell)}: gain over self-distillation."
    return Table(title, caption, ("Student", *map(_from, columns)), rows)


def _difference(view: View, cell: Cell, row: Mapping[str, str], student: str, column: str) -> Entry:
    reference = "alone" if column == student else student
    a, b = (view.values.get((cell, row.get(name, "")), {}) for name in (column, reference))
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return Entry(NOTHING)
    difference, _ = paired_difference(np.array([a[s] for s in seeds]), np.array([b[s] for s in seeds]))
    estimate, low, high = difference[:3]
    small = "no interval" if np.isnan(low) else interval(low, high, places(estimate), signed=True)
    return number(estimate, signed=True)._replace(small=small)


def _title(cell: Cell) -> str:
    name = metric_name(cell)
    return name[0].upper() + name[1:]


def _columns(grid: Mapping[str, Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(column for row in grid.values() for column in row))


def _from(column: str) -> str:
    return column if column == "alone" else f"from {column}"
