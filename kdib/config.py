"""A study's configuration as frozen dataclasses: every name checked at once, before anything runs."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from kdib.fields import flatten, from_mapping, known
from kdib.ranges import AT_LEAST_0, COUNT, POSITIVE, SOME, Range, check


@dataclasses.dataclass(frozen=True)
class Train:
    """The recipe that every fit shares."""

    steps: int
    batch_size: int
    optimizer: str  # adamw, adam, radam, sgd
    learning_rate: float  # peak; replaced by the grid's choice when tune.learning_rates is not empty
    warmup_steps: int
    schedule: Mapping[str, Any]  # of the learning rate: {"name": one in kdib.losses.SCHEDULES, **knobs}
    weight_decay: float
    clip_norm: float
    chunk: int  # steps a compiled call takes at most
    group_size: int  # runs trained in lockstep, on a CPU each on a device of its own
    save_every: int  # steps between resumable states
    snapshots: Mapping[str, Any]  # {"name": every | powers_of_two_epochs | dense_then_sparse | explicit, **knobs}
    buckets: tuple[int, ...] = ()  # a batch holds inputs up to one of these lengths, each a step of the one program
    window: int = 0  # examples that grain brings from the disk at a time; 0: the training set is on the device
    l1: float = 0.0  # times sum |w|, a term of the loss over kernels and embeddings
    l2: float = 0.0  # times sum w^2, likewise; weight_decay is decoupled


@dataclasses.dataclass(frozen=True)
class Tune:
    """The same small grid for every fit, chosen on the validation set of development seeds; empty: no tuning."""

    learning_rates: tuple[float, ...]
    seeds: int  # development seeds a grid point


@dataclasses.dataclass(frozen=True)
class Fit:
    """One node of the graph: who learns, from whom, by which loss."""

    model: str
    loss: str
    teacher: str = ""  # another fit; "" learns from labels
    teacher_steps: tuple[int, ...] = ()  # its snapshots: one after another, or with `ensemble` as one; (): its last
    ensemble: str = ""  # mean_probability, mean_logit: all seeds of the teacher (or, if several, its snapshots) as one
    answers: str = "table"  # table: teacher asked once, beforehand; live: at every step; online: it learns beside
    shuffle: bool = False  # permute the teacher's answers within a class (needs answers="table")
    as_soft_as: int = -1  # a step: the answers are tempered to the mean entropy of this snapshot's (needs a table)
    augment: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # {"name": one of the task's, **knobs}
    softness_at: float = 1.0  # the temperature at which as_soft_as and match_entropy compare: that of the loss
    match_entropy: str = ""  # a fit: label_smoothing's epsilon is set so that its targets have that fit's entropy
    seeds: str = "main"  # main, peer (initial values disjoint from every main run's) or reordered (so is the order)
    snapshots: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of itself; {}: those of train
    budget: float = 1.0  # its steps as a multiple of train.steps; 2.0: its own and as many again as a teacher had
    path: str = ""  # a fit folder of another workdir: its runs are opened instead of trained

    @property
    def learns_from_all_seeds(self) -> bool:
        """Whether its teacher is an ensemble of seeds, and not the paired one."""
        return bool(self.ensemble) and len(self.teacher_steps) < 2


@dataclasses.dataclass(frozen=True)
class Roles:
    """Which fit plays which part in the estimands."""

    teacher: str
    alone: str
    self: str
    distilled: str


@dataclasses.dataclass(frozen=True)
class FitCurve:
    """A figure of the report: the fits of `x` against their numbers, and those of `beside` as horizontal bands."""

    x: Mapping[str, float]  # fit -> its place on the axis
    xlabel: str
    log: bool = False  # the axis
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
    curves: Mapping[str, FitCurve] = dataclasses.field(default_factory=dict)  # of the report, each with its own section


CHOICES = {
    "ensemble": ("", "mean_probability", "mean_logit"),
    "answers": ("table", "live", "online"),
    "seeds": ("main", "peer", "reordered"),
}
TRAIN = {  # what the recipe's numbers must be
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
)  # on an old workdir; no trained run depends on them (but see `difference`)


def parse(config: Mapping[str, Any]) -> Study:
    """Plain nested dicts -> Study.

    Raises:
      ValueError: in one line, for a missing or unknown field, a wrong type, or a name that nothing defines.
    """
    study = from_mapping(Study, config, "config")
    for name, fit in study.fits.items():
        _check_fit(name, fit, study)
    for role, name in dataclasses.asdict(study.roles).items():
        known(f"config.roles.{role}", name, study.fits)
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
    return study


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
            if path.count(".") < 2:  # a metric's name may have points of its own
                raise ValueError(f"config.published.{part}.{path}: expected a mapping two levels deeper, got {value!r}")
    if any(numbers.values()) and not isinstance(published.get("source"), str):
        raise ValueError("config.published lacks 'source', where its numbers are from")


def topological(fits: Mapping[str, Fit]) -> list[str]:
    """The fits in an order in which every teacher comes first, otherwise as declared."""
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
    """The fields, but for those that may change, in which two configurations differ: "train.steps: 600 -> 800".

    A fit, model or loss that was not there is no difference: it changes no other. The number of seeds may not change
    where it is the size of an ensemble: finished students had another teacher.
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
    """The configuration as plain JSON-able dicts."""
    return dataclasses.asdict(study)


def _check_curve(where: str, curve: FitCurve, study: Study) -> None:
    if not curve.x:
        raise ValueError(f"{where}.x must name the fits on the curve, got none")
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
        raise ValueError(f"{where}.path: a grid (config.tune) needs teachers on development seeds, which a path lacks")
    if fit.answers == "online" and (not fit.teacher or fit.ensemble or fit.match_entropy):
        raise ValueError(f"{where}.answers='online' needs a teacher to take the architecture of, and no ensemble")
    if fit.ensemble and not fit.teacher:
        raise ValueError(f"{where}.ensemble={fit.ensemble!r} needs a teacher, whose seeds then teach together")
    _check_lessons(where, fit)
    teacher = study.fits.get(fit.teacher)
    if teacher and _initial_values(teacher, study) == _initial_values(fit, study):
        raise ValueError(
            f"{where} would start from its teacher's own weights: model {fit.model!r} with seeds {fit.seeds!r} is the "
            f"network of {fit.teacher}, model {teacher.model!r} with seeds {teacher.seeds!r}; give one of them "
            "seeds='peer' or another size"
        )


def _initial_values(fit: Fit, study: Study) -> tuple[dict[str, Any], bool]:
    """What they depend on: the network, whatever its name, and whether the seeds are a peer's."""
    fields = {name: value for name, value in flatten(study.models[fit.model]).items() if value is not None}
    return fields, fit.seeds == "peer"


def _check_lessons(where: str, fit: Fit) -> None:
    """What is made of a teacher's answers, and of which of them."""
    for field, used in {"shuffle": fit.shuffle, "as_soft_as": fit.as_soft_as >= 0}.items():
        if used and (not fit.teacher or fit.answers != "table"):
            raise ValueError(f"{where}.{field} needs a teacher whose answers are 'table', got {fit.answers!r}")
    if fit.teacher_steps and (not fit.teacher or fit.answers == "online"):
        raise ValueError(f"{where}.teacher_steps={fit.teacher_steps} needs a teacher that has been trained before")
    check(f"{where}.softness_at", fit.softness_at, POSITIVE)
    if fit.augment and fit.teacher and fit.answers == "table":
        raise ValueError(
            f"{where}.augment: stored answers are those to the examples as they are, not to what the student sees; "
            "use answers='live'"
        )
