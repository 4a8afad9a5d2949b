"""What a workdir holds, read once, with everything that is missing or damaged named."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdib.records import Records, Row, Subject, read_json, read_lines
from kdib.report.figures import Trace

METRIC_FIELDS = {"run", "fit", "step", "split", "metric", "value"}


class Material(NamedTuple):
    """A study's files: `subjects` by id; `traces` by (split, metric); `failed` runs as "fit/run".

    `problems` are sentences for the head of the page.
    """

    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    subjects: Mapping[str, Subject]
    rows: Sequence[Row]
    traces: Mapping[tuple[str, str], Sequence[Trace]]
    failed: frozenset[str]
    problems: Sequence[str]

    @property
    def fits(self) -> list[str]:
        """The fits in the order of the config."""
        return list(self.config["fits"])

    @property
    def shown(self) -> list[str]:
        """The fits that figures draw: all but those on curves; in a grid those with a role and that learned alone."""
        named = {*self.config["roles"].values(), *(row.get("alone") for row in self.config["grid"].values())}
        fits = [fit for fit in self.fits if fit in named] if self.config["grid"] else self.fits
        return [fit for fit in fits if fit not in self.on_curves]

    @property
    def on_curves(self) -> list[str]:
        """The fits without a role that are points of config.curves: too many to draw in every figure."""
        points = {fit for curve in self.config["curves"].values() for fit in curve["x"]}
        return [fit for fit in self.fits if fit in points - {*self.config["roles"].values()}]


def read(workdir: pathlib.Path) -> Material:
    """Reads config, task, subjects, rows, metrics and failures of a workdir.

    Complete lines of a damaged table are used and the others are named.

    Raises:
      FileNotFoundError: without config.json or task.json, for which nothing can stand in.
      ValueError: if one of these is damaged.
    """
    config, facts = read_json(workdir / "config.json"), read_json(workdir / "task.json")
    config = {"curves": {}, **config}  # a field that came later had its default
    subjects, damaged_subjects = Records(workdir / "subjects.jsonl", Subject).read()
    rows, damaged_rows = Records(workdir / "rows.jsonl", Row).read()
    lines, damaged_lines = _metric_lines(workdir / "metrics.jsonl")
    failures = read_json(workdir / "failures.json") if (workdir / "failures.json").exists() else []
    by_id = {subject.id: subject for subject in subjects}
    known = [row for row in rows if row.subject in by_id and (row.other or row.subject) in by_id]
    problems = [*_failed_runs(failures), *_missing_runs(config, subjects)]
    problems += [*damaged_subjects, *damaged_rows, *damaged_lines]
    if len(known) < len(rows):
        problems.append(
            f"rows.jsonl: {len(rows) - len(known)} rows are left out: subjects.jsonl does not list their networks"
        )
    measured = {f"{subject.fit}/{subject.run}" for subject in subjects}
    failed = frozenset(f"{failure['fit']}/{failure['run']}" for failure in failures)
    problems = [problem.replace(f"{workdir}/", "") for problem in problems]  # a report travels without its machine
    return Material(config, facts, by_id, known, _traces(lines, measured), failed, problems)


def _metric_lines(path: pathlib.Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of metrics.jsonl that are whole, and where the others are."""
    objects, damage = read_lines(path)
    whole = [line for _, line in objects if not METRIC_FIELDS - line.keys()]
    damage += [
        f"{path}, line {number}: fields missing {sorted(METRIC_FIELDS - line.keys())}"
        for number, line in objects
        if METRIC_FIELDS - line.keys()
    ]
    return whole, damage


def _traces(lines: Iterable[Mapping[str, Any]], runs: set[str]) -> dict[tuple[str, str], list[Trace]]:
    """Learning curves of the measured runs (not of the grid's development runs); the last line of a step wins."""
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
    return [
        f"Run {failure['fit']}/{failure['run']} went non-finite at step {failure['step']} in {failure['metric']}; "
        "it is left out."
        for failure in failures
    ]


def _missing_runs(config: Mapping[str, Any], subjects: Iterable[Subject]) -> list[str]:
    """Fits with fewer networks than the config asks for, in one sentence each."""
    seeds = {fit: set() for fit in config["fits"]}
    for subject in subjects:
        seeds.setdefault(subject.fit, set()).add(subject.seed)
    return [
        f"Fit {fit} has {len(found)} of {config['seeds']} seeds."
        for fit, found in seeds.items()
        if len(found) < config["seeds"]
    ]
