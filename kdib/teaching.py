"""What each run learns from: the plan of a fit, and for every run its teacher's variables and its loss."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdib import losses, models
from kdib.answers import answer, matched_epsilon, shuffled_within_class, summary
from kdib.config import Fit, Study, parse
from kdib.feed import steps_per_epoch
from kdib.fit import Job, Plan, discard_state, is_finished
from kdib.losses import LossSpec
from kdib.models.base import Model, Variables, nothing, table
from kdib.models.combinators import PARTS, RULES, ensemble, pair
from kdib.optimizer import make_optimizer
from kdib.records import RunSpec, read_json, write_json
from kdib.runs import fit_folder, learning_rate, main_runs, steps_of, teacher_folder, teacher_folders
from kdib.snapshots import SnapshotError, SnapshotIndex, schedule
from kdib.step import Architecture
from kdib.tasks.base import Task

SHUFFLE_STREAM = 2  # what the root key is folded with for permutations; fit.py has 0 and 1


class Lab(NamedTuple):
    """A study with its task built, its training data where it is trained from, and its folder."""

    study: Study
    task: Task
    data: Mapping[str, Any]  # on the device, or with train.window where the task has them
    root: jax.Array
    workdir: Path
    answers: dict[Path, np.ndarray]  # of teachers on the training set, by run: several fits ask the same one


def open_lab(study: Study, task: Task, workdir: Path) -> Lab:
    """Puts the training data on the device, unless they are brought window by window."""
    data = task.train.inputs
    if not study.train.window:
        data = {name: jnp.asarray(values) for name, values in data.items()}
    return Lab(study, task, data, jax.random.key(study.seed), workdir, {})


def model_of(fit: str, lab: Lab) -> Model:
    """The network of a fit, sized for the task; of an online fit student and teacher in one."""
    own = lab.study.fits[fit]
    student = _sized(own.model, lab)
    return pair(student, _sized(lab.study.fits[own.teacher].model, lab)) if own.answers == "online" else student


def _sized(model: str, lab: Lab) -> Model:
    _, length = lab.task.train.inputs["tokens"].shape
    return models.build(
        **lab.study.models[model],
        vocab_size=lab.task.facts["vocabulary_size"],
        num_classes=lab.task.num_classes,
        max_length=length,
    )


def plan_of(fit: str, lab: Lab) -> Plan:
    """What all runs of a fit share."""
    study, model = lab.study, model_of(fit, lab)
    recipe = replace(study.train, steps=steps_of(study, fit))
    validation = lab.task.validation.inputs
    epoch = steps_per_epoch(lab.task.train.size, recipe.batch_size, recipe.window)
    return Plan(
        fit=fit,
        folder=fit_folder(study, fit, lab.workdir),
        arch=Architecture(model, _teacher_model(study.fits[fit], lab), heads=(), tx=optimizer(study, fit)),
        recipe=recipe,
        root=lab.root,
        data=lab.data,
        edges=tuple(edge for edge in recipe.buckets if edge < lab.task.train.inputs["tokens"].shape[1]),
        snapshot_steps=schedule(**recipe.snapshots, total_steps=recipe.steps, steps_per_epoch=epoch),
        validate=lambda variables: summary(answer(model, variables, validation), validation),
        meta={"inputs": lab.task.input_digest},
    )


def optimizer(study: Study, fit: str):
    """The recipe's optimiser, its learning rate spread over the steps of the fit."""
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


def jobs_of(runs: Sequence[RunSpec], plan: Plan, lab: Lab) -> list[Job]:
    """The unfinished runs with what they learn from. A run whose teacher failed is recorded as failed."""
    jobs = []
    for run in runs:
        if is_finished(plan.folder / run.name, plan.recipe.steps):
            discard_state(plan.folder / run.name)
            continue
        failed = _failed_teacher(run, lab)
        if failed:
            record = {"fit": run.fit, "run": run.name, "step": 0, "metric": f"its teacher {failed} went non-finite"}
            (plan.folder / run.name).mkdir(parents=True, exist_ok=True)
            write_json(plan.folder / run.name / "failure.json", record)
        else:
            jobs.append(_job(run, lab))
    return jobs


def _failed_teacher(run: RunSpec, lab: Lab) -> str:
    """The first run it needs that went non-finite: an ensemble is whole or does not teach."""
    folders = teacher_folders(lab.study, run, lab.workdir)
    if match := lab.study.fits[run.fit].match_entropy:
        folders.append(teacher_folder(lab.study, match, run, lab.workdir))
    return next((f"{f.parent.name}/{f.name}" for f in folders if (f / "failure.json").exists()), "")


def _job(run: RunSpec, lab: Lab) -> Job:
    fit = lab.study.fits[run.fit]
    loss = losses.from_config(lab.study.losses[fit.loss])
    if fit.match_entropy:
        folder = teacher_folder(lab.study, fit.match_entropy, run, lab.workdir)
        loss = with_epsilon(loss, matched_epsilon(_stored_answers(fit.match_entropy, folder, lab)))
    return Job(run, _teacher_variables(fit, run, lab), loss, learning_rate(lab.study, run, lab.workdir))


def with_epsilon(spec: LossSpec, epsilon: float) -> LossSpec:
    """The spec with every label smoothing's epsilon set."""
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


def _teacher_variables(fit: Fit, run: RunSpec, lab: Lab) -> Variables:
    if not fit.teacher or fit.answers == "online":
        return {"params": {}}
    folders = teacher_folders(lab.study, run, lab.workdir)
    if fit.answers == "live":
        members = tuple(load_last(folder, lab) for folder in folders)
        return {"params": members} if fit.ensemble else members[0]
    logits_ExNxK = np.stack([_stored_answers(fit.teacher, folder, lab) for folder in folders])
    logits_NxK = np.array(RULES[fit.ensemble](jnp.asarray(logits_ExNxK))) if fit.ensemble else logits_ExNxK[0]
    if fit.shuffle:
        key = jax.random.fold_in(jax.random.fold_in(lab.root, SHUFFLE_STREAM), run.order)
        logits_NxK = shuffled_within_class(key, logits_NxK, lab.task.train.inputs["label"])
    return {"params": {"logits": jnp.asarray(logits_NxK)}}


def _stored_answers(teacher: str, folder: Path, lab: Lab) -> np.ndarray:
    """The logits [N, K] on the training set of the teacher's run in `folder`."""
    if folder not in lab.answers:
        lab.answers[folder] = answer(model_of(teacher, lab), load_last(folder, lab), lab.task.train.inputs).logits
    return lab.answers[folder]


def check_opened_by_path(lab: Lab) -> None:
    """Reads every run that another workdir lends, so that a wrong one is found before hours of training.

    Raises:
      SnapshotError: as `load_last`, or for a run that was not finished there.
    """
    for name, fit in lab.study.fits.items():
        for run in main_runs(lab.study, name) if fit.path else ():
            folder = Path(fit.path) / run.name
            if not is_finished(folder, _steps_there(Path(fit.path))):
                raise SnapshotError(f"config.fits.{name}.path: {folder} is not a finished run of a kdib workdir")
            load_last(folder, lab)


def _steps_there(folder: Path) -> int:
    """How long a fit of another workdir trains; -1, which no run reaches, if the folder is not one."""
    path = folder.parent.parent / "config.json"
    if not path.exists():
        return -1
    config = read_json(path)
    config.pop("environment")
    other = parse(config)  # a field that came later had its default
    return steps_of(other, folder.name) if folder.name in other.fits else -1


def load_last(run_folder: Path, lab: Lab) -> Variables:
    """The last snapshot of a run, if it was trained on inputs that mean the same as this study's.

    Raises:
      SnapshotError: if the snapshot is damaged, or its inputs (the vocabulary, say) were numbered otherwise.
    """
    with SnapshotIndex(run_folder / "snapshots", read_only=True) as index:
        step = index.steps()[-1]
        stored = index.meta(step)["inputs"]
        if stored != lab.task.input_digest:
            raise SnapshotError(
                f"{run_folder} was trained on inputs of digest {stored[:12]}, this study's have "
                f"{lab.task.input_digest[:12]}: use the task settings of that study"
            )
        return index.load(step)
