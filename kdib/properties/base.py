"""The interface of a property: a primary metric, declared before the run, and a function from subjects to rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from kdib.models.base import Model, Variables
from kdib.records import Row, Subject
from kdib.tasks.base import Dataset

HIDDEN_EXAMPLES = 500  # examples of a test set on which hidden activations are compared
TRAIN_EXAMPLES = 2_000  # examples of the training set that properties may use


class Primary(NamedTuple):
    """The one cell of a property's rows on which its declared test is made; split "" is the first test set."""

    metric: str
    split: str
    group: str
    coords: tuple[tuple[str, float | int | str], ...] = ()


class Curve(NamedTuple):
    """A figure, declared as data: `metric` of `group` against the coordinate `x`, one line per fit.

    `diagonal` draws y = x. With it, `weight_metric` names the metric that counts the examples behind each point, and
    `x_metric` the one that says where each fit's point is drawn instead of at `x`. If `x` is categorical,
    `relative_error` adds the mean over `x` of the error (1 - metric) divided by that of the role `alone`.
    """

    metric: str
    group: str
    x: str
    xlabel: str
    ylabel: str
    diagonal: bool = False
    weight_metric: str | None = None
    x_metric: str | None = None
    relative_error: bool = False


class Map(NamedTuple):
    """Heat maps, declared as data: `metric` of `group` over the coordinates `x` and `y`, one panel per fit.

    Values of `y` increase downwards, like the rows of an image.
    """

    metric: str
    group: str
    x: str
    y: str
    xlabel: str
    ylabel: str


def _lacking(what: str) -> Callable[..., Any]:
    """A placeholder for a part that some evidence lacks; calling it raises TypeError."""

    def ask(subject: Subject, *of: Any) -> Any:
        raise TypeError(f"{subject.id}: this evidence holds no {what}, which the property needs")

    return ask


class Evidence(NamedTuple):
    """The data and functions that a property may use.

    - `sets`: the test sets by name, the first in distribution.
    - `logits(subject, name)`: logits on a test set, [N, K] float32, in evaluation mode.
    - `pairs`: the pairs of networks to compare, as selected by the property's `pairs`.
    - `nll(subject, name)`: a language model's negative log-likelihood of each sentence [N], in nats.
    - `network(subject)`: the network itself, for a property that builds its own program. Subjects of one architecture
      share one Model, so that each program is compiled once.
    - `asked(subject, inputs)`: logits [N, K] on inputs that the property made itself.
    - `hidden(subject, name)`: the named intermediate activations on HIDDEN_EXAMPLES evenly spaced examples of a test
      set, float32 [M, D], in the order of the network, "penultimate" last. Sequences are taken at the position of the
      prediction, images are flattened.
    - `snapshots(subject)`: the snapshots of its run up to this subject, by step. All functions above accept them, too.
    - `train`: an evenly spaced sample of the training set.
    - `validation`, `validation_logits(subject)`: the validation set, and the logits on it.
    - `fits`: {role: fit} for the roles teacher, alone, self and distilled.
    - `everyone`: all final networks of the study. If fits are added to a finished study, `pairs` holds only the new
      networks and their teachers.
    """

    sets: Mapping[str, Dataset]
    logits: Callable[[Subject, str], np.ndarray]
    pairs: Sequence[tuple[Subject, Subject]]
    nll: Callable[[Subject, str], np.ndarray] = _lacking("likelihood of sentences, which only a language model has")
    network: Callable[[Subject], tuple[Model, Variables]] = _lacking("network, only its logits")
    asked: Callable[[Subject, Mapping[str, np.ndarray]], np.ndarray] = _lacking("logits except on its test sets")
    hidden: Callable[[Subject, str], Mapping[str, np.ndarray]] = _lacking("hidden activations")
    snapshots: Callable[[Subject], Sequence[Subject]] = _lacking("snapshots")
    train: Dataset | None = None
    validation: Dataset | None = None
    validation_logits: Callable[[Subject], np.ndarray] = _lacking("logits on the validation set")
    fits: Mapping[str, str] = MappingProxyType({})
    everyone: Sequence[Subject] = ()


class Property(NamedTuple):
    """One way to measure networks.

    A "scalar" property measures single networks, a "relational" property compares a student with a teacher, and a
    "pairwise" property compares the runs of a fit with each other. `higher_is_better` is None if neither direction is
    better. `caption`, `reference` and `caveat` are texts of the report.

    `pairs` selects the pairs of networks in the evidence: "teachers" (every subject with every run of the teacher's
    role and of the fit that it learned from), "everyone" (every two subjects once, a student before its teacher) or
    "architecture" (every two subjects of the same architecture). `exhibit(subjects, evidence)` returns JSON for the
    report: displays other than numbers of single networks or pairs.
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
    least: int = 1  # the number of examples that it needs of every test set


def log_softmax(logits_NxK: np.ndarray) -> np.ndarray:
    """Log-probabilities [N, K] in float64, finite for every finite logit."""
    logits_NxK = np.asarray(logits_NxK, np.float64)
    shifted_NxK = logits_NxK - logits_NxK.max(axis=1, keepdims=True)
    return shifted_NxK - np.log(np.exp(shifted_NxK).sum(axis=1, keepdims=True))


def mean_and_se(values_N: np.ndarray) -> tuple[float, float]:
    """The mean over examples and its standard error (over examples, not over seeds)."""
    return float(values_N.mean()), float(values_N.std() / np.sqrt(len(values_N)))


def evenly(size: int, n: int) -> np.ndarray:
    """`n` evenly spaced row numbers below `size`, or all; the first rows may be easier, as in MNIST's test set."""
    return np.unique(np.linspace(0, size - 1, min(size, n)).astype(np.int64))


def check_classified(scores_NxK: np.ndarray, labels_N: np.ndarray) -> None:
    """Raise ValueError unless scores are finite [N, K], labels [N] are in 0..K - 1, and N > 0."""
    if scores_NxK.ndim != 2 or labels_N.shape != scores_NxK.shape[:1] or not len(labels_N):
        raise ValueError(f"expected [N, K] and labels [N], N > 0; got {scores_NxK.shape} and {labels_N.shape}")
    if labels_N.min() < 0 or labels_N.max() >= scores_NxK.shape[1]:
        found = f"{labels_N.min()}..{labels_N.max()}"
        raise ValueError(f"expected labels in 0..{scores_NxK.shape[1] - 1}, got {found}")
    if not np.isfinite(scores_NxK).all():
        raise ValueError("expected finite logits or probabilities, got nan or inf")
