"""From rows to effects: what distillation changed, against which control, how sure we are, and the verdict.

A scalar property (accuracy, calibration) gives every fit a column of values over seeds; a relational one
(fidelity) gives columns of similarities to the teachers; a pairwise one (barriers) compares the runs of a fit.
Every effect is the mean of one column, the mean paired difference of two or the transfer score of three, over
the seeds that all of them have. The property declares before the run what is primary.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from kdib.properties.base import Property
from kdib.records import Coords, Row, Subject
from kdib.stats import Interval, holm, mean_interval, paired_difference, transfer_score

Family = Literal["primary", "secondary", "exploratory"]
FAMILIES: tuple[Family, ...] = ("primary", "secondary", "exploratory")
Column = Mapping[int, float | None]  # by seed; None where a seed of the fit has no value
Estimand = tuple[str, tuple[str, ...]]  # its name, and the one, two or three columns that it is made of

PRIMARY_ESTIMANDS = ("distilled - self", "own - sibling")
TRANSFER_SCORE = "transfer score"
LEVELS = {
    "own": "distilled: own",
    "sibling": "distilled: sibling",
    "floor": "alone: own",
    "ceiling": "teacher: sibling",
}


class Cell(NamedTuple):
    """What was measured: a row's key but for the subjects."""

    property: str
    metric: str
    split: str
    group: str
    coords: Coords


class Effect(NamedTuple):
    """One estimate over seeds with its 95 % interval, in the metric's own units and direction.

    `estimand` is a difference ("distilled - self"), the "transfer score", or a level of a relational property
    ("own"). low, high and p are nan where `n_seeds` seeds define none (kdib.stats); p is None where nothing
    is tested, p_holm outside the primary family. `bounded` is False for a transfer score that the data do not
    decide: its low and high are infinite, and "undecided" is what to print. `missing_seeds` have no value in
    one of the columns.
    """

    property: str
    metric: str
    split: str
    group: str
    coords: Coords
    estimand: str
    estimate: float
    low: float
    high: float
    n_seeds: int
    p: float | None
    p_holm: float | None
    family: Family
    bounded: bool
    missing_seeds: tuple[int, ...]


class _Value(NamedTuple):
    """A finite value of a row, with the subjects that its ids stand for."""

    subject: Subject
    other: Subject | None
    value: float


def study_effects(
    rows: Iterable[Row],
    subjects: Sequence[Subject],
    roles: Mapping[str, str],
    properties: Mapping[str, Property],
    *,
    in_distribution: str,
    failed: Collection[str] = (),
) -> list[Effect]:
    """Every effect of a study: by family, then by property as declared, then as the rows come; never by size.

    Scalar: distilled - self (primary), distilled - alone, teacher - alone, the transfer score, and for every
    control distilled - control, control - alone, control - teacher. Relational, sim being the metric, s a seed: own =
    sim(distilled_s, T_s), sibling = mean over s' != s of sim(distilled_s, T_s'), floor = sim(alone_s, T_s),
    ceiling = mean over s' of sim(T_s, T_s'); own - sibling (primary), own - floor, sibling - floor and
    sibling - self: sibling (the latter as a student is, who learned from another of its own kind); own - self: own and
    own - control: own, by how much a student of the teacher is more like it than one that never saw it; and own,
    sibling for every other student, where own is always the role's teacher of the student's seed. `alone: own -
    sibling` is the placebo: alone_s never saw a teacher, but shares its order of examples with T_s and, in less than
    an epoch of training, its examples; own - sibling means copying only as far as it exceeds the placebo. A student
    of the teacher's own architecture (`reverse`) shares its initial values with T_s as well.

    Pairwise, two runs of one fit being compared: the mean over its couples, of which a run has its part (`_by_run`);
    distilled - self (primary), distilled - alone, for every control distilled - control and control - alone, and the
    levels of the four roles.

    The t intervals take seeds as independent. Sibling means and ceilings are not quite: every one of them averages over
    the same teachers, so that their intervals are approximate. Those of pairwise properties are the jackknife's.

    The points of a map (two coordinates or more) have levels in `fit_summary` and no effects: there
    are hundreds of them, and nobody declared a test on one.

    The primary family holds one effect a property, adjusted by Holm. The other estimands on a property's
    primary metric are secondary; those on any other metric, test set or group are exploratory.

    Args:
      rows: the measurements; those of subjects that are not final, or not handed over, are left aside.
      subjects: one run for each fit and seed, at any number of steps (of a sweep: the chosen value only).
      roles: {"teacher", "alone", "self", "distilled"} -> fit; every other fit of the subjects is a control.
      properties: what was declared, by name.
      in_distribution: the test set that a primary's split "" stands for.
      failed: the runs that went non-finite, as "fit/run"; their seeds count as missing.

    Raises:
      ValueError: if two runs share fit and seed, a property's rows lack its primary cell, or a control has a
      role's name.
    """
    cells = _by_cell(rows, final_subjects(subjects, failed))
    seeds = _seeds_by_fit(subjects)
    effects: list[Effect] = []
    for prop in properties.values():
        estimands = _estimands(prop, seeds, roles)
        primary = Cell(prop.name, prop.primary.metric, prop.primary.split or in_distribution, *prop.primary[2:])
        for cell, values in _cells_of(prop, cells, primary).items():
            columns = _columns(prop, values, seeds, roles)
            effects += [_effect(cell, name, [columns[c] for c in of], cell == primary) for name, of in estimands]
    return _with_holm(sorted(effects, key=lambda effect: FAMILIES.index(effect.family)))


def fit_summary(
    rows: Iterable[Row], subjects: Sequence[Subject], failed: Collection[str] = ()
) -> dict[Cell, dict[str, Interval]]:
    """The mean over seeds, with its t interval, of every scalar measurement: `summary[cell][fit]`.

    Arguments and errors as in `study_effects`.
    """
    summary: dict[Cell, dict[str, Interval]] = {}
    for cell, values in _by_cell(rows, final_subjects(subjects, failed)).items():
        columns: dict[str, list[float]] = {}
        for value in values:
            if value.other is None:
                columns.setdefault(value.subject.fit, []).append(value.value)
        summary[cell] = {fit: mean_interval(column) for fit, column in columns.items()}
    return summary


def final_subjects(subjects: Sequence[Subject], failed: Collection[str] = ()) -> dict[str, Subject]:
    """By id, the subject of every run at the last step of its fit.

    A run that failed or stops short of its fit's last step has none: an earlier snapshot never stands in for
    it.
    """
    last: dict[str, int] = {}
    for subject in subjects:
        last[subject.fit] = max(subject.step, last.setdefault(subject.fit, subject.step))
    runs: dict[tuple[str, int], Subject] = {}
    for subject in subjects:
        if subject.step == last[subject.fit] and f"{subject.fit}/{subject.run}" not in failed:
            other = runs.setdefault((subject.fit, subject.seed), subject)
            if other.id != subject.id:
                raise ValueError(f"expected one run for each fit and seed, got {other.id} and {subject.id}")
    return {subject.id: subject for subject in runs.values()}


def _by_cell(rows: Iterable[Row], finals: Mapping[str, Subject]) -> dict[Cell, list[_Value]]:
    """The values of final subjects; a cell is kept even if none of them has a value in it."""
    cells: dict[Cell, list[_Value]] = {}
    for row in rows:
        if row.subject in finals and (row.other is None or row.other in finals):
            values = cells.setdefault(Cell(*row[2:7]), [])
            if row.value is not None and math.isfinite(row.value):
                other = None if row.other is None else finals[row.other]
                values.append(_Value(finals[row.subject], other, row.value))
    return cells


def _cells_of(prop: Property, cells: Mapping[Cell, list[_Value]], primary: Cell) -> Mapping[Cell, Sequence[_Value]]:
    """The cells of a property and always its primary: a declared test counts even if nothing was measured."""
    own = {cell: values for cell, values in cells.items() if cell.property == prop.name}
    if prop.kind != "scalar":  # what it says of a network alone, such as its distance along training, has levels only
        own = {cell: values for cell, values in own.items() if not values or any(v.other for v in values)}
    if own and primary not in own:
        known = sorted({f"{cell.metric} by {cell.group!r} on {cell.split}" for cell in own})
        raise ValueError(f"{prop.name}: no row holds its primary {primary[1:]}; measured are {', '.join(known)}")
    tested = {cell: v for cell, v in own.items() if cell == primary or len(cell.coords) < 2}
    return tested or {primary: ()}


def _seeds_by_fit(subjects: Iterable[Subject]) -> dict[str, set[int]]:
    seeds: dict[str, set[int]] = {}
    for subject in subjects:
        seeds.setdefault(subject.fit, set()).add(subject.seed)
    return seeds


def _controls(fits: Iterable[str], roles: Mapping[str, str]) -> list[str]:
    controls = [fit for fit in fits if fit not in roles.values()]
    if clash := set(controls) & set(roles):
        raise ValueError(f"fits {sorted(clash)} have the name of a role that another fit plays: {dict(roles)}")
    return controls


def _estimands(prop: Property, fits: Iterable[str], roles: Mapping[str, str]) -> list[Estimand]:
    controls = _controls(fits, roles)
    if prop.kind == "scalar":
        named = [("distilled", "self"), ("distilled", "alone"), ("teacher", "alone")]
        control = [pair for c in controls for pair in (("distilled", c), (c, "alone"), (c, "teacher"))]
        score = (TRANSFER_SCORE, ("distilled", "alone", "teacher"))
        return [*(_difference(*pair) for pair in named), score, *(_difference(*pair) for pair in control)]
    if prop.kind == "relational":
        named = [_difference(*pair) for pair in (("own", "sibling"), ("own", "floor"), ("sibling", "floor"))]
        named += [_difference("sibling", "self: sibling"), _difference("own", "self: own")]
        named += [_difference("own", f"{control}: own") for control in controls]
        levels = [(level, (level,)) for level in ("ceiling", "floor", "own", "sibling")]
        return [*named, *levels, *(e for student in ("alone", "self", *controls) for e in _likeness_of(student))]
    named = [_difference(*pair) for pair in (("distilled", "self"), ("distilled", "alone"))]
    control = [_difference(*pair) for c in controls for pair in (("distilled", c), (c, "alone"))]
    return [*named, *((level, (level,)) for level in ("teacher", "alone", "self", "distilled")), *control]


def _difference(a: str, b: str) -> Estimand:
    return f"{a} - {b}", (a, b)


def _likeness_of(student: str) -> list[Estimand]:
    own, sibling = f"{student}: own", f"{student}: sibling"
    return [(f"{own} - sibling", (own, sibling)), (own, (own,)), (sibling, (sibling,))]


def _columns(
    prop: Property, values: Iterable[_Value], seeds: Mapping[str, set[int]], roles: Mapping[str, str]
) -> dict[str, Column]:
    """The columns that the estimands name: a role's under the role's name, a control's under the fit's."""
    fits = {**roles, **{control: control for control in _controls(seeds, roles)}}
    if prop.kind == "scalar":
        scores = {(v.subject.fit, v.subject.seed): v.value for v in values}
        return {name: {s: scores.get((fit, s)) for s in seeds.get(fit, ())} for name, fit in fits.items()}
    if prop.kind == "pairwise":
        return {name: _by_run(values, fit, seeds.get(fit, ())) for name, fit in fits.items()}
    if prop.pairs == "everyone":  # every two subjects stand there once
        values = [*values, *(v._replace(subject=v.other, other=v.subject) for v in values if v.other)]
    columns: dict[str, Column] = {}
    for name, fit in fits.items():
        likeness = {
            (v.subject.seed, v.other.seed): v.value
            for v in values
            if v.other and v.other.fit == roles["teacher"] and v.subject.fit == fit
        }
        columns[f"{name}: own"] = {s: likeness.get((s, s)) for s in seeds.get(fit, ())}
        columns[f"{name}: sibling"] = {s: _sibling_mean(likeness, s) for s in seeds.get(fit, ())}
    return columns | {short: columns[long] for short, long in LEVELS.items()}


def _by_run(values: Iterable[_Value], fit: str, seeds: Iterable[int]) -> Column:
    """A value a run whose mean over runs is that over the couples of the fit, and whose spread is the jackknife's.

    Neighbouring runs share couples, so that means over the couples of each run would vary too little: tests of no
    difference at 5 % came out positive in 20 to 40 % of simulations. Of n runs, run i gets m - (n - 1) (m_i - the
    mean of m_j over j), where m is the mean over all couples and m_i over those without run i. Where leaving out a
    run leaves no couple (three runs whose neighbours alone were compared), all get m, which has no interval.

    Reference: Tukey, Bias and confidence in not quite large samples, Ann. Math. Statist. 29 (1958).
    """
    couples = {
        (v.subject.seed, v.other.seed): v.value for v in values if v.other and v.subject.fit == v.other.fit == fit
    }
    runs = sorted({seed for couple in couples for seed in couple})
    if not runs:
        return dict.fromkeys(seeds)
    mean = float(np.mean([*couples.values()]))
    without = [[value for couple, value in couples.items() if run not in couple] for run in runs]
    column: dict[int, float | None] = {**dict.fromkeys(seeds), **dict.fromkeys(runs, mean)}
    if all(without):
        left = np.array([np.mean(rest) for rest in without])
        column |= dict(zip(runs, (mean - (len(runs) - 1) * (left - left.mean())).tolist(), strict=True))
    return column


def _sibling_mean(likeness: Mapping[tuple[int, int], float], seed: int) -> float | None:
    siblings = [value for (student, teacher), value in likeness.items() if student == seed != teacher]
    return sum(siblings) / len(siblings) if siblings else None


def _effect(cell: Cell, estimand: str, columns: Sequence[Column], in_primary_cell: bool) -> Effect:
    seeds = sorted({seed for column in columns for seed in column})
    paired = [s for s in seeds if all(column.get(s) is not None for column in columns)]
    values = [np.array([column[s] for s in paired], np.float64) for column in columns]
    estimate, low, high, p, bounded = _ESTIMATORS[len(values)](*values)
    secondary: Family = "primary" if estimand in PRIMARY_ESTIMANDS else "secondary"
    family = secondary if in_primary_cell else "exploratory"
    missing = tuple(s for s in seeds if s not in paired)
    return Effect(*cell, estimand, estimate, low, high, len(paired), p, None, family, bounded, missing)


def _level(values_S: np.ndarray) -> tuple:
    interval = mean_interval(values_S)
    return *interval[:3], None, True


def _paired(a_S: np.ndarray, b_S: np.ndarray) -> tuple:
    interval, p = paired_difference(a_S, b_S)
    return *interval[:3], p, True


def _score(distilled_S: np.ndarray, alone_S: np.ndarray, teacher_S: np.ndarray) -> tuple:
    fieller = transfer_score(distilled_S, alone_S, teacher_S)
    if fieller.bounded:
        return *fieller[:3], None, True
    return fieller.estimate, -math.inf, math.inf, None, False


_ESTIMATORS = {1: _level, 2: _paired, 3: _score}  # by the number of columns


def _with_holm(effects: Sequence[Effect]) -> list[Effect]:
    adjusted = iter(holm([e.p for e in effects if e.family == "primary" and e.p is not None]).tolist())
    return [e._replace(p_holm=next(adjusted)) if e.family == "primary" else e for e in effects]
