"""Checks of a configuration before anything is trained: names, then the task, teachers and losses."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdib import losses, models, tasks
from kdib.config import Fit, Study, parse
from kdib.fields import known
from kdib.fit import is_finished
from kdib.models.base import Model
from kdib.properties import of_task
from kdib.properties.base import Property
from kdib.records import read_json
from kdib.runs import main_runs, steps_of, trained_fits
from kdib.snapshots import SCHEDULES, SnapshotError, SnapshotIndex, schedule
from kdib.step import METRICS, init_state, predict, train_step
from kdib.tasks.base import Task, gather
from kdib.tasks.images.corruptions import SHAPE as CORRUPTIBLE
from kdib.teaching import Lab, load_last, model_of, optimizer, plan_of, snapshot_steps
from kdib.verdict import has_direction


def check_names(study: Study) -> None:
    """Check all names before anything runs: presets, losses, properties, schedules and the task's settings."""
    task = tasks.settings(study.task)
    for name, fields in study.models.items():
        _check_model(f"config.models.{name}", fields)
    for name, spec in study.losses.items():
        if taken := {*METRICS, "parameters"} & spec.keys():
            raise ValueError(f"config.losses.{name}: a step itself reports {', '.join(taken)}; rename the term")
    for name, fit in study.fits.items():
        spec = _spec(fit.loss, study)
        if task.setup == "language_model":
            _check_language_model(f"config.fits.{name}", fit, spec)
        _check_loss(f"config.fits.{name}", fit, spec)
        try:
            tasks.augmentation(study.task["name"], fit.augment)
        except ValueError as error:
            raise ValueError(f"config.fits.{name}.augment: {error}") from error
    properties = of_task(study.task["name"])
    for name in study.properties:
        known("config.properties", name, properties)
        if name == "perplexity" and task.setup != "language_model":
            raise ValueError(
                f"config.properties: perplexity needs config.task.setup='language_model', got {task.setup!r}"
            )
    for name in study.properties[:1]:
        _check_headline(name, properties)
    for name, fit in study.fits.items():
        _in_config("train", name, optimizer, study, name)
        where, own = (
            (f"fits.{name}.snapshots", fit.snapshots) if fit.snapshots else ("train.snapshots", study.train.snapshots)
        )
        if "name" not in own:
            raise ValueError(f"config.{where} lacks 'name'; known: {', '.join(SCHEDULES)}")
        _in_config(where, name, schedule, **own, total_steps=steps_of(study, name), steps_per_epoch=1)


def _in_config(where: str, fit: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Call `function`; a ValueError names the field `where` and the fit."""
    try:
        function(*args, **kwargs)
    except ValueError as error:
        raise ValueError(f"config.{where}, of fit {fit}: {error}") from error


def _check_model(where: str, fields: Mapping[str, Any]) -> None:
    if "preset" not in fields:
        raise ValueError(f"{where} lacks 'preset'; known: {', '.join(models.PRESETS)}")
    if not models.is_own(fields["preset"]):
        known(f"{where}.preset", fields["preset"], models.PRESETS)
    for field, value in fields.items():
        if field != "preset" and value is not None:
            known(f"{where}.{field}", field, models.known_fields(fields["preset"]))


def _spec(loss: str, study: Study) -> losses.LossSpec:
    try:
        return losses.from_config(study.losses[loss])
    except ValueError as error:
        raise ValueError(f"config.losses.{loss}: {error}") from error


def _check_loss(where: str, fit: Fit, spec: losses.LossSpec) -> None:
    asks = [name for name, term in spec.items() if any(path.startswith("teacher.") for path in term.inputs)]
    if asks and fit.answers == "online":
        raise ValueError(
            f"{where}.answers='online' has no teacher outside the student, but {', '.join(asks)} needs one: read "
            "'student.hidden.teacher_logits', and train it by 'student.hidden.teacher_train_logits'"
        )
    if asks and not fit.teacher:
        raise ValueError(f"{where}.loss={fit.loss!r} needs a teacher ({', '.join(asks)}), and the fit has none")
    hidden = [name for name, term in spec.items() if any(path.startswith("teacher.hidden.") for path in term.inputs)]
    if hidden and fit.answers == "table":
        raise ValueError(
            f"{where}.answers='table' stores only logits, and {fit.loss!r} needs hidden layers ({', '.join(hidden)}); "
            "use answers='live'"
        )
    labelled = [name for name, term in spec.items() if "batch.label" in term.inputs]
    if fit.augment.get("name") == "mixup" and labelled:
        raise ValueError(
            f"{where}.augment: mixup mixes images but not labels, which {fit.loss!r} reads ({', '.join(labelled)}); "
            "use a loss on the teacher's outputs only, with answers='live'"
        )
    if fit.match_entropy and not any("epsilon" in term.hparams for term in spec.values()):
        raise ValueError(f"{where}.match_entropy needs a label_smoothing term, {fit.loss!r} has {', '.join(spec)}")


def _check_language_model(where: str, fit: Fit, spec: losses.LossSpec) -> None:
    if fit.match_entropy or (fit.teacher and fit.answers == "table"):
        raise ValueError(
            f"{where}: stored outputs of a language model would hold a vocabulary for every word; "
            "use answers='live' and no match_entropy"
        )
    if padded := [name for name, term in spec.items() if term.where is None]:
        raise ValueError(
            f"{where}.loss={fit.loss!r} would learn from the padding after a sentence ({', '.join(padded)}): "
            "give its terms where='batch.mask'"
        )


def _check_headline(name: str, properties: Mapping[str, Property]) -> None:
    if not has_direction(properties[name]):
        able = [other for other, prop in properties.items() if has_direction(prop)]
        raise ValueError(
            f"config.properties: the headline uses the first property, but {name!r} is no scalar property with a "
            f"direction; put one of these first: {', '.join(able)}"
        )


def check_task(study: Study, task: Task) -> None:
    """Check what can be checked only once the task is built."""
    if task.train.size < study.train.batch_size:
        size = study.train.batch_size
        raise ValueError(f"config.train.batch_size is {size}, but there are {task.train.size} examples")
    if task.train.size < study.train.window:
        raise ValueError(f"config.train.window is {study.train.window}, but there are {task.train.size} examples")
    if study.train.buckets and "max_length" not in task.shapes:
        raise ValueError(f"config.train.buckets={study.train.buckets}: inputs of {task.name} have no lengths; use ()")
    for name in study.properties:
        least = of_task(study.task["name"])[name].least
        if small := [f"{test!r} has {data.size}" for test, data in task.tests.items() if data.size < least]:
            raise ValueError(f"config.properties: {name} needs {least} examples per test set; {', '.join(small)}")
    if "corruptions" in study.properties and task.shapes["image_shape"] != CORRUPTIBLE:
        raise ValueError(
            f"config.properties: corruptions need images {list(CORRUPTIBLE)}, like those of MNIST-C; {task.name} has "
            f"{list(task.shapes['image_shape'])}: leave the property out"
        )


def check_teachers(lab: Lab) -> None:
    """Check, before hours of training, that every teaching snapshot will exist and every augmentation can be drawn.

    Raises:
      ValueError: for a step at which a teacher is not saved (the message lists the saved ones), for a student that
        starts from its teacher's weights, or for an argument that an augmentation refuses.
    """
    seen: set[tuple[Model, Model]] = set()
    for name, fit in lab.study.fits.items():
        _check_initial_values(name, fit, lab, seen)
        if augment := tasks.augmentation(lab.study.task["name"], fit.augment):
            jax.eval_shape(augment, lab.root, gather(lab.data, slice(0, 1)))
        wanted = {*fit.teacher_steps, *([fit.as_soft_as] if fit.as_soft_as >= 0 else [])}
        if not wanted:
            continue
        saved = _saved_steps(fit.teacher, lab)
        if absent := sorted(wanted - {*saved}):
            raise ValueError(
                f"config.fits.{name}: {fit.teacher} is not saved at steps {absent}; it is saved at {saved}"
            )


def _check_initial_values(name: str, fit: Fit, lab: Lab, seen: set[tuple[Model, Model]]) -> None:
    """Two networks of different configs, such as other dropout rates, may draw the same initial values from one key.

    `config.parse` compares the configs; here the values decide. `seen` are pairs of networks known to differ.
    """
    teacher = lab.study.fits.get(fit.teacher)
    if not teacher or teacher.path or "online" in (fit.answers, teacher.answers):
        return
    if (fit.seeds == "peer") != (teacher.seeds == "peer"):
        return
    example: Any = gather(lab.data, slice(0, 1))
    pair = model_of(name, lab), model_of(fit.teacher, lab)
    if pair in seen:
        return
    seen.add(pair)
    inits = [model.init for model in pair]
    own, theirs = (jax.eval_shape(init, lab.root, example)["params"] for init in inits)
    if own != theirs:
        return
    own, theirs = (init(lab.root, example)["params"] for init in inits)
    if all(jax.tree.leaves(jax.tree.map(np.array_equal, own, theirs))):
        raise ValueError(
            f"config.fits.{name} would start from its teacher's own weights: models {fit.model!r} and "
            f"{teacher.model!r} draw the same initial values; give one of the fits seeds='peer'"
        )


def _saved_steps(teacher: str, lab: Lab) -> tuple[int, ...]:
    """The steps at which a teacher will be saved or, if it is opened by path, at which all of its runs are saved."""
    path = lab.study.fits[teacher].path
    if not path:
        return snapshot_steps(teacher, lab)
    steps = []
    for run in main_runs(lab.study, teacher):
        with SnapshotIndex(Path(path) / run.name / "snapshots", read_only=True) as index:
            steps.append({*index.steps()})
    return tuple(sorted(set.intersection(*steps)))


def check_losses(lab: Lab) -> None:
    """Trace a step of every fit without arrays, to find missing layers of a loss before hours of training.

    Raises:
      ValueError: for a path that does not exist (the message lists the layers with their shapes) or for incompatible
        shapes.
    """
    two = jax.eval_shape(dict, gather(lab.data, slice(0, 2)))
    seen = set()
    for name in trained_fits(lab.study):
        arch, own = plan_of(name, lab).arch, lab.study.fits[name]
        spec = losses.from_config(lab.study.losses[own.loss])
        traced = (arch, own.teacher and model_of(own.teacher, lab), jax.tree.structure(spec))
        if traced in seen:
            continue
        seen.add(traced)
        try:
            teacher = _abstract_teacher(own, two, lab)
            state = jax.eval_shape(functools.partial(init_state, arch=arch), lab.root, lab.root, two, teacher)
            jax.eval_shape(functools.partial(train_step, arch=arch), state, two, teacher, spec)
        except (ValueError, TypeError) as error:
            raise ValueError(f"config.fits.{name}.loss={own.loss!r}: {error}") from error


def _abstract_teacher(fit: Fit, batch: Any, lab: Lab) -> Any:
    """The shapes of a teacher's variables, which are the same for all runs."""
    if not fit.teacher or fit.answers == "online":
        return {"params": {}}
    model = model_of(fit.teacher, lab)
    variables = jax.eval_shape(model.init, lab.root, batch)
    if fit.answers == "live":
        return {"params": (variables,)} if fit.ensemble else variables
    logits_BxK = jax.eval_shape(functools.partial(predict, model=model), variables, batch).logits
    answers = jax.ShapeDtypeStruct((1, *logits_BxK.shape), logits_BxK.dtype)
    return {"params": {"teacher": jax.ShapeDtypeStruct((), jnp.int32)}, "answers": answers}


def check_opened_by_path(lab: Lab) -> None:
    """Read every run that is opened by path, so that a wrong one is found before hours of training.

    Raises:
      SnapshotError: as `load_last`, and for a run that is unfinished there or belongs to another network.
    """
    for name, fit in lab.study.fits.items():
        for run in main_runs(lab.study, name) if fit.path else ():
            folder = Path(fit.path) / run.name
            if not is_finished(folder, _steps_there(Path(fit.path))):
                raise SnapshotError(f"config.fits.{name}.path: {folder} is not a finished run of a kdib workdir")
            model = model_of(name, lab)
            variables = jax.eval_shape(model.init, lab.root, gather(lab.data, slice(0, 1)))
            try:
                load_last(folder, lab, variables)
            except SnapshotError as error:
                raise SnapshotError(
                    f"config.fits.{name}.path, with the model {fit.model!r} of this study: {error}"
                ) from error


def _steps_there(folder: Path) -> int:
    """The steps of a fit of another workdir; -1, which no run reaches, if `folder` is not such a fit."""
    path = folder.parent.parent / "config.json"
    if not path.exists():
        return -1
    config = read_json(path)
    if not isinstance(config, dict) or "environment" not in config:
        return -1
    config.pop("environment")
    try:
        other = parse(config)  # a field that was added later had its default
    except ValueError as error:
        raise SnapshotError(f"{path} is not a configuration of this version of kdib: {error}") from error
    return steps_of(other, folder.name) if folder.name in other.fits else -1
