"""A study from start to end: train every fit, measure every subject, write the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from kdib import fit as fits
from kdib import report, tasks
from kdib.checks import check_losses, check_names, check_opened_by_path, check_task, check_teachers
from kdib.config import Study, parse
from kdib.logbook import Logbook
from kdib.measuring import is_measured, measure
from kdib.progress import Progress
from kdib.records import write_json
from kdib.runs import (
    choose_learning_rate,
    development_runs,
    failures,
    fit_folder,
    generations,
    main_runs,
    steps_of,
    subjects,
    trained_fits,
)
from kdib.tasks.base import Task, gather
from kdib.teaching import (
    Lab,
    jobs_of,
    model_of,
    open_lab,
    plan_of,
    trains_alike,
)
from kdib.workdir import claimed, sign


def run(config: Mapping[str, Any], workdir: Path) -> Path:
    """Train what is missing, measure what is missing, and return the path of the report.

    Raises:
      ValueError: for an inconsistent configuration, before anything is built.
      WorkdirError: if the folder belongs to another process or configuration.
      Stopped: after SIGTERM or SIGINT during training. These signals end measuring as they end any program. The same
        call resumes both where they stopped.
    """
    study = parse(config)
    check_names(study)
    with claimed(workdir, study):
        task = None if _is_complete(study, workdir) else tasks.build(study.task)
        lab = None if task is None else _checked(study, task, workdir)
        # Signed only after all checks have passed, so that a corrected configuration is not refused as another one.
        sign(workdir, study, working=lab is not None)
        if lab is not None:
            write_json(workdir / "task.json", dict(lab.task.facts))
            train(lab)
            measure(lab)
        return report.write(workdir)


def _checked(study: Study, task: Task, workdir: Path) -> Lab:
    check_task(study, task)
    lab = open_lab(study, task, workdir)
    check_opened_by_path(lab)
    check_teachers(lab)
    check_losses(lab)
    return lab


def train(lab: Lab) -> None:
    """Train every fit, in topological order; finished runs are not touched."""
    study, workdir = lab.study, lab.workdir
    runs = {fit: [*development_runs(study, fit), *main_runs(study, fit)] for fit in trained_fits(study)}
    left = {
        fit: sum(
            not fits.is_finished(fit_folder(study, fit, workdir) / run.name, steps_of(study, fit)) for run in runs[fit]
        )
        for fit in runs
    }
    alone_last = sorted(runs, key=lambda fit: study.fits[fit].answers != "online")  # an online fit holds two networks
    for fit in {study.fits[fit].model: fit for fit in alone_last}.values():
        print(overview(fit, lab))
    run_steps = {fit: steps_of(study, fit) * n for fit, n in left.items()}
    models = {fit: study.fits[fit].model for fit in runs}
    with Progress(run_steps, models) as progress, Logbook(workdir) as logbook:
        for generation in generations(study):
            for names in _alike(generation, lab):
                _train_together(names, lab, progress, logbook)
        if progress.stop_requested:  # in the last chunk
            raise fits.Stopped
    write_json(workdir / "failures.json", failures(study, workdir))


def overview(fit: str, lab: Lab) -> str:
    """The parameter table of a fit's model, made by clu."""
    from clu import parameter_overview

    params = jax.eval_shape(model_of(fit, lab).init, lab.root, gather(lab.data, slice(0, 1)))["params"]
    return f"{lab.study.fits[fit].model}\n{parameter_overview.get_parameter_overview(params, include_stats=False)}"


def _alike(names: list[str], lab: Lab) -> list[list[str]]:
    """Group the fits that one program can train, such as students of many snapshots or at many alphas."""
    populations: dict[Any, list[str]] = {}
    for name in names:
        populations.setdefault(trains_alike(name, plan_of(name, lab), lab), []).append(name)
    return list(populations.values())


def _train_together(names: list[str], lab: Lab, progress: Progress, logbook: Logbook) -> None:
    """Train the development runs of the fits, choose their learning rates, then train the main runs."""
    study, plan = lab.study, plan_of(names[0], lab)
    grids = {name: grid for name in names if (grid := development_runs(study, name))}
    if grids:
        runs = [run for grid in grids.values() for run in grid]
        fits.train(jobs_of(runs, plan, lab, progress), plan, progress, logbook)
    for name, grid in grids.items():
        folder = fit_folder(study, name, lab.workdir)
        write_json(folder / "tuning.json", choose_learning_rate(grid, folder, plan.recipe.steps))
    runs = [run for name in names for run in main_runs(study, name)]
    fits.train(jobs_of(runs, plan, lab, progress), plan, progress, logbook)


def _is_complete(study: Study, workdir: Path) -> bool:
    """Whether nothing is left to train or to measure; does not build the task."""
    finished = all(
        fits.is_finished(fit_folder(study, fit, workdir) / run.name, steps_of(study, fit))
        for fit in trained_fits(study)
        for run in main_runs(study, fit)
    )
    return finished and is_measured(subjects(study, workdir), study, workdir)
