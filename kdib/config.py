"""A study's configuration as frozen dataclasses; every name is checked before anything runs."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from kdib.fields import flatten, from_mapping, known
from kdib.ranges import AT_LEAST_0, COUNT, POSITIVE, SOME, Range, check


@dataclasses.dataclass(frozen=True)
class Train:
    """The training recipe that all fits share."""

    steps: int
    batch_size: int
    optimizer: str  # adamw, adam, radam, sgd
    learning_rate: float  # peak; replaced by the grid's choice when tune.learning_rates is not empty
    warmup_steps: int
    schedule: Mapping[str, Any]  # of the learning rate: {"name": one in kdib.losses.SCHEDULES, **knobs}
    weight_decay: float
    clip_norm: float
    chunk: int  # maximum number of steps per compiled call
    group_size: int  # runs trained in lockstep; on a CPU each has its own device
    save_every: int  # number of steps between resumable states
    snapshots: Mapping[str, Any]  # {"name": every | powers_of_two_epochs | dense_then_sparse | explicit, **knobs}
    buckets: tuple[int, ...] = ()  # a batch is cut to one of these lengths; one program holds a step for each
    window: int = 0  # number of examples that grain reads from the disk at a time; 0: all are on the device
    l1: float = 0.0  # weight of sum |w| over kernels and embeddings, a term of the loss
    l2: float = 0.0  # weight of sum w^2, likewise; weight_decay is decoupled


@dataclasses.dataclass(frozen=True)
class Tune:
    """A small grid, the same for every fit; runs with development seeds choose from it on the validation set.

    Without learning rates nothing is tuned.
    """

    learning_rates: tuple[float, ...]
    seeds: int  # number of development seeds per grid point


@dataclasses.dataclass(frozen=True)
class Fit:
    """One training condition: the student's model, its teacher and its loss."""

    model: str
    loss: str
    teacher: str = ""  # another fit; "": learn from labels
    teacher_steps: tuple[int, ...] = ()  # its snapshots, in sequence or as an `ensemble`; (): its last one
    ensemble: str = ""  # mean_probability or mean_logit of all the teacher's seeds, or of several teacher_steps
    answers: str = "table"  # table: teacher evaluated once, before; live: at every step; online: trained jointly
    shuffle: bool = False  # permute the teacher's outputs within each class (needs answers="table")
    as_soft_as: int = -1  # a step: match the mean entropy of the teacher's snapshot at this step (needs a table)
    augment: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # {"name": one of the task's, **knobs}
    softness_at: float = 1.0  # temperature at which as_soft_as and match_entropy compare: that of the loss
    match_entropy: str = ""  # a fit: set label_smoothing's epsilon so that its targets have that fit's entropy
    seeds: str = "main"  # main; peer: initialization disjoint from all main runs; reordered: the data order is
    snapshots: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of this fit; {}: those of train
    budget: float = 1.0  # steps as a multiple of train.steps; 2.0: its own plus those of its teacher
    path: str = ""  # a fit folder of another workdir, whose runs are opened instead of trained

    @property
    def learns_from_all_seeds(self) -> bool:
        """Whether its teacher is an ensemble of seeds instead of the run with the paired seed."""
        return bool(self.ensemble) and len(self.teacher_steps) < 2


@dataclasses.dataclass(frozen=True)
class Roles:
    """The fit that has each role in the estimands."""

    teacher: str
    alone: str
    self: str
    distilled: str


@dataclasses.dataclass(frozen=True)
class FitCurve:
    """A figure of the report: the fits of `x` against their x values, and the fits of `beside` as horizontal bands."""

    x: Mapping[str, float]  # fit -> its value on the x axis
    xlabel: str
    log: bool = False  # logarithmic x axis
    beside: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Study:
    """The whole configuration."""

    title: str
    seed: int  # the root key
    seeds: int  # paired seeds
    task: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    losses: Mapping[str, Mapping[str, Any]]
    fits: Mapping[str, Fit]
    roles: Roles
    train: Train
    tune: Tune
    properties: tuple[str, ...]
    published: Mapping[str, Any]
    grid: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)  # student -> column -> fit
    curves: Mapping[str, FitCurve] = dataclasses.field(default_factory=dict)  # figures of the report, one section each


CHOICES = {
    "ensemble": ("", "mean_probability", "mean_logit"),
    "answers": ("table", "live", "online"),
    "seeds": ("main", "peer", "reordered"),
}
TRAIN = {  # the ranges of the recipe's numbers
    **dict.fromkeys(("steps", "batch_size", "chunk", "group_size", "save_every"), SOME),
    **dict.fromkeys(("learning_rate", "clip_norm"), POSITIVE),
    **dict.fromkeys(("weight_decay", "l1", "l2"), AT_LEAST_0),
    **dict.fromkeys(("warmup_steps", "window"), COUNT),
}
MAY_CHANGE = (
    "title",
    "seeds",
    "properties",
    "published",
    "grid",
    "curves",
    "train.group_size",
)  # on an existing workdir; no trained run depends on them (but see `difference`)


def parse(config: Mapping[str, Any]) -> Study:
    """Convert plain nested dicts to a Study.

    Raises:
      ValueError: in one line, for a missing or unknown field, a wrong type, or an undefined name.
    """
    study = from_mapping(Study, config, "config")
    for name, fit in study.fits.items():
        _check_fit(name, fit, study)
    roles = dataclasses.asdict(study.roles)
    for role, name in roles.items():
        known(f"config.roles.{role}", name, study.fits)
        if role in study.fits and role not in roles.values():
            raise ValueError(
                f"config.fits.{role} has the name of a role, which config.roles gives to {name!r}; rename it"
            )
    for student, columns in study.grid.items():
        for column, name in columns.items():
            known(f"config.grid.{student}.{column}", name, study.fits)
    for name, curve in study.curves.items():
        _check_curve(f"config.curves.{name}", curve, study)
    check("config.seeds", study.seeds, SOME)
    for name, allowed in TRAIN.items():
        check(f"config.train.{name}", getattr(study.train, name), allowed)
    _check_tune(study.tune)
    _check_published(study.published)
    if list(study.train.buckets) != sorted({*study.train.buckets}) or min(study.train.buckets, default=1) < 1:
        raise ValueError(f"config.train.buckets must be increasing lengths, got {study.train.buckets}")
    if study.train.window and study.train.window < study.train.batch_size:
        raise ValueError(
            f"config.train.window must be 0 or at least batch_size={study.train.batch_size}, got {study.train.window}"
        )
    topological(study.fits)
    _check_storable(as_dict(study))
    return study


def _check_storable(config: Mapping[str, Any]) -> None:
    """The workdir keeps the configuration as JSON, which has no place for an array or a number of NumPy."""
    for name, value in flatten(config).items():
        try:
            json.dumps(value, allow_nan=False)
        except TypeError:
            raise ValueError(
                f"config.{name} must be a plain number, text, bool, None, tuple or mapping of Python, "
                f"got {value!r} of type {type(value).__name__}"
            ) from None
        except ValueError:
            raise ValueError(f"config.{name} must be finite, got {value!r}") from None


def _check_tune(tune: Tune) -> None:
    for rate in tune.learning_rates:
        check("config.tune.learning_rates", rate, POSITIVE)
    if len({*tune.learning_rates}) < len(tune.learning_rates):
        raise ValueError(f"config.tune.learning_rates must be different, got {tune.learning_rates}")
    if tune.learning_rates:
        check("config.tune.seeds", tune.seeds, SOME)


def _check_published(published: Mapping[str, Any]) -> None:
    """`rows`: property -> metric -> fit -> number; `grid`: metric -> student -> column -> number."""
    numbers = {part: flatten(published.get(part, {})) for part in ("rows", "grid")}
    for part, values in numbers.items():
        for path, value in values.items():
            check(f"config.published.{part}.{path}", value, Range())
            if path.count(".") < 2:  # a metric's name may contain dots
                raise ValueError(f"config.published.{part}.{path}: expected a mapping two levels deeper, got {value!r}")
    if any(numbers.values()) and not isinstance(published.get("source"), str):
        raise ValueError("config.published lacks 'source', the publication of its numbers")


def topological(fits: Mapping[str, Fit]) -> list[str]:
    """The fits in the declared order, except that every teacher comes before its students."""
    order: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ValueError(f"config.fits: a fit cannot learn from itself: {' <- '.join((*path, name))}")
        for needed in (fits[name].teacher, fits[name].match_entropy):
            if needed:
                visit(needed, (*path, name))
        if name not in order:
            order.append(name)

    for name in fits:
        visit(name, ())
    return order


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The fields in which two configurations differ, except those that may change: "train.steps: 600 -> 800".

    A new fit, model or loss is not a difference, because it changes no other. The number of seeds may not change if it
    is the size of an ensemble, because finished students learned from an ensemble of another size.
    """
    ensembles = any(fit["ensemble"] and len(fit["teacher_steps"]) < 2 for fit in new["fits"].values())
    may_change = [name for name in MAY_CHANGE if not (ensembles and name == "seeds")]
    before, after = flatten(old), flatten(new)
    added = {(part, name) for part in ("fits", "models", "losses") for name in new[part].keys() - old[part].keys()}
    names = sorted(name for name in before.keys() | after.keys() if (*name.split("."), "")[:2] not in added)
    return [
        f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in names
        if name not in may_change
        and name.split(".")[0] not in may_change
        and before.get(name, "absent") != after.get(name, "absent")
    ]


def as_dict(study: Study) -> dict[str, Any]:
    """The configuration as plain dicts that JSON can store."""
    return dataclasses.asdict(study)


def _check_curve(where: str, curve: FitCurve, study: Study) -> None:
    if not curve.x:
        raise ValueError(f"{where}.x must name the fits on the curve; it is empty")
    for name, value in curve.x.items():
        known(f"{where}.x", name, study.fits)
        if not (0 if curve.log else -math.inf) < value < math.inf:
            raise ValueError(f"{where}.x.{name} must be finite{', and above 0 for log=True' * curve.log}, got {value}")
    for name in curve.beside:
        known(f"{where}.beside", name, study.fits)


def _check_fit(name: str, fit: Fit, study: Study) -> None:
    where = f"config.fits.{name}"
    known(f"{where}.model", fit.model, study.models)
    known(f"{where}.loss", fit.loss, study.losses)
    for field, choices in CHOICES.items():
        known(f"{where}.{field}", getattr(fit, field), choices)
    for field in ("teacher", "match_entropy"):
        if getattr(fit, field):
            known(f"{where}.{field}", getattr(fit, field), study.fits)
    if not 0.5 <= study.train.steps * fit.budget < float("inf"):
        raise ValueError(f"{where}.budget={fit.budget} of train.steps={study.train.steps} must be at least one step")
    if fit.path and study.tune.learning_rates:
        raise ValueError(f"{where}.path: a grid (config.tune) needs teachers at development seeds, which a path lacks")
    if fit.answers == "online" and (not fit.teacher or fit.ensemble or fit.match_entropy):
        raise ValueError(f"{where}.answers='online' needs a teacher (its architecture), no ensemble or match_entropy")
    if fit.ensemble and not fit.teacher:
        raise ValueError(f"{where}.ensemble={fit.ensemble!r} needs a teacher, whose seeds or snapshots it averages")
    _check_lessons(where, fit)
    teacher = study.fits.get(fit.teacher)
    if teacher and _initial_values(teacher, study) == _initial_values(fit, study):
        raise ValueError(
            f"{where} would start from its teacher's own weights: model {fit.model!r} with seeds {fit.seeds!r} is the "
            f"network of {fit.teacher}, model {teacher.model!r} with seeds {teacher.seeds!r}; give one of them "
            "seeds='peer' or another size"
        )


def _initial_values(fit: Fit, study: Study) -> tuple[dict[str, Any], bool]:
    """What a fit's initialization depends on: the network, whatever its name, and whether the seeds are a peer's."""
    fields = {name: value for name, value in flatten(study.models[fit.model]).items() if value is not None}
    return fields, fit.seeds == "peer"


def _check_lessons(where: str, fit: Fit) -> None:
    """Check the fields that choose and transform a teacher's outputs."""
    for field, used in {"shuffle": fit.shuffle, "as_soft_as": fit.as_soft_as >= 0}.items():
        if used and (not fit.teacher or fit.answers != "table"):
            raise ValueError(f"{where}.{field} needs a teacher and answers='table', got answers={fit.answers!r}")
    if fit.teacher_steps and (not fit.teacher or fit.answers == "online"):
        raise ValueError(f"{where}.teacher_steps={fit.teacher_steps} needs a teacher that was trained before")
    check(f"{where}.softness_at", fit.softness_at, POSITIVE)
    if fit.augment and fit.teacher and fit.answers == "table":
        raise ValueError(
            f"{where}.augment: stored teacher outputs are for the original examples, not for the augmented ones; "
            "use answers='live'"
        )
