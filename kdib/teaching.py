"""The plan of a fit and, for each of its runs, the teacher's variables and the loss."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdib import losses, models, tasks
from kdib.answers import (
    answer,
    matched_epsilon,
    matched_temperature,
    mean_entropy,
    shuffled_within_class,
    summary,
)
from kdib.config import Fit, Study
from kdib.feed import steps_per_epoch
from kdib.fit import Job, Plan, discard_state, folder_of, is_finished
from kdib.losses import LossSpec
from kdib.models.base import Model, Variables, nothing, table
from kdib.models.combinators import PARTS, RULES, ensemble, pair
from kdib.models.heads import projector
from kdib.optimizer import make_optimizer
from kdib.progress import Progress
from kdib.records import RunSpec, write_json
from kdib.runs import learning_rate, steps_of, teacher_folder, teacher_folders
from kdib.snapshots import SnapshotError, SnapshotIndex, schedule
from kdib.step import Architecture
from kdib.tasks.base import Task

LAST = -1  # the step of a run's last snapshot
SHUFFLE_STREAM = 2  # folded into the root key for permutations; the other streams are in fit.py


class Lab(NamedTuple):
    """A study with its built task, its training data and its folder."""

    study: Study
    task: Task
    data: Mapping[str, Any]  # on the device or, with train.window, where the task holds them
    root: jax.Array
    workdir: Path
    answers: dict[Path, np.ndarray]  # teachers' logits on the training set, by snapshot: several fits share a teacher


def open_lab(study: Study, task: Task, workdir: Path) -> Lab:
    """Put the training data on the device, unless they are read window by window."""
    data = task.train.inputs
    if not study.train.window:
        data = {name: jnp.asarray(values) for name, values in data.items()}
    return Lab(study, task, data, jax.random.key(study.seed), workdir, {})


def model_of(fit: str, lab: Lab) -> Model:
    """The network of a fit, sized for the task; for an online fit, student and teacher as one model."""
    own = lab.study.fits[fit]
    student = _sized(own.model, lab)
    return pair(student, _sized(lab.study.fits[own.teacher].model, lab)) if own.answers == "online" else student


def _sized(model: str, lab: Lab) -> Model:
    return models.build(**lab.study.models[model], num_classes=lab.task.num_classes, **lab.task.shapes)


def plan_of(fit: str, lab: Lab) -> Plan:
    """The plan that all runs of a fit share, as do the runs of any fit that `trains_alike`."""
    study, model = lab.study, model_of(fit, lab)
    own, recipe = study.fits[fit], replace(study.train, steps=steps_of(study, fit))
    return Plan(
        folder=lab.workdir / "fits",
        arch=Architecture(
            model,
            _teacher_model(own, lab),
            heads=_heads(own, study),
            tx=optimizer(study, fit),
            augment=tasks.augmentation(study.task["name"], own.augment),
        ),
        recipe=recipe,
        root=lab.root,
        data=lab.data,
        edges=tuple(edge for edge in recipe.buckets if edge < lab.task.shapes["max_length"]),
        snapshot_steps=snapshot_steps(fit, lab),
        validate=lambda variables: _validation(model, variables, lab.task),
        meta={"inputs": lab.task.input_digest},
    )


def snapshot_steps(fit: str, lab: Lab) -> tuple[int, ...]:
    """The steps at which snapshots of a fit are saved."""
    recipe, own = lab.study.train, lab.study.fits[fit]
    epoch = steps_per_epoch(lab.task.train.size, recipe.batch_size, recipe.window)
    return schedule(**(own.snapshots or recipe.snapshots), total_steps=steps_of(lab.study, fit), steps_per_epoch=epoch)


def _validation(model: Model, variables: Variables, task: Task) -> dict[str, float]:
    """The metrics of a snapshot on the validation set and, prefixed by their names, on the other watched sets."""
    found = summary(answer(model, variables, task.validation.inputs), task.validation.inputs)
    for name, data in task.watched.items():
        metrics = summary(answer(model, variables, data.inputs), data.inputs)
        found |= {f"{name}_{metric}": value for metric, value in metrics.items()}
    return found


def trains_alike(fit: str, plan: Plan, lab: Lab) -> tuple[Any, ...]:
    """A key that is equal for fits whose runs differ in leaves only (weights, temperatures, teachers).

    One program trains such fits together.
    """
    own = lab.study.fits[fit]
    spec = losses.from_config(lab.study.losses[own.loss])
    # The members of an ensemble are part of the tree of its variables.
    members = (own.ensemble, len(own.teacher_steps)) if own.answers == "live" else ()
    shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(spec))  # a schedule may have more steps than another
    return plan.arch, plan.recipe.steps, plan.snapshot_steps, jax.tree.structure(spec), shapes, members


def _heads(fit: Fit, study: Study) -> tuple[tuple[str, Model], ...]:
    """A projector for every term of the loss that needs one."""
    return tuple((name, projector(*of)) for name, of in losses.projectors(study.losses[fit.loss]).items())


def optimizer(study: Study, fit: str):
    """The recipe's optimiser, with the learning-rate schedule stretched over the steps of the fit."""
    recipe = study.train
    return make_optimizer(
        recipe.optimizer,
        steps=steps_of(study, fit),
        warmup_steps=recipe.warmup_steps,
        schedule=recipe.schedule,
        weight_decay=recipe.weight_decay,
        clip_norm=recipe.clip_norm,
        l1=recipe.l1,
        l2=recipe.l2,
        parts=PARTS if study.fits[fit].answers == "online" else (),
    )


def jobs_of(runs: Sequence[RunSpec], plan: Plan, lab: Lab, progress: Progress) -> list[Job]:
    """The jobs of the unfinished runs; a run whose teacher failed is recorded as failed."""
    jobs = []
    for run in runs:
        folder = folder_of(run, plan)
        if is_finished(folder, plan.recipe.steps):
            discard_state(folder)
            continue
        failed = _failed_teacher(run, lab)
        if failed:
            record = {"fit": run.fit, "run": run.name, "step": 0, "metric": "", "teacher": failed}
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "failure.json", record)
            progress.note(f"{run.fit}/{run.name} is not trained, because its teacher {failed} went non-finite")
            progress.skip(run.fit, plan.recipe.steps)
        else:
            jobs.append(_job(run, lab))
    return jobs


def _failed_teacher(run: RunSpec, lab: Lab) -> str:
    """The first run needed by `run` that went non-finite, or ""; an ensemble teaches only if it is complete."""
    folders = teacher_folders(lab.study, run, lab.workdir)
    if match := lab.study.fits[run.fit].match_entropy:
        folders.append(teacher_folder(lab.study, match, run, lab.workdir))
    return next((f"{f.parent.name}/{f.name}" for f in folders if (f / "failure.json").exists()), "")


def _job(run: RunSpec, lab: Lab) -> Job:
    fit = lab.study.fits[run.fit]
    loss = losses.from_config(lab.study.losses[fit.loss])
    if fit.match_entropy:
        folder = teacher_folder(lab.study, fit.match_entropy, run, lab.workdir)
        softened_NxK = _stored_answers(fit.match_entropy, folder, LAST, lab) / fit.softness_at
        loss = with_epsilon(loss, matched_epsilon(softened_NxK))
    return Job(run, _teachers(fit, run, lab), loss, learning_rate(lab.study, run, lab.workdir))


def with_epsilon(spec: LossSpec, epsilon: float) -> LossSpec:
    """The spec with `epsilon` set in every label-smoothing term."""
    return {
        name: replace(term, hparams={**term.hparams, "epsilon": jnp.float32(epsilon)})
        if "epsilon" in term.hparams
        else term
        for name, term in spec.items()
    }


def _teacher_model(fit: Fit, lab: Lab) -> Model:
    if not fit.teacher or fit.answers == "online":
        return nothing()
    if fit.answers == "table":
        return table()
    model = model_of(fit.teacher, lab)
    return ensemble((model,), fit.ensemble) if fit.ensemble else model


def _teachers(fit: Fit, run: RunSpec, lab: Lab) -> tuple[Any, ...]:
    """The teachers of a run, one after another: variables, or for a table logits [N, K]."""
    if not fit.teacher or fit.answers == "online":
        return ({"params": {}},)
    folders = teacher_folders(lab.study, run, lab.workdir)
    members = [(folder, step) for folder in folders for step in fit.teacher_steps or (LAST,)]
    if fit.answers == "live":
        networks = tuple(load(folder, step, lab) for folder, step in members)
        return ({"params": networks},) if fit.ensemble else networks
    tables = [_softened(fit, folder, step, lab) for folder, step in members]
    if fit.ensemble:
        tables = [np.array(RULES[fit.ensemble](jnp.asarray(np.stack(tables))))]
    if fit.shuffle:
        key = jax.random.fold_in(jax.random.fold_in(lab.root, SHUFFLE_STREAM), run.order)
        tables = [shuffled_within_class(key, table, lab.task.train.inputs["label"]) for table in tables]
    return tuple(tables)


def _softened(fit: Fit, folder: Path, step: int, lab: Lab) -> np.ndarray:
    """A snapshot's stored logits, with the mean entropy of another snapshot's if the fit sets `as_soft_as`."""
    logits_NxK = _stored_answers(fit.teacher, folder, step, lab)
    if fit.as_soft_as < 0:
        return logits_NxK
    target = mean_entropy(_stored_answers(fit.teacher, folder, fit.as_soft_as, lab) / fit.softness_at)
    return logits_NxK / np.float32(matched_temperature(logits_NxK / fit.softness_at, target))


def _stored_answers(teacher: str, folder: Path, step: int, lab: Lab) -> np.ndarray:
    """The logits [N, K] of a snapshot of the teacher's run in `folder` on the training set."""
    step = last_step(folder) if step == LAST else step
    place = folder / str(step)
    if place not in lab.answers:
        try:
            lab.answers[place] = answer(model_of(teacher, lab), load(folder, step, lab), lab.task.train.inputs).logits
        except FloatingPointError as error:
            raise FloatingPointError(f"{folder}, step {step}, on the training set: {error}") from error
    return lab.answers[place]


def last_step(run_folder: Path) -> int:
    """The step of a run's last snapshot."""
    with SnapshotIndex(run_folder / "snapshots", read_only=True) as index:
        return index.steps()[-1]


def load_last(run_folder: Path, lab: Lab, template: Any = None) -> Variables:
    """The last snapshot of a run; raises as `load`."""
    return load(run_folder, LAST, lab, template)


def load(run_folder: Path, step: int, lab: Lab, template: Any = None) -> Variables:
    """Load a snapshot of a run whose training inputs have the same encoding as this study's.

    Raises:
      SnapshotError: if the snapshot is absent, damaged or not of the template's form, or if its inputs (for example the
        vocabulary) are encoded differently.
    """
    with SnapshotIndex(run_folder / "snapshots", read_only=True) as index:
        step = index.steps()[-1] if step == LAST else step
        stored = index.meta(step)["inputs"]
        if stored != lab.task.input_digest:
            raise SnapshotError(
                f"{run_folder} was trained on inputs of digest {stored[:12]}, this study's have "
                f"{lab.task.input_digest[:12]}: use the task settings of that study"
            )
        return index.load(step, template)
