"""A study, told in order: train every fit, measure every subject, write the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from kdib import fit as fits
from kdib import losses, models, report, tasks
from kdib.answers import answer
from kdib.config import Fit, Study, known, parse
from kdib.logbook import Logbook
from kdib.progress import Progress
from kdib.properties import of_task
from kdib.properties.base import Evidence, Property
from kdib.records import Records, Row, Subject, read_json, write_json
from kdib.runs import (
    choose_learning_rate,
    development_runs,
    failures,
    fit_folder,
    main_runs,
    steps_of,
    subjects,
    trained_fits,
)
from kdib.snapshots import schedule
from kdib.step import METRICS
from kdib.tasks.base import gather
from kdib.teaching import Lab, check_opened_by_path, jobs_of, load_last, model_of, open_lab, optimizer, plan_of
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
            if task.train.size < study.train.batch_size:
                raise ValueError(f"config.train.batch_size is {study.train.batch_size}, of {task.train.size} examples")
            if task.train.size < study.train.window:
                raise ValueError(f"config.train.window is {study.train.window}, of {task.train.size} examples")
            write_json(workdir / "task.json", dict(task.facts))
            lab = open_lab(study, task, workdir)
            check_opened_by_path(lab)
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
        schedule(**study.train.snapshots, total_steps=steps_of(study, name), steps_per_epoch=1)


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
        for fit in runs:
            _train_fit(fit, lab, progress, logbook)
    write_json(workdir / "failures.json", failures(study, workdir))


def overview(fit: str, lab: Lab) -> str:
    """The table of a fit's parameters, by clu."""
    from clu import parameter_overview

    params = jax.eval_shape(model_of(fit, lab).init, lab.root, gather(lab.data, slice(0, 1)))["params"]
    return f"{lab.study.fits[fit].model}\n{parameter_overview.get_parameter_overview(params, include_stats=False)}"


def _train_fit(fit: str, lab: Lab, progress: Progress, logbook: Logbook) -> None:
    """The development runs, the choice of the learning rate, then the main runs."""
    plan, grid = plan_of(fit, lab), development_runs(lab.study, fit)
    if grid:
        fits.train(jobs_of(grid, plan, lab), plan, progress, logbook)
        write_json(plan.folder / "tuning.json", choose_learning_rate(grid, plan.folder, plan.recipe.steps))
    fits.train(jobs_of(main_runs(lab.study, fit), plan, lab), plan, progress, logbook)


def measure(lab: Lab) -> None:
    """The rows that are missing: a property is measured once for a subject, or a pair of them."""
    everyone = subjects(lab.study, lab.workdir)
    table, _ = Records(lab.workdir / "subjects.jsonl", Subject).read()
    Records(lab.workdir / "subjects.jsonl", Subject).append([s for s in everyone if s not in table])
    done_path = lab.workdir / "measured.json"
    done = read_json(done_path) if done_path.exists() else {}
    rows = Records(lab.workdir / "rows.jsonl", Row)
    ask, properties = _asker(lab), of_task(lab.study.task["name"])
    for name in lab.study.properties:
        wanted = _units(name, everyone, lab.study)
        missing = {unit: value for unit, value in wanted.items() if unit not in done.setdefault(name, [])}
        if not missing:
            continue
        pairs = [pair for pair in missing.values() if len(pair) == 2]
        alone = [pair[0] for pair in missing.values() if len(pair) == 1]
        evidence = Evidence(lab.task.tests, lambda *of: ask(*of).logits, pairs, lambda *of: ask(*of).nll)
        stored = {row.key for row in rows.read()[0]}  # a crash between the rows and `measured.json` leaves some
        rows.append([row for row in properties[name].measure(alone, evidence) if row.key not in stored])
        done[name] += list(missing)
        write_json(done_path, done)


def _units(name: str, everyone: list[Subject], study: Study) -> dict[str, tuple[Subject, ...]]:
    """What a property is measured on: every subject, or every (student, teacher) pair."""
    if of_task(study.task["name"])[name].kind == "scalar":
        return {subject.id: (subject,) for subject in everyone}
    return {f"{student.id} | {teacher.id}": (student, teacher) for student, teacher in _pairs(everyone, study)}


def _pairs(everyone: list[Subject], study: Study) -> list[tuple[Subject, Subject]]:
    """Every subject with every run of the teacher's role (own, siblings, the floor) and of the fit it learned from."""
    return [
        (student, teacher)
        for student in everyone
        for teacher in everyone
        if teacher.fit in (study.roles.teacher, study.fits[student.fit].teacher) and teacher.id != student.id
    ]


def _asker(lab: Lab):
    """Answers to (subject, name of a test set), each computed once."""
    answers, variables = {}, {}

    def ask(subject: Subject, split: str):
        if (subject.id, split) not in answers:
            if subject.id not in variables:
                variables[subject.id] = load_last(fit_folder(lab.study, subject.fit, lab.workdir) / subject.run, lab)
            model = model_of(subject.fit, lab)
            answers[subject.id, split] = answer(model, variables[subject.id], lab.task.tests[split].inputs)
        return answers[subject.id, split]

    return ask


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
    return all(unit in done.get(name, []) for name in study.properties for unit in _units(name, everyone, study))
