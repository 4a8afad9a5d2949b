"""The transfer table: for each metric what every role scored, what distillation added, and how sure that is."""

import math
from collections.abc import Mapping, Sequence

from kdib.estimands import TRANSFER_SCORE, Cell, Effect
from kdib.properties.base import Property
from kdib.report.tables import (
    NOTHING,
    Block,
    Details,
    Entry,
    Table,
    Text,
    digits,
    interval,
    number,
    places,
    probability,
)
from kdib.report.view import View, metric_name
from kdib.stats import Interval
from kdib.verdict import ALPHA, has_direction, leads_of, verdict

HEADER = (
    "Property", "Teacher", "Alone", "Self", "Distilled", "Distilled − self", "Transfer score, or own − sibling",
)  # fmt: skip
RELATIONAL_LEVELS = {"ceiling": "ceiling", "floor": "floor", "self: own": "own", "own": "own"}
UNDECIDED = "undecided"
RELATIONAL_NOTE = (
    "Relational properties compare answers with the teacher’s: under Teacher stands the ceiling (a teacher with the "
    "teachers of the other seeds), under Alone the floor (no teacher at all), under Self and Distilled "
    "the teacher of its own seed. "
    "Own − sibling says whether this teacher’s function was copied; both raised alike is evidence for the bias."
)


def transfer_blocks(view: View) -> list[Block]:
    """The declared family, then the other test sets and the other metrics, marked exploratory."""
    primary = [(prop, view.primary(prop)) for prop in view.properties.values()]
    elsewhere = [(p, view.primary(p, split)) for p in view.properties.values() for split in view.splits[1:]]
    elsewhere = [(p, cell) for p, cell in elsewhere if cell in view.summary]  # not every set suits every property
    others = [
        (view.properties[cell.property], cell)
        for cell in _whole_set_cells(view)
        if cell.split == view.in_distribution and cell not in [c for _, c in primary]
    ]
    blocks: list[Block] = [
        _table(view, primary, "Declared before the run.", _primary_caption(view), declared=True),
        Text(RELATIONAL_NOTE, "note"),
        *_ensemble_note(view),
    ]
    if elsewhere:
        note = "The primary metrics on the other test sets. p values are not corrected: read them as hints."
        blocks.append(_table(view, elsewhere, "Exploratory: the other test sets.", note, declared=False))
    if others:
        note = "The other metrics in distribution. p values are not corrected."
        table = _table(view, others, "Exploratory: other metrics.", note, declared=False)
        blocks.append(Details(f"Exploratory: {len(others)} other metrics in distribution", [table]))
    return blocks


def _ensemble_note(view: View) -> list[Block]:
    fits = view.material.config["fits"].items()
    students = [name for name, fit in fits if fit["ensemble"] and len(fit.get("teacher_steps", ())) < 2]
    if not students:
        return []
    note = (
        "All seeds of {} share one teacher, an ensemble: intervals over them cover the students’ seeds, not teachers."
    )
    return [Text(note.format(" and of ".join(students)), "note")]


def _primary_caption(view: View) -> str:
    return (
        "One row a property. Small: 95 % t interval over the paired differences of "
        f"{view.seeds}; for the transfer score (distilled − alone) / (teacher − alone) its 95 % Fieller set, "
        "“undecided” where that is unbounded. Holm’s p covers this table. ↑ higher is better, ↓ lower is better."
    )


def _whole_set_cells(view: View) -> list[Cell]:
    return [cell for cell in dict.fromkeys(cell for cell, _ in view.effects) if not cell.coords]


def _table(view: View, cells: Sequence[tuple[Property, Cell]], title: str, caption: str, *, declared: bool) -> Table:
    last = ("Holm p", "Verdict") if declared else ("p, uncorrected",)
    rows = [
        (_name(prop, cell, with_split=not declared), *_levels(view, prop, cell), *_contrast(view, prop, cell, declared))
        for prop, cell in cells
    ]
    return Table(title, caption, (*HEADER, *last), rows)


def _name(prop: Property, cell: Cell, *, with_split: bool) -> Entry:
    arrow = {True: "\u00a0↑", False: "\u00a0↓", None: ""}[
        prop.higher_is_better if cell.metric == prop.primary.metric else None
    ]
    where = f", {cell.split}" if with_split else ""
    return Entry(f"{prop.title}{where}", small=f"{metric_name(cell)}{arrow}")


def _levels(view: View, prop: Property, cell: Cell) -> list[Entry]:
    """Teacher, alone, self, distilled: means over seeds."""
    if prop.kind == "relational":
        found = {name: view.effects.get((cell, name)) for name in RELATIONAL_LEVELS}
        return [
            number(effect.estimate if effect else None)._replace(small=RELATIONAL_LEVELS[name])
            for name, effect in found.items()
        ]
    roles: Mapping[str, str] = view.material.config["roles"]
    fits = [roles[role] for role in ("teacher", "alone", "self", "distilled")]
    return [mean_entry(view.summary.get(cell, {}).get(fit)) for fit in fits]


def mean_entry(mean: Interval | None) -> Entry:
    """The mean, and half of its interval in small; the mean alone where n does not allow an interval."""
    if mean is None or math.isnan(mean.estimate):
        return Entry(NOTHING)
    half = "" if math.isnan(mean.high) else f"± {digits(mean.high - mean.estimate, places(mean.estimate))}"
    return number(mean.estimate)._replace(small=half)


def _contrast(view: View, prop: Property, cell: Cell, declared: bool) -> list[Entry]:
    """The declared difference, the transfer score, its p value and, in the declared family, the verdict."""
    relational = prop.kind == "relational"
    effect = view.effects.get((cell, "own - sibling" if relational else "distilled - self"))
    if effect is None:
        return [Entry(NOTHING)] * (4 if declared else 3)
    score = view.effects.get((cell, TRANSFER_SCORE))
    entries = [Entry(NOTHING), _difference(effect)] if relational else [_difference(effect), _score(score)]
    if not declared:
        return [*entries, _p(effect.p)]
    return [*entries, _p(effect.p_holm), Entry(_verdict(view, prop, effect))]


def _difference(effect: Effect) -> Entry:
    """A difference with its interval, and the number of seeds where some are missing."""
    if math.isnan(effect.low):
        small = f"no interval (n = {effect.n_seeds})"
    else:
        seeds = f", n = {effect.n_seeds}" if effect.missing_seeds else ""
        small = interval(effect.low, effect.high, places(effect.estimate), signed=True) + seeds
    return number(effect.estimate, signed=True)._replace(small=small)


def _score(effect: Effect | None) -> Entry:
    if effect is None:
        return Entry(NOTHING)
    if not effect.bounded:
        return Entry(UNDECIDED)
    return Entry(digits(effect.estimate, 2), effect.estimate, interval(effect.low, effect.high, 2))


def _p(p: float | None) -> Entry:
    return Entry(UNDECIDED) if p is None or math.isnan(p) else probability(p)


def _verdict(view: View, prop: Property, effect: Effect) -> str:
    if has_direction(prop):
        return verdict(leads_of(view.effects.values(), prop))
    if effect.p_holm is None or not effect.p_holm < ALPHA:
        return UNDECIDED
    return f"{effect.estimand.replace(' - ', ' above ' if effect.estimate > 0 else ' below ')}"
