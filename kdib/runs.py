"""The runs of a study's fits, and the folder of each run."""

from pathlib import Path
from typing import Any

import numpy as np

from kdib.config import Study, topological
from kdib.records import RunSpec, Subject, read_json
from kdib.snapshots import SnapshotIndex

PEER_SEEDS = 1_000_000  # added to a peer's initialization seed or a reordered fit's order seed: disjoint from main runs
DEVELOPMENT_SEEDS = 1_000  # the first seed of the runs that choose learning rates; main runs count from 0


def trained_fits(study: Study) -> list[str]:
    """The fits that this study trains, teachers first; fits opened by path are excluded."""
    return [name for name in topological(study.fits) if not study.fits[name].path]


def generations(study: Study) -> list[list[str]]:
    """The fits that this study trains, in lists: a fit needs fits of earlier lists only."""
    depth: dict[str, int] = {}
    for name in topological(study.fits):
        fit = study.fits[name]
        needed = [depth[other] for other in (fit.teacher, fit.match_entropy) if other]
        depth[name] = 1 + max(needed, default=-1)
    trained = trained_fits(study)
    return [[name for name in trained if depth[name] == d] for d in sorted({depth[name] for name in trained})]


def steps_of(study: Study, fit: str) -> int:
    """The number of steps that a fit trains."""
    return round(study.train.steps * study.fits[fit].budget)


def main_runs(study: Study, fit: str) -> list[RunSpec]:
    """One run per paired seed: seed s learns from seed s of its teacher."""
    return [_run(study, fit, seed) for seed in range(study.seeds)]


def development_runs(study: Study, fit: str) -> list[RunSpec]:
    """One run per learning rate of the grid and development seed; empty without a grid."""
    return [
        _run(study, fit, DEVELOPMENT_SEEDS + number, (("learning_rate", rate),))
        for rate in study.tune.learning_rates
        for number in range(study.tune.seeds)
    ]


def _run(study: Study, fit: str, seed: int, sweep: tuple[tuple[str, float], ...] = ()) -> RunSpec:
    # All fits of a seed, including peers, see the examples in one order, so that no teacher saw other examples than
    # another. "reordered" fits differ in the order on purpose: they show what the order alone does to where training
    # ends.
    own = study.fits[fit]
    init, order = (seed + PEER_SEEDS * (own.seeds == kind) for kind in ("peer", "reordered"))
    paired = own.teacher and not own.learns_from_all_seeds and own.answers != "online"
    return RunSpec(fit, seed, init=init, order=order, teacher=seed if paired else None, sweep=sweep)


def fit_folder(study: Study, fit: str, workdir: Path) -> Path:
    """fits/<fit>, or the folder of another workdir that the fit opens by path."""
    path = study.fits[fit].path
    return Path(path) if path else workdir / "fits" / fit


def learning_rate(study: Study, run: RunSpec, workdir: Path) -> float:
    """The rate of a development run, else the rate that the grid chose, else the rate of the recipe."""
    if run.sweep:
        return dict(run.sweep)["learning_rate"]
    if study.tune.learning_rates:
        return read_json(fit_folder(study, run.fit, workdir) / "tuning.json")["learning_rate"]
    return study.train.learning_rate


def teacher_folder(study: Study, teacher: str, run: RunSpec, workdir: Path) -> Path:
    """The folder of the run of `teacher` with the seed of `run`; in development, at the teacher's chosen rate."""
    spec = _run(study, teacher, run.seed)
    if run.sweep:  # a path and a grid exclude each other
        chosen = read_json(fit_folder(study, teacher, workdir) / "tuning.json")["learning_rate"]
        spec = spec._replace(sweep=(("learning_rate", chosen),))
    return fit_folder(study, teacher, workdir) / spec.name


def teacher_folders(study: Study, run: RunSpec, workdir: Path) -> list[Path]:
    """The folders of the runs that teach `run`: none, the paired one, or all seeds of an ensemble.

    The ensemble of a main run has all main runs of the teacher, that of a development run all development runs.
    """
    fit = study.fits[run.fit]
    seeds = [run.seed] if fit.teacher and fit.answers != "online" else []
    if fit.learns_from_all_seeds:
        first, n = (DEVELOPMENT_SEEDS, study.tune.seeds) if run.sweep else (0, study.seeds)
        seeds = range(first, first + n)
    return [teacher_folder(study, fit.teacher, run._replace(seed=seed), workdir) for seed in seeds]


def choose_learning_rate(grid: list[RunSpec], folder: Path, last_step: int) -> dict[str, Any]:
    """Choose the rate with the lowest mean validation loss over the development seeds; returns all tried rates too.

    Validation is in distribution. A run that went non-finite rules its rate out.

    Raises:
      ValueError: if every rate is ruled out.
    """
    tried: dict[float, list[float]] = {}
    for run in grid:
        tried.setdefault(dict(run.sweep)["learning_rate"], []).append(_validation_loss(folder / run.name, last_step))
    means = {rate: float(np.mean(values)) for rate, values in tried.items()}
    best = min(means, key=lambda rate: means[rate])
    if not np.isfinite(means[best]):
        raise ValueError(f"every learning rate of {folder.name} went non-finite: {', '.join(map(str, means))}")
    rows = [{"learning_rate": rate, "loss": loss if np.isfinite(loss) else None} for rate, loss in means.items()]
    return {"learning_rate": best, "tried": rows}


def _validation_loss(run_folder: Path, step: int) -> float:
    if (run_folder / "failure.json").exists():
        return float("inf")
    with SnapshotIndex(run_folder / "snapshots", read_only=True) as index:
        return next(row["loss"] for row in index.table() if row["step"] == step)


def subjects(study: Study, workdir: Path) -> list[Subject]:
    """The last snapshot of every main run that did not fail."""
    return [
        _subject(run, fit_folder(study, fit, workdir) / run.name)
        for fit in topological(study.fits)
        for run in main_runs(study, fit)
        if not (fit_folder(study, fit, workdir) / run.name / "failure.json").exists()
    ]


def _subject(run: RunSpec, folder: Path) -> Subject:
    with SnapshotIndex(folder / "snapshots", read_only=True) as index:
        return _at(Subject("", run.fit, run.seed, run.name, 0, ""), index.steps()[-1], index)


def _at(subject: Subject, step: int, index: SnapshotIndex) -> Subject:
    """The subject that is the snapshot of the same run at `step`."""
    return subject._replace(id=f"{subject.fit}/{subject.run}@{step}", step=step, fingerprint=index.fingerprint(step))


def snapshots(study: Study, workdir: Path, subject: Subject) -> tuple[Subject, ...]:
    """All snapshots of a subject's run up to the subject, by step."""
    with SnapshotIndex(fit_folder(study, subject.fit, workdir) / subject.run / "snapshots", read_only=True) as index:
        return tuple(_at(subject, step, index) for step in index.steps() if step <= subject.step)


def failures(study: Study, workdir: Path) -> list[dict[str, Any]]:
    """The record of every run that went non-finite."""
    paths = (p for fit in trained_fits(study) for p in sorted((workdir / "fits" / fit).glob("*/failure.json")))
    return [read_json(path) for path in paths]
