"""The files of a workdir, read once, with a list of everything that is missing or damaged."""

import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdib.properties import of_task
from kdib.properties.base import Primary
from kdib.records import Records, Row, Subject, read_json, read_lines
from kdib.report.figures import Trace
from kdib.selection import BY_FIT, CHOOSES, last_validation, tried_rates

CONFIG_FIELDS = {"title", "seeds", "task", "fits", "roles", "properties", "published", "environment"}
METRIC_FIELDS = {"run", "fit", "seed", "step", "split", "metric", "value"}


class Material(NamedTuple):
    """A study's files: `subjects` by id; `traces` by (split, metric); `failed` runs as "fit/run".

    `exhibits`, by property name, are displays other than the numbers of the rows. `problems` are sentences for the head
    of the page.
    """

    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    subjects: Mapping[str, Subject]
    rows: Sequence[Row]
    traces: Mapping[tuple[str, str], Sequence[Trace]]
    failed: frozenset[str]
    problems: Sequence[str]
    exhibits: Mapping[str, Mapping[str, Any]] = {}
    validation: Mapping[str, BY_FIT] = {}  # by metric, at the last step
    rates: Mapping[str, Mapping[float, float]] = {}  # {fit: {learning rate: validation loss}} of the grid

    @property
    def seeds(self) -> dict[str, int]:
        """The paired seed of every run, by "fit/run"."""
        return {f"{subject.fit}/{subject.run}": subject.seed for subject in self.subjects.values()}

    @property
    def fits(self) -> list[str]:
        """The fits in the order of the config."""
        return list(self.config["fits"])

    @property
    def shown(self) -> list[str]:
        """The fits that figures draw: all but those on curves; in a grid, those with a role or trained alone."""
        named = {*self.config["roles"].values(), *(row.get("alone") for row in self.config["grid"].values())}
        fits = [fit for fit in self.fits if fit in named] if self.config["grid"] else self.fits
        return [fit for fit in fits if fit not in self.on_curves]

    @property
    def on_curves(self) -> list[str]:
        """The fits without a role that are points of config.curves; too many to draw in every figure."""
        points = {fit for curve in self.config["curves"].values() for fit in curve["x"]}
        return [fit for fit in self.fits if fit in points - {*self.config["roles"].values()}]


def read(workdir: pathlib.Path) -> Material:
    """Read config, task, subjects, rows, metrics and failures of a workdir.

    Of a damaged table the complete lines are used, and `problems` lists the others.

    Raises:
      FileNotFoundError: if config.json or task.json is missing; a report needs both.
      ValueError: if one of these is damaged, or the configuration is not a study's.
    """
    config, facts = read_json(workdir / "config.json"), read_json(workdir / "task.json")
    if lacking := CONFIG_FIELDS - (config.keys() if isinstance(config, dict) else set()):
        raise ValueError(
            f"{workdir / 'config.json'} is no study's configuration: it has no {', '.join(sorted(lacking))}"
        )
    config = {"curves": {}, "grid": {}, **config}  # studies from before these fields existed
    subjects, damaged_subjects = Records(workdir / "subjects.jsonl", Subject).read()
    rows, damaged_rows = Records(workdir / "rows.jsonl", Row).read()
    lines, damaged_lines = _metric_lines(workdir / "metrics.jsonl")
    failures = read_json(workdir / "failures.json") if (workdir / "failures.json").exists() else []
    by_id = {subject.id: subject for subject in subjects}
    measured = {f"{subject.fit}/{subject.run}" for subject in subjects}
    known = [row for row in rows if _is_known(row.subject, measured) and _is_known(row.other or row.subject, measured)]
    exhibits, damaged_exhibits = _exhibits(workdir, config["properties"])
    problems = [*_failed_runs(failures), *_missing_runs(config, subjects)]
    damage = [*damaged_subjects, *damaged_rows, *damaged_lines, *damaged_exhibits]
    if len(known) < len(rows):
        n_strangers = len(rows) - len(known)
        damage.append(f"rows.jsonl: {n_strangers} rows are left out; subjects.jsonl does not list their networks")
    if damage:
        known, without_primary = _declared_only(known, config)
        damage += without_primary
    failed = frozenset(f"{failure['fit']}/{failure['run']}" for failure in failures)
    # Paths relative to the workdir: a report may be read on another machine.
    problems = [problem.replace(f"{workdir}/", "") for problem in [*problems, *damage]]
    own = [line for line in lines if line["run"] in measured]
    validation = {metric: last_validation(own, metric) for metric in CHOOSES}
    traces, rates = _traces(lines, measured), tried_rates(lines)
    return Material(config, facts, by_id, known, traces, failed, problems, exhibits, validation, rates)


def fit_and_run(subject_id: str) -> str:
    """The part of a subject's id that all snapshots of a run share ("fit/run"); "" for a string that is not an id."""
    run, at, step = subject_id.rpartition("@")
    return run if at and step.isdecimal() else ""


def _is_known(subject_id: str, measured: Collection[str]) -> bool:
    """Whether this is a network of subjects.jsonl or an earlier snapshot of its run, which only rows name."""
    return fit_and_run(subject_id) in measured


def _declared_only(rows: Sequence[Row], config: Mapping[str, Any]) -> tuple[list[Row], list[str]]:
    """The rows of the properties that still have their primary metric, and a problem for each of the others.

    If lines of a table were lost, a property may lack every row of its primary metric; it then counts as not measured.
    """
    declared = of_task(config["task"]["name"])
    left_out = [
        name
        for name in config["properties"]
        if name in declared and not _has_primary([row for row in rows if row.property == name], declared[name].primary)
    ]
    problems = [
        f"rows.jsonl: the rows of {name} are left out; no row of its primary metric is intact" for name in left_out
    ]
    return [row for row in rows if row.property not in left_out], problems


def _has_primary(rows: Sequence[Row], primary: Primary) -> bool:
    key = (primary.metric, primary.group, primary.coords)
    return not rows or any((row.metric, row.group, row.coords) == key for row in rows)


def _exhibits(workdir: pathlib.Path, names: Iterable[str]) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """The contents of exhibits/<property>.json by property, and a problem for each file that cannot be read."""
    found, damage = {}, []
    for name in names:
        path = workdir / "exhibits" / f"{name}.json"
        if path.is_file():
            try:
                found[name] = read_json(path)
            except ValueError as error:
                damage.append(str(error))
    return found, damage


def _metric_lines(path: pathlib.Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The intact lines of metrics.jsonl, and a problem with the place of each of the others."""
    objects, damage = read_lines(path)
    whole = [line for _, line in objects if not METRIC_FIELDS - line.keys()]
    damage += [
        f"{path}, line {number}: fields missing {sorted(METRIC_FIELDS - line.keys())}"
        for number, line in objects
        if METRIC_FIELDS - line.keys()
    ]
    return whole, damage


def _traces(lines: Iterable[Mapping[str, Any]], runs: set[str]) -> dict[tuple[str, str], list[Trace]]:
    """Learning curves of the measured runs, without development runs of the grid; the last line of a step wins."""
    values: dict[tuple[str, str], dict[tuple[str, str], dict[int, float]]] = {}
    for line in lines:
        if line["run"] in runs:
            curves = values.setdefault((line["split"], line["metric"]), {})
            curves.setdefault((line["fit"], line["run"]), {})[line["step"]] = line["value"]
    return {key: [_trace(fit, curve) for (fit, _), curve in curves.items()] for key, curves in values.items()}


def _trace(fit: str, curve: Mapping[int, float]) -> Trace:
    steps = sorted(curve)
    return Trace(fit, np.array(steps), np.array([curve[step] for step in steps]))


def _failed_runs(failures: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"Run {failure['fit']}/{failure['run']} {_how(failure)}. It is left out." for failure in failures]


def _how(failure: Mapping[str, Any]) -> str:
    if teacher := failure.get("teacher"):
        return f"was not trained, because its teacher {teacher} went non-finite"
    return f"went non-finite at step {failure['step']} in {failure['metric']}"


def _missing_runs(config: Mapping[str, Any], subjects: Iterable[Subject]) -> list[str]:
    """One sentence for each fit that has fewer networks than the config asks for."""
    seeds = {fit: set() for fit in config["fits"]}
    for subject in subjects:
        seeds.setdefault(subject.fit, set()).add(subject.seed)
    return [
        f"Fit {fit} has {len(found)} of {config['seeds']} seeds."
        for fit, found in seeds.items()
        if len(found) < config["seeds"]
    ]
