"""A study, told in order: train every fit, measure every subject, write the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from kdib import fit as fits
from kdib import losses, models, report, tasks
from kdib.config import Fit, Study, known, parse
from kdib.logbook import Logbook
from kdib.measuring import measure, units_of
from kdib.progress import Progress
from kdib.properties import of_task
from kdib.properties.base import Property
from kdib.records import read_json, write_json
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
from kdib.snapshots import schedule
from kdib.step import METRICS
from kdib.tasks.base import Task, gather
from kdib.tasks.images.corruptions import SHAPE as CORRUPTIBLE
from kdib.teaching import (
    Lab,
    check_losses,
    check_opened_by_path,
    check_teachers,
    jobs_of,
    model_of,
    open_lab,
    optimizer,
    plan_of,
    trains_alike,
)
from kdib.verdict import has_direction
from kdib.workdir import claimed, sign


def run(config: Mapping[str, Any], workdir: Path) -> Path:
    """Trains what is missing, measures what is missing, and returns the path of the report.

    Raises:
      ValueError: for a configuration that does not hold together, before anything is built.
      WorkdirError: if the folder belongs to another process or configuration.
      Stopped: after SIGTERM or SIGINT; the same call goes on where this one stopped.
    """
    study = parse(config)
    check_names(study)
    with claimed(workdir, study):
        task = None if _is_complete(study, workdir) else tasks.build(study.task)
        # Not signed before the data were found: a path put right must not be another configuration.
        sign(workdir, study, working=task is not None)
        if task is not None:
            check_task(study, task)
            write_json(workdir / "task.json", dict(task.facts))
            lab = open_lab(study, task, workdir)
            check_opened_by_path(lab)
            check_teachers(lab)
            check_losses(lab)
            train(lab)
            measure(lab)
        return report.write(workdir)


def check_names(study: Study) -> None:
    """Presets, losses, properties, schedules and the task's settings: all looked up before anything runs."""
    task = tasks.settings(study.task)
    for name, fields in study.models.items():
        _check_model(f"config.models.{name}", fields)
    for name, spec in study.losses.items():
        if taken := {*METRICS, "parameters"} & spec.keys():
            raise ValueError(f"config.losses.{name}: a step reports {', '.join(taken)} itself; call the term otherwise")
    for name, fit in study.fits.items():
        spec = losses.from_config(study.losses[fit.loss])
        if task.setup == "language_model":
            _check_language_model(f"config.fits.{name}", fit, spec)
        _check_loss(f"config.fits.{name}", fit, spec)
        tasks.augmentation(study.task["name"], fit.augment)
    properties = of_task(study.task["name"])
    for name in study.properties:
        known("config.properties", name, properties)
        if name == "perplexity" and task.setup != "language_model":
            raise ValueError(
                f"config.properties: perplexity needs config.task.setup='language_model', got {task.setup!r}"
            )
    for name in study.properties[:1]:
        _check_headline(name, properties)
    for name in study.fits:
        optimizer(study, name)
        own = study.fits[name].snapshots or study.train.snapshots
        schedule(**own, total_steps=steps_of(study, name), steps_per_epoch=1)


def check_task(study: Study, task: Task) -> None:
    """What can be known of a configuration only once its task is built."""
    if task.train.size < study.train.batch_size:
        raise ValueError(f"config.train.batch_size is {study.train.batch_size}, of {task.train.size} examples")
    if task.train.size < study.train.window:
        raise ValueError(f"config.train.window is {study.train.window}, of {task.train.size} examples")
    if study.train.buckets and "max_length" not in task.shapes:
        raise ValueError(f"config.train.buckets={study.train.buckets}: {task.name} has no lengths; use ()")
    if "corruptions" in study.properties and task.shapes["image_shape"] != CORRUPTIBLE:
        raise ValueError(
            f"config.properties: corruptions are of images {list(CORRUPTIBLE)}, as MNIST-C's; those of {task.name} are "
            f"{list(task.shapes['image_shape'])}: leave the property out"
        )


def _check_headline(name: str, properties: Mapping[str, Property]) -> None:
    if not has_direction(properties[name]):
        able = [other for other, prop in properties.items() if has_direction(prop)]
        raise ValueError(
            f"config.properties: the headline is said on the first, and {name!r} is no scalar property with a "
            f"direction; put one of these first: {', '.join(able)}"
        )


def _check_language_model(where: str, fit: Fit, spec: losses.LossSpec) -> None:
    if fit.match_entropy or (fit.teacher and fit.answers == "table"):
        raise ValueError(
            f"{where}: stored answers of a language model would be a vocabulary at every word; "
            "use answers='live', and no match_entropy"
        )
    if padded := [name for name, term in spec.items() if term.where is None]:
        raise ValueError(
            f"{where}.loss={fit.loss!r} would learn from the padding after a sentence ({', '.join(padded)}): "
            "give its terms where='batch.mask'"
        )


def _check_loss(where: str, fit: Fit, spec: losses.LossSpec) -> None:
    asks = [name for name, term in spec.items() if any(path.startswith("teacher.") for path in term.inputs)]
    if asks and fit.answers == "online":
        raise ValueError(
            f"{where}.answers='online' has no teacher outside the student ({', '.join(asks)}): ask for "
            "'student.hidden.teacher_logits', and train it by 'student.hidden.teacher_train_logits'"
        )
    if asks and not fit.teacher:
        raise ValueError(f"{where}.loss={fit.loss!r} asks a teacher ({', '.join(asks)}), and the fit has none")
    hidden = [name for name, term in spec.items() if any(path.startswith("teacher.hidden.") for path in term.inputs)]
    if hidden and fit.answers == "table":
        raise ValueError(
            f"{where}.answers='table' stores logits, and {fit.loss!r} asks for what is hidden ({', '.join(hidden)}); "
            "use answers='live'"
        )
    if fit.match_entropy and not any("epsilon" in term.hparams for term in spec.values()):
        raise ValueError(f"{where}.match_entropy needs a label_smoothing term, {fit.loss!r} has {', '.join(spec)}")


def _check_model(where: str, fields: Mapping[str, Any]) -> None:
    if "preset" not in fields:
        raise ValueError(f"{where} lacks 'preset'; known: {', '.join(models.PRESETS)}")
    known(f"{where}.preset", fields["preset"], models.PRESETS)
    for field, value in fields.items():
        if field != "preset" and value is not None:
            known(f"{where}.{field}", field, models.known_fields(fields["preset"]))


def train(lab: Lab) -> None:
    """Every fit in topological order; finished runs are not touched."""
    study, workdir = lab.study, lab.workdir
    runs = {fit: [*development_runs(study, fit), *main_runs(study, fit)] for fit in trained_fits(study)}
    left = {
        fit: sum(
            not fits.is_finished(fit_folder(study, fit, workdir) / run.name, steps_of(study, fit)) for run in runs[fit]
        )
        for fit in runs
    }
    for fit in {study.fits[fit].model: fit for fit in runs}.values():
        print(overview(fit, lab))
    with Progress({fit: steps_of(study, fit) * n for fit, n in left.items()}) as progress, Logbook(workdir) as logbook:
        for generation in generations(study):
            for names in _alike(generation, lab):
                _train_together(names, lab, progress, logbook)
    write_json(workdir / "failures.json", failures(study, workdir))


def overview(fit: str, lab: Lab) -> str:
    """The table of a fit's parameters, by clu."""
    from clu import parameter_overview

    params = jax.eval_shape(model_of(fit, lab).init, lab.root, gather(lab.data, slice(0, 1)))["params"]
    return f"{lab.study.fits[fit].model}\n{parameter_overview.get_parameter_overview(params, include_stats=False)}"


def _alike(names: list[str], lab: Lab) -> list[list[str]]:
    """The fits that one program trains, together: students of many snapshots, say, or at many alphas."""
    populations: dict[Any, list[str]] = {}
    for name in names:
        populations.setdefault(trains_alike(name, plan_of(name, lab), lab), []).append(name)
    return list(populations.values())


def _train_together(names: list[str], lab: Lab, progress: Progress, logbook: Logbook) -> None:
    """The development runs of the fits, the choice of their learning rates, then the main runs."""
    study, plan = lab.study, plan_of(names[0], lab)
    grids = {name: grid for name in names if (grid := development_runs(study, name))}
    if grids:
        fits.train(jobs_of([run for grid in grids.values() for run in grid], plan, lab), plan, progress, logbook)
    for name, grid in grids.items():
        folder = fit_folder(study, name, lab.workdir)
        write_json(folder / "tuning.json", choose_learning_rate(grid, folder, plan.recipe.steps))
    fits.train(jobs_of([run for name in names for run in main_runs(study, name)], plan, lab), plan, progress, logbook)


def _is_complete(study: Study, workdir: Path) -> bool:
    """Whether nothing is left to train or to measure, found out without building the task."""
    finished = all(
        fits.is_finished(fit_folder(study, fit, workdir) / run.name, steps_of(study, fit))
        for fit in trained_fits(study)
        for run in main_runs(study, fit)
    )
    if not finished or not (workdir / "measured.json").exists():
        return False
    done, everyone = read_json(workdir / "measured.json"), subjects(study, workdir)
    return all(unit in done.get(name, []) for name in study.properties for unit in units_of(name, everyone, study))
