"""The transfer card: one row per property with its verdict, the levels of the four roles and the declared effect."""

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
    "Relational properties measure how much a student resembles a teacher. Self and Distilled show the likeness to the "
    "teacher of the same seed (“own”), followed by their difference. Alone shows the floor: the likeness of a student "
    "that had no teacher. Teacher shows the ceiling: the likeness of a teacher to the teachers of other seeds. "
    "“Sibling” is a student’s likeness to the teachers of other seeds. Own − sibling is evidence that the student "
    "copied its own teacher’s function, as far as it exceeds the placebo (in small print: own − sibling of the student "
    "trained alone). If own and sibling rise alike, this is evidence that the bias transferred."
)
PAIRWISE_NOTE = (
    "Pairwise properties compare two runs of one fit. The table shows means over these pairs. Intervals come from a "
    "jackknife over runs, because pairs share runs."
)


def card_blocks(view: View) -> list[Block]:
    """The table of the declared family, notes on its columns, and the meaning of its verdicts."""
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
    """A folded table of every verdict with its rule."""
    words = [(Entry(word, icon=icon), Entry(MEANINGS[word])) for word, icon in ICONS.items()]
    table = Table("Verdicts.", "The rules were fixed before the run.", ("Verdict", "Rule"), words, words=True)
    return Details("What the verdicts mean", [table])


def _caption(view: View) -> str:
    return (
        "Alone is the student trained without a teacher, Self the student after self-distillation (taught by a network "
        "of its own kind), Distilled the student taught by the teacher. "
        f"Levels are means over {view.seeds}; small print: half of the 95 % t interval. Differences come with a 95 % t "
        "interval over paired seeds. The transfer score is (distilled − alone) / (teacher − alone) with a 95 % Fieller "
        "set, and “undecided” if that set is unbounded. Holm p is adjusted over all rows of this table. An interval "
        "that includes 0 shows neither an effect nor its absence. ↑ higher is better, ↓ lower is better."
    )


def _ensemble_note(view: View) -> list[Block]:
    fits = view.material.config["fits"].items()
    students = [name for name, fit in fits if fit.get("ensemble") and len(fit.get("teacher_steps", ())) < 2]
    if not students:
        return []
    note = (
        "All seeds of {} share one teacher, an ensemble. Their intervals cover variation over students, not over "
        "teachers."
    )
    return [Text(note.format(" and of ".join(students)), "note")]


def name_entry(prop: Property, cell: Cell, *, with_split: bool = False) -> Entry:
    """The property's title, with its metric and direction in small print."""
    arrow = {True: "\u00a0↑", False: "\u00a0↓", None: ""}[
        prop.higher_is_better if cell.metric == prop.primary.metric else None
    ]
    where = f", {cell.split}" if with_split else ""
    return Entry(f"{prop.title}{where}", small=f"{metric_name(cell)}{arrow}")


def card_row(view: View, prop: Property, cell: Cell) -> list[Entry]:
    """A property's row of the card without its name, in the order of HEADER."""
    word = card_verdict(prop, view.effects_at(cell).values())
    *entries, p = contrasts(view, prop, cell)
    return [Entry(word, icon=ICONS[word]), *levels(view, prop, cell), *entries, _p(p)]


def levels(view: View, prop: Property, cell: Cell) -> list[Entry]:
    """Means over seeds of alone, self, distilled and teacher; for a relational property, its levels of likeness."""
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
    """Distilled - self, the transfer score (relational: own - sibling and placebo), and p of the declared effect."""
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
    """A difference with its interval, and with the number of seeds if some are missing."""
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
    """Two folded tables: the primary metrics on the other test sets, and all other metrics in distribution."""
    properties: Sequence[Property] = list(view.properties.values())
    primary = [view.primary(prop) for prop in properties]
    elsewhere = [(p, view.primary(p, split)) for p in properties for split in view.splits[1:]]
    elsewhere = [(p, cell) for p, cell in elsewhere if cell in view.summary]  # not every property uses every test set
    others = [
        (view.properties[cell.property], cell)
        for cell in dict.fromkeys(cell for cell, _ in view.effects)
        if not cell.coords and cell.split == view.in_distribution and cell not in primary and cell.group != SNAPSHOTS
    ]
    note = "p values are not corrected for multiple testing: read them as hints."
    blocks: list[Block] = []
    if elsewhere:
        table = _exploratory(view, elsewhere, "Exploratory: the other test sets.", f"Primary metrics; {note}")
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
