"""The runs that a study's fits expand to, and where each one lives on disk."""

from pathlib import Path
from typing import Any

import numpy as np

from kdib.config import Study, topological
from kdib.records import RunSpec, Subject, read_json
from kdib.snapshots import SnapshotIndex

PEER_SEEDS = 1_000_000  # added to the seed of a peer's initial values: disjoint from every main run's
DEVELOPMENT_SEEDS = 1_000  # where learning rates are chosen; main runs count from 0


def trained_fits(study: Study) -> list[str]:
    """The fits that this study trains, teachers first; those opened by path are left out."""
    return [name for name in topological(study.fits) if not study.fits[name].path]


def generations(study: Study) -> list[list[str]]:
    """The fits that this study trains, those first that need no other: what is in one list needs nothing from it."""
    depth: dict[str, int] = {}
    for name in topological(study.fits):
        fit = study.fits[name]
        needed = [depth[other] for other in (fit.teacher, fit.match_entropy) if other]
        depth[name] = 1 + max(needed, default=-1)
    trained = trained_fits(study)
    return [[name for name in trained if depth[name] == d] for d in sorted({depth[name] for name in trained})]


def steps_of(study: Study, fit: str) -> int:
    """How long a fit trains."""
    return round(study.train.steps * study.fits[fit].budget)


def main_runs(study: Study, fit: str) -> list[RunSpec]:
    """One run a paired seed: seed s learns from seed s of its teacher."""
    return [_run(study, fit, seed) for seed in range(study.seeds)]


def development_runs(study: Study, fit: str) -> list[RunSpec]:
    """The grid of learning rates on development seeds; empty without a grid."""
    return [
        _run(study, fit, DEVELOPMENT_SEEDS + number, (("learning_rate", rate),))
        for rate in study.tune.learning_rates
        for number in range(study.tune.seeds)
    ]


def _run(study: Study, fit: str, seed: int, sweep: tuple[tuple[str, float], ...] = ()) -> RunSpec:
    # Every fit of a seed, a peer too, has one order of examples: no student's teacher saw what another's did not.
    init = seed + (PEER_SEEDS if study.fits[fit].seeds == "peer" else 0)
    own = study.fits[fit]
    paired = own.teacher and not own.learns_from_all_seeds and own.answers != "online"
    return RunSpec(fit, seed, init=init, order=seed, teacher=seed if paired else None, sweep=sweep)


def fit_folder(study: Study, fit: str, workdir: Path) -> Path:
    """fits/<fit>, or the folder of another workdir that the fit opens by path."""
    path = study.fits[fit].path
    return Path(path) if path else workdir / "fits" / fit


def learning_rate(study: Study, run: RunSpec, workdir: Path) -> float:
    """A development run's own rate; else what the grid chose; else the recipe's."""
    if run.sweep:
        return dict(run.sweep)["learning_rate"]
    if study.tune.learning_rates:
        return read_json(fit_folder(study, run.fit, workdir) / "tuning.json")["learning_rate"]
    return study.train.learning_rate


def teacher_folder(study: Study, teacher: str, run: RunSpec, workdir: Path) -> Path:
    """The run of `teacher` with the paired seed of `run`; in development, the one at the teacher's chosen rate."""
    spec = _run(study, teacher, run.seed)
    if run.sweep and not study.fits[teacher].path:
        chosen = read_json(fit_folder(study, teacher, workdir) / "tuning.json")["learning_rate"]
        spec = spec._replace(sweep=(("learning_rate", chosen),))
    return fit_folder(study, teacher, workdir) / spec.name


def teacher_folders(study: Study, run: RunSpec, workdir: Path) -> list[Path]:
    """The runs that teach `run`: none, the paired one, or in an ensemble of seeds all (main, or development)."""
    fit = study.fits[run.fit]
    seeds = [run.seed] if fit.teacher and fit.answers != "online" else []
    if fit.learns_from_all_seeds:
        first, n = (DEVELOPMENT_SEEDS, study.tune.seeds) if run.sweep else (0, study.seeds)
        seeds = range(first, first + n)
    return [teacher_folder(study, fit.teacher, run._replace(seed=seed), workdir) for seed in seeds]


def choose_learning_rate(grid: list[RunSpec], folder: Path, last_step: int) -> dict[str, Any]:
    """The rate with the lowest mean validation loss over the development seeds, with all that were tried.

    Validation is in distribution; a run that went non-finite rules its rate out.

    Raises:
      ValueError: if that rules out every rate.
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
    """The snapshot of a subject's run at a step."""
    return subject._replace(id=f"{subject.fit}/{subject.run}@{step}", step=step, fingerprint=index.fingerprint(step))


def snapshots(study: Study, workdir: Path, subject: Subject) -> tuple[Subject, ...]:
    """The run of a subject up to it, by step."""
    with SnapshotIndex(fit_folder(study, subject.fit, workdir) / subject.run / "snapshots", read_only=True) as index:
        return tuple(_at(subject, step, index) for step in index.steps() if step <= subject.step)


def failures(study: Study, workdir: Path) -> list[dict[str, Any]]:
    """The record of every run that went non-finite."""
    paths = (p for fit in trained_fits(study) for p in sorted((workdir / "fits" / fit).glob("*/failure.json")))
    return [read_json(path) for path in paths]
