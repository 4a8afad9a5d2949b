"""What a property is: a primary metric, declared before the run, and a function from subjects to rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from kdib.models.base import Model, Variables
from kdib.records import Row, Subject
from kdib.tasks.base import Dataset


class Primary(NamedTuple):
    """The one cell of a property's rows that its declared test is made on; split "" is the first test set."""

    metric: str
    split: str
    group: str
    coords: tuple[tuple[str, float | int | str], ...] = ()


class Curve(NamedTuple):
    """A figure, declared as data: `metric` of `group` against the coordinate `x`, one line a fit.

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


def _no_language_model(subject: Subject, split: str) -> np.ndarray:
    raise TypeError(f"{subject.id} on {split}: only a language model has a likelihood of sentences")


def _no_network(subject: Subject) -> tuple[Model, Variables]:
    raise TypeError(f"{subject.id}: this evidence holds answers only, and the property asks the network itself")


def _not_asked(subject: Subject, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    raise TypeError(
        f"{subject.id}: this evidence holds answers to its test sets only, and the property asks for others"
    )


class Evidence(NamedTuple):
    """What a property may look at.

    `sets` are the test sets by name, the first in distribution. `logits(subject, name)` answers [N, K] float32 in
    evaluation mode. `pairs` are the (student, teacher) couples a relational property compares, siblings included.
    `nll(subject, name)` is a language model's negative log-likelihood of each sentence [N], in nats.
    `asked(subject, inputs)` answers [N, K] about inputs of the property's own making. `network(subject)` is the network
    itself, for one that builds a program around it; subjects of one architecture share one Model, so that each program
    is compiled once.
    """

    sets: Mapping[str, Dataset]
    logits: Callable[[Subject, str], np.ndarray]
    pairs: Sequence[tuple[Subject, Subject]]
    nll: Callable[[Subject, str], np.ndarray] = _no_language_model
    network: Callable[[Subject], tuple[Model, Variables]] = _no_network
    asked: Callable[[Subject, Mapping[str, np.ndarray]], np.ndarray] = _not_asked


class Property(NamedTuple):
    """One way of looking at a solution.

    A "scalar" property measures subjects one by one, a "relational" one a student against a teacher, a
    "pairwise" one any two subjects. `higher_is_better` is None where neither is. `caption` and `reference`
    are the report's.
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
