"""The transfer card: every property a row, and in one look what came along, what was imitated, what is undecided."""

import math
from collections.abc import Mapping, Sequence

from kdib.estimands import TRANSFER_SCORE, Cell, Effect
from kdib.properties.base import Property
from kdib.report.embedding import SNAPSHOTS
from kdib.report.tables import (
    NOTHING,
    Block,
    Details,
    Entry,
    Table,
    Text,
    digits,
    interval,
    mean_entry,
    number,
    places,
    probability,
)
from kdib.report.verdicts import ICONS, MEANINGS, card_verdict
from kdib.report.view import View, metric_name

HEADER = (
    "Property", "Verdict", "Alone", "Self", "Distilled", "Teacher", "Distilled − self",
    "Transfer score, or own − sibling", "Holm p",
)  # fmt: skip
RELATIONAL_LEVELS = {"floor": "floor", "self: own": "own", "own": "own", "ceiling": "ceiling"}
UNDECIDED = "undecided"
RELATIONAL_NOTE = (
    "Relational properties compare a student with teachers: under Alone stands the floor (no teacher at all), under "
    "Self and Distilled the likeness to the teacher of the own seed, then their difference, under Teacher the ceiling "
    "(a teacher with the teachers of the other seeds). Own − sibling says whether this teacher’s function was copied, "
    "as far as it exceeds the placebo (small: the same of the student alone); both raised alike is evidence for the "
    "bias."
)
PAIRWISE_NOTE = (
    "Pairwise properties compare two runs of one fit: means over its couples, with intervals by the jackknife over "
    "runs, since couples share runs."
)


def card_blocks(view: View) -> list[Block]:
    """The declared family, what its words mean, and what to know of its columns."""
    kinds = {prop.kind for prop in view.properties.values()}
    rows = [
        (name_entry(prop, view.primary(prop)), *card_row(view, prop, view.primary(prop)))
        for prop in view.properties.values()
    ]
    blocks: list[Block] = [Table("Declared before the run.", _caption(view), HEADER, rows, card=True)]
    blocks += [Text(RELATIONAL_NOTE, "note")] * ("relational" in kinds)
    blocks += [Text(PAIRWISE_NOTE, "note")] * ("pairwise" in kinds)
    return [*blocks, *_ensemble_note(view), meanings()]


def meanings() -> Details:
    """Every word of the verdict column with its rule."""
    words = [(Entry(word, icon=icon), Entry(MEANINGS[word])) for word, icon in ICONS.items()]
    table = Table("Verdicts.", "Fixed before the run.", ("Verdict", "What it takes"), words, words=True)
    return Details("What the verdicts mean", [table])


def _caption(view: View) -> str:
    return (
        f"Means over {view.seeds}; small: half of the 95 % t interval. Differences: 95 % t interval over the paired "
        "differences; transfer score (distilled − alone) / (teacher − alone): 95 % Fieller set, “undecided” where that "
        "is unbounded. Holm’s p covers this table. An interval that includes 0 shows nothing. "
        "↑ higher is better, ↓ lower is better."
    )


def _ensemble_note(view: View) -> list[Block]:
    fits = view.material.config["fits"].items()
    students = [name for name, fit in fits if fit.get("ensemble") and len(fit.get("teacher_steps", ())) < 2]
    if not students:
        return []
    note = (
        "All seeds of {} share one teacher, an ensemble: intervals over them cover the students’ seeds, not teachers."
    )
    return [Text(note.format(" and of ".join(students)), "note")]


def name_entry(prop: Property, cell: Cell, *, with_split: bool = False) -> Entry:
    """The property, and in small the metric with its direction."""
    arrow = {True: "\u00a0↑", False: "\u00a0↓", None: ""}[
        prop.higher_is_better if cell.metric == prop.primary.metric else None
    ]
    where = f", {cell.split}" if with_split else ""
    return Entry(f"{prop.title}{where}", small=f"{metric_name(cell)}{arrow}")


def card_row(view: View, prop: Property, cell: Cell) -> list[Entry]:
    """Everything that the card says of a property but for its name, in the order of HEADER."""
    word = card_verdict(prop, view.effects_at(cell).values())
    *entries, p = contrasts(view, prop, cell)
    return [Entry(word, icon=ICONS[word]), *levels(view, prop, cell), *entries, _p(p)]


def levels(view: View, prop: Property, cell: Cell) -> list[Entry]:
    """Alone, self, distilled, teacher: means over seeds."""
    if prop.kind == "relational":
        found = {name: view.effects.get((cell, name)) for name in RELATIONAL_LEVELS}
        return [
            number(effect.estimate if effect else None)._replace(small=RELATIONAL_LEVELS[name])
            for name, effect in found.items()
        ]
    roles: Mapping[str, str] = view.material.config["roles"]
    fits = [roles[role] for role in ("alone", "self", "distilled", "teacher")]
    return [mean_entry(view.summary.get(cell, {}).get(fit)) for fit in fits]


def contrasts(view: View, prop: Property, cell: Cell) -> tuple[Entry, Entry, float | None]:
    """Distilled - self and the transfer score, or own - sibling beside its placebo; the p of the declared one."""
    effects = view.effects_at(cell)
    if prop.kind == "relational":
        own = effects.get("own - sibling")
        p = own and (own.p if own.p_holm is None else own.p_holm)
        return difference(effects.get("own - self: own")), _copying(own, effects.get("alone: own - sibling")), p
    beyond = effects.get("distilled - self")
    p = beyond and (beyond.p if beyond.p_holm is None else beyond.p_holm)
    return difference(beyond), _score(effects.get(TRANSFER_SCORE)), p


def _copying(own: Effect | None, placebo: Effect | None) -> Entry:
    entry = difference(own)
    if own is None or placebo is None or math.isnan(placebo.estimate):
        return entry
    unbroken = entry.small.replace(" ", "\u00a0")
    return entry._replace(small=f"{unbroken}; placebo\u00a0{number(placebo.estimate, signed=True).text}")


def difference(effect: Effect | None) -> Entry:
    """A difference with its interval, and the number of seeds where some are missing."""
    if effect is None:
        return Entry(NOTHING)
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


# -------------------------------------------------------------------------------------------------- exploratory


def exploratory_blocks(view: View) -> list[Block]:
    """The primary metrics on the other test sets, and the other metrics in distribution, folded away."""
    properties: Sequence[Property] = list(view.properties.values())
    primary = [view.primary(prop) for prop in properties]
    elsewhere = [(p, view.primary(p, split)) for p in properties for split in view.splits[1:]]
    elsewhere = [(p, cell) for p, cell in elsewhere if cell in view.summary]  # not every set suits every property
    others = [
        (view.properties[cell.property], cell)
        for cell in dict.fromkeys(cell for cell, _ in view.effects)
        if not cell.coords and cell.split == view.in_distribution and cell not in primary and cell.group != SNAPSHOTS
    ]
    note = "p values are not corrected: read them as hints."
    blocks: list[Block] = []
    if elsewhere:
        table = _exploratory(view, elsewhere, "Exploratory: the other test sets.", f"The primary metrics; {note}")
        blocks.append(Details(f"Exploratory: the other test sets ({len(elsewhere)} rows)", [table]))
    if others:
        table = _exploratory(view, others, "Exploratory: other metrics.", f"In distribution; {note}")
        blocks.append(Details(f"Exploratory: {len(others)} other metrics in distribution", [table]))
    return blocks


def _exploratory(view: View, cells: Sequence[tuple[Property, Cell]], title: str, caption: str) -> Table:
    rows = []
    for prop, cell in cells:
        *entries, p = contrasts(view, prop, cell)
        rows.append((name_entry(prop, cell, with_split=True), *levels(view, prop, cell), *entries, _p(p)))
    return Table(title, caption, (HEADER[0], *HEADER[2:-1], "p, uncorrected"), rows)
