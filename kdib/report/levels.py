"""The primary metric of a property on all test sets: one panel and column per test set, one row per fit."""

from collections.abc import Mapping, Sequence

from kdib.estimands import Cell
from kdib.properties.base import Property
from kdib.report import figures
from kdib.report.figures import Dot
from kdib.report.tables import NOTHING, Block, Entry, Table, Text, mean_entry
from kdib.report.view import View, capital, intervals, metric_name
from kdib.stats import LEVEL, Interval

MARKS = {
    "scalar": "pale marks are single seeds",
    "pairwise": "pale marks are single seeds, each the mean over its pairs with the other runs of its fit",
    "relational": "“own” is a fit’s likeness to the teacher of the same seed, “sibling” to the teachers of other seeds",
}


def level_blocks(view: View, prop: Property) -> list[Block]:
    """A figure and a table of the primary metric of every fit (relational: of every likeness to the teachers)."""
    dots = {split: _dots(view, prop, view.primary(prop, split)) for split in view.splits}
    dots = {split: found for split, found in dots.items() if found}
    if not dots:
        return [Text("Nothing was measured.", "note")]
    name = metric_name(view.primary(prop))
    caption = f"{capital(name)} on every test set: means with {intervals(view)}; {MARKS[prop.kind]}."
    made = view.material.facts.get("made", {})  # test sets that were derived from another set, and how
    caption += "".join(f" {capital(split)} is {made[split]}." for split in dots if split in made)
    alt = f"{capital(name)} on {', '.join(dots)}. " + "; ".join(
        f"{dot.label} {dot.mean:.3f}" for dot in dots[next(iter(dots))]
    )
    figure = figures.dots(dots, view.look, xlabel=name)
    return [view.picture(figure, f"{prop.name}-levels", alt, caption), _levels_table(view, prop, dots)]


def _levels_table(view: View, prop: Property, dots: Mapping[str, Sequence[Dot]]) -> Table:
    levels = {split: {dot.label: dot for dot in found} for split, found in dots.items()}
    labels = list(dict.fromkeys(label for found in levels.values() for label in found))
    rows = [
        (Entry(label), *(_dot_entry(found[label]) if label in found else Entry(NOTHING) for found in levels.values()))
        for label in labels
    ]
    sizes = [view.sizes.get(view.primary(prop, split)) for split in levels]
    rows.append((Entry("n", small="examples, or groups"), *(Entry(str(size or NOTHING)) for size in sizes)))
    title = f"{capital(metric_name(view.primary(prop)))}."
    return Table(title, f"Mean ± half of the {intervals(view)}.", ("Fit", *levels), rows)


def _dot_entry(dot: Dot) -> Entry:
    return mean_entry(Interval(dot.mean, dot.low, dot.high, len(dot.values), LEVEL))


def _dots(view: View, prop: Property, cell: Cell) -> list[Dot]:
    if prop.kind == "relational":
        return _relational_dots(view, cell)
    means = view.summary.get(cell, {})
    return [
        Dot(fit, fit, list(view.values.get((cell, fit), {}).values()), *means[fit][:3])
        for fit in view.look
        if fit in means and means[fit].n > 0
    ]


def _relational_dots(view: View, cell: Cell) -> list[Dot]:
    """Ceiling, own, sibling and floor, then own and sibling of the other students, each in the colour of its fit."""
    roles: Mapping[str, str] = view.material.config["roles"]
    named = {
        "ceiling": (f"{roles['teacher']}: sibling (ceiling)", roles["teacher"]),
        "own": (f"{roles['distilled']}: own", roles["distilled"]),
        "sibling": (f"{roles['distilled']}: sibling", roles["distilled"]),
        "floor": (f"{roles['alone']}: own (floor)", roles["alone"]),
    }
    for student in ["self", *[fit for fit in view.look if fit not in roles.values()]]:
        fit = roles.get(student, student)
        named |= {f"{student}: {whose}": (f"{fit}: {whose}", fit) for whose in ("own", "sibling")}
    found = {name: view.effects.get((cell, name)) for name in named}
    return [
        Dot(*named[name], (), effect.estimate, effect.low, effect.high)
        for name, effect in found.items()
        if effect and effect.n_seeds > 0
    ]
