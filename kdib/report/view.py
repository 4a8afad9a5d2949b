"""Lookup tables for the sections of a report: the measurements of a study by cell, fit and estimand."""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from kdib.estimands import Cell, Effect, final_subjects, fit_summary, study_effects
from kdib.properties.base import Property
from kdib.records import Subject
from kdib.report import canvas
from kdib.report.material import Material
from kdib.report.tables import Picture
from kdib.stats import LEVEL, Interval, mean_interval

# The literature's names for some of the cells; a config's published rows may use them.
KNOWN_AS = {
    ("mean_accuracy", "attractors", ()): "A-accuracy",
    ("mean_accuracy", "distance", ()): "D-accuracy",
    ("accuracy", "mu", (("mu", 0),)): "mu-accuracy",
}
LIKENESS = {"teacher": "ceiling", "alone": "floor", "distilled": "own"}  # the estimands of kdib.estimands.LEVELS
LIKENESS_NOTE = (
    " Every fit is compared with the teacher of the same seed; the teacher itself with the teachers of other seeds."
)
Places = Mapping[tuple[float | int | str, ...], Cell]
ACRONYMS = {"ece", "mce", "nll", "kl", "cka"}


class View(NamedTuple):
    """The measurements of a study.

    They are stored as `effects[cell, estimand]`, `by_cell[cell][estimand]`, `summary[cell][fit]` and
    `values[cell, fit][seed]`. `sizes[cell]` is the smallest n of a cell's rows over networks. `splits` are the test
    sets, the first in distribution. `seeds` is the number of seeds in words. `look` is the style of each fit that is
    drawn. Figures are written into `folder`.
    """

    material: Material
    properties: Mapping[str, Property]
    effects: Mapping[tuple[Cell, str], Effect]
    by_cell: Mapping[Cell, Mapping[str, Effect]]
    summary: Mapping[Cell, Mapping[str, Interval]]
    values: Mapping[tuple[Cell, str], Mapping[int, float]]
    sizes: Mapping[Cell, int]
    splits: Sequence[str]
    seeds: str
    look: Mapping[str, canvas.Style]
    folder: pathlib.Path

    @property
    def in_distribution(self) -> str:
        """The name of the first test set; "" if nothing was measured."""
        return self.splits[0] if self.splits else ""

    def primary(self, prop: Property, split: str = "") -> Cell:
        """The cell of a property's primary metric, on the test set `split` if given."""
        metric, own_split, group, coords = prop.primary
        return Cell(prop.name, metric, split or own_split or self.in_distribution, group, coords)

    def effects_at(self, cell: Cell) -> Mapping[str, Effect]:
        """The effects on one cell, by estimand."""
        return self.by_cell.get(cell, {})

    def level(self, prop: Property, cell: Cell, fit: str) -> Interval | None:
        """A fit's mean over seeds with its interval; None if it has no value.

        For a relational property this is the fit's likeness to the role's teacher of the same seed, and for the
        teacher itself its likeness to the teachers of other seeds.
        """
        found = self.summary.get(cell, {}).get(fit)
        if found or prop.kind != "relational":
            return found
        roles: Mapping[str, str] = self.material.config["roles"]
        name = next((role for role, of in roles.items() if of == fit), fit)
        effect = self.effects.get((cell, LIKENESS.get(name, f"{name}: own")))
        if effect is None or effect.n_seeds == 0:
            return None
        return Interval(effect.estimate, effect.low, effect.high, effect.n_seeds, LEVEL)

    def places(self, prop: Property, metric: str, split: str, group: str, names: Sequence[str]) -> Places:
        """The cells of a group that have exactly the coordinates `names`, by their values, in the order of the rows."""
        own = (prop.name, metric, split, group)
        found = {tuple(dict(cell.coords).get(n, "") for n in names): cell for cell in self.summary if cell[:4] == own}
        return {at: cell for at, cell in found.items() if {name for name, _ in cell.coords} == {*names}}

    def picture(self, figure: Figure, name: str, alt: str, caption: str) -> Picture:
        """Write a figure's files and return the block that shows it."""
        name = re.sub(r"[^\w.-]+", "_", name)  # names of test sets come from configs and may hold any character
        svg = canvas.save(figure, self.folder, name)
        return Picture(name, Markup(canvas.inline(svg, name)), alt, caption)


def view(material: Material, properties: Mapping[str, Property], folder: pathlib.Path) -> View:
    """Compute effects, means and lookup tables from a study's files."""
    subjects, failed = list(material.subjects.values()), material.failed
    splits = list(dict.fromkeys(row.split for row in material.rows))
    effects = study_effects(
        material.rows,
        subjects,
        material.config["roles"],
        properties,
        in_distribution=splits[0] if splits else "",
        failed=failed,
    )
    finals = final_subjects(subjects, failed)
    summary, values = fit_summary(material.rows, subjects, failed), _values(material, properties, finals)
    for (cell, fit), of_seed in values.items():
        if fit not in summary.setdefault(cell, {}):
            summary[cell][fit] = mean_interval(list(of_seed.values()))
    sizes: dict[Cell, int] = {}
    for row in material.rows:
        if row.subject in finals:
            cell = Cell(*row[2:7])
            sizes[cell] = min(row.n, sizes.get(cell, row.n))
    by_cell: dict[Cell, dict[str, Effect]] = {}
    for effect in effects:
        by_cell.setdefault(Cell(*effect[:5]), {})[effect.estimand] = effect
    return View(
        material,
        properties,
        {(cell, name): effect for cell, named in by_cell.items() for name, effect in named.items()},
        by_cell,
        summary,
        values,
        sizes,
        splits,
        _range([sum(s.fit == fit for s in finals.values()) for fit in material.fits]),
        canvas.styles(material.shown),
        folder,
    )


def _values(
    material: Material, properties: Mapping[str, Property], finals: Mapping[str, Subject]
) -> dict[tuple[Cell, str], dict[int, float]]:
    """Values by seed, for every cell and fit.

    For a pairwise property, the value of a run is its mean over the pairs with other runs of its fit. For a relational
    property, only the points of maps have values here (to the role's teacher of the same seed); all else is an
    estimand.
    """
    found: dict[tuple[Cell, str], dict[int, list[float]]] = {}

    def add(cell: Cell, subject: Subject, value: float) -> None:
        found.setdefault((cell, subject.fit), {}).setdefault(subject.seed, []).append(value)

    for row in material.rows:
        subject, other = finals.get(row.subject), finals.get(row.other or "")
        if subject is None or row.value is None:
            continue
        cell, kind = Cell(*row[2:7]), properties[row.property].kind if row.property in properties else "scalar"
        if row.other is None:
            add(cell, subject, row.value)
        elif other and kind == "pairwise" and other.fit == subject.fit:
            add(cell, subject, row.value)
            add(cell, other, row.value)
        elif other and kind == "relational" and len(row.coords) > 1 and _is_own(subject, other, material):
            add(cell, subject, row.value)
    return {key: {seed: sum(v) / len(v) for seed, v in seeds.items()} for key, seeds in found.items()}


def _is_own(student: Subject, teacher: Subject, material: Material) -> bool:
    return teacher.fit == material.config["roles"]["teacher"] and teacher.seed == student.seed


def _range(counts: Sequence[int]) -> str:
    """[3, 3] -> "3 seeds"; [2, 3] -> "2 to 3 seeds"."""
    low, high = min(counts), max(counts)
    return f"{high} seed{'' if high == 1 else 's'}" if low == high else f"{low} to {high} seeds"


def metric_name(cell: Cell) -> str:
    """A cell's metric in words, such as "mean accuracy by attractors (A-accuracy)"."""
    alias = KNOWN_AS.get((cell.metric, cell.group, cell.coords))
    name = metric_words(cell.metric) + (f" by {metric_words(cell.group)}" if cell.group else "")
    return f"{name} ({alias})" if alias else name


def metric_words(name: str) -> str:
    """An identifier in words: "mean_accuracy" -> "mean accuracy", "ece" -> "ECE"."""
    return " ".join(word.upper() if word in ACRONYMS else word for word in name.split("_"))


def intervals(view: View) -> str:
    """The words for a caption that describe the intervals of a figure or a table."""
    return f"95 % t intervals over n = {view.seeds}"


def capital(text: str) -> str:
    """The text with its first letter capitalized and all others unchanged."""
    return text[:1].upper() + text[1:]


def listed(names: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def source_of(published: Mapping[str, Any]) -> str:
    """The source of a configuration's published numbers, and its note on them."""
    return f"{'; '.join(str(published[name]) for name in ('source', 'note') if published.get(name))}."
