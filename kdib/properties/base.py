"""What a property is: a primary metric, declared before the run, and a function from subjects to rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from kdib.models.base import Model, Variables
from kdib.records import Row, Subject
from kdib.tasks.base import Dataset

HIDDEN_EXAMPLES = 500  # of a test set, on which hidden activations are compared
TRAIN_EXAMPLES = 2_000  # of the training set, that properties may look at


class Primary(NamedTuple):
    """The one cell of a property's rows that its declared test is made on; split "" is the first test set."""

    metric: str
    split: str
    group: str
    coords: tuple[tuple[str, float | int | str], ...] = ()


class Curve(NamedTuple):
    """A figure, declared as data: `metric` of `group` against the coordinate `x`, one line a fit.

    Over categories `relative_error` shows also the mean over `x` of 1 - metric divided by that of the role `alone`.
    `diagonal` draws y = x; `weight_metric` names the metric that holds how many examples are behind each
    point.
    """

    metric: str
    group: str
    x: str
    xlabel: str
    ylabel: str
    diagonal: bool = False
    weight_metric: str | None = None
    relative_error: bool = False


class Map(NamedTuple):
    """Heat maps, declared as data: `metric` of `group` over the coordinates `x` and `y`, one panel a fit.

    Values of `y` increase downwards, as the rows of a picture do.
    """

    metric: str
    group: str
    x: str
    y: str
    xlabel: str
    ylabel: str


def _lacking(what: str) -> Callable[..., Any]:
    """What stands for a part that some evidence does not hold: asking for it raises TypeError."""

    def ask(subject: Subject, *of: Any) -> Any:
        raise TypeError(f"{subject.id}: this evidence holds no {what}, and the property asks for it")

    return ask


class Evidence(NamedTuple):
    """What a property may look at.

    `sets` are the test sets by name, the first in distribution. `logits(subject, name)` answers [N, K] float32 in
    evaluation mode. `pairs` are the couples that a property's `pairs` names. `nll(subject, name)` is a language
    model's negative log-likelihood of each sentence [N], in nats. `network(subject)` is the network itself, for a
    property that builds a program around it; subjects of one architecture share one Model, so that each program is
    compiled once. `asked(subject, inputs)` answers [N, K] about inputs of the property's own making.

    `hidden(subject, name)` are the named intermediates on HIDDEN_EXAMPLES evenly spaced examples of a test set, float32
    [M, D], in the order of the network, "penultimate" last: sequences where the network answers, pictures flattened.
    `snapshots(subject)` is its run up to this subject, by step; all of the above take a snapshot too.

    `train` is an evenly spaced sample of the training set, `validation` the validation set and
    `validation_logits(subject)` the answers to it. `fits` says which fit plays a role (teacher, alone, self,
    distilled). `everyone` are all final networks of the study, of which `pairs` may hold a part: those that were added
    to a finished one, with their teachers.
    """

    sets: Mapping[str, Dataset]
    logits: Callable[[Subject, str], np.ndarray]
    pairs: Sequence[tuple[Subject, Subject]]
    nll: Callable[[Subject, str], np.ndarray] = _lacking("likelihood of sentences, which only a language model has")
    network: Callable[[Subject], tuple[Model, Variables]] = _lacking("network, only answers")
    asked: Callable[[Subject, Mapping[str, np.ndarray]], np.ndarray] = _lacking("answers but to its test sets")
    hidden: Callable[[Subject, str], Mapping[str, np.ndarray]] = _lacking("hidden activations")
    snapshots: Callable[[Subject], Sequence[Subject]] = _lacking("snapshots")
    train: Dataset | None = None
    validation: Dataset | None = None
    validation_logits: Callable[[Subject], np.ndarray] = _lacking("answers to the validation set")
    fits: Mapping[str, str] = MappingProxyType({})
    everyone: Sequence[Subject] = ()


class Property(NamedTuple):
    """One way of looking at a solution.

    A "scalar" property measures subjects one by one, a "relational" one a student against a teacher, a "pairwise" one
    the runs of a fit against each other. `higher_is_better` is None where neither is. `caption`, `reference` and
    `caveat` are the report's.

    `pairs` are the couples that the evidence hands over: "teachers" (every subject with every run of the teacher's role
    and of the fit that it learned from), "everyone" (every two subjects once, a student before its teacher) or
    "architecture" (every two subjects that have one architecture). `exhibit(subjects, evidence)` is JSON of what is
    shown and is no number of one subject or couple, for the report.
    """

    name: str
    title: str
    kind: Literal["scalar", "relational", "pairwise"]
    primary: Primary
    higher_is_better: bool | None
    measure: Callable[[Sequence[Subject], Evidence], Iterable[Row]]
    caption: str
    reference: str
    curves: tuple[Curve, ...] = ()
    maps: tuple[Map, ...] = ()
    pairs: Literal["teachers", "everyone", "architecture"] = "teachers"
    exhibit: Callable[[Sequence[Subject], Evidence], Mapping[str, Any]] | None = None
    caveat: str = ""
    least: int = 1  # examples that it needs of every test set


def log_softmax(logits_NxK: np.ndarray) -> np.ndarray:
    """Log-probabilities [N, K] in float64, finite for every finite logit."""
    logits_NxK = np.asarray(logits_NxK, np.float64)
    shifted_NxK = logits_NxK - logits_NxK.max(axis=1, keepdims=True)
    return shifted_NxK - np.log(np.exp(shifted_NxK).sum(axis=1, keepdims=True))


def mean_and_se(values_N: np.ndarray) -> tuple[float, float]:
    """The mean over examples and its standard error; the latter says nothing of other seeds."""
    return float(values_N.mean()), float(values_N.std() / np.sqrt(len(values_N)))


def evenly(size: int, n: int) -> np.ndarray:
    """`n` rows of `size`, evenly spaced, or all: the first of a file may be easier than the rest, as MNIST's are."""
    return np.unique(np.linspace(0, size - 1, min(size, n)).astype(np.int64))


def check_classified(scores_NxK: np.ndarray, labels_N: np.ndarray) -> None:
    """Raise ValueError unless scores are finite [N, K] and labels [N] name their columns, with N > 0."""
    if scores_NxK.ndim != 2 or labels_N.shape != scores_NxK.shape[:1] or not len(labels_N):
        raise ValueError(f"expected [N, K] and labels [N], N > 0; got {scores_NxK.shape} and {labels_N.shape}")
    if labels_N.min() < 0 or labels_N.max() >= scores_NxK.shape[1]:
        found = f"{labels_N.min()}..{labels_N.max()}"
        raise ValueError(f"expected labels in 0..{scores_NxK.shape[1] - 1}, got {found}")
    if not np.isfinite(scores_NxK).all():
        raise ValueError("expected finite logits or probabilities, got nan or inf")
