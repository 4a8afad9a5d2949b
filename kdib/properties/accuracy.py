"""Accuracy over a whole test set, by group, and as the mean over groups.

Metrics of the rows, with `group` the name of a column of the data set ("" is the whole set):

- "accuracy", "balanced_accuracy" at coords ((column, k),): group k; at coords () of group "": the whole set.
- "mean_accuracy", "mean_balanced_accuracy" at coords (): the mean over the groups of the column that are large
  enough; `n` is the number of these groups. On "attractors" this is A-accuracy, on "distance" D-accuracy. The column
  "mu" has one group, and "accuracy" at (("mu", 0),) is mu-accuracy.

Balanced accuracy is the mean of the per-label accuracies, so a network that always predicts "singular" scores one half.
A group with fewer than 100 examples of some label is too small for it: its value is None, its `n` is the number of
examples of its rarest label, and neither mean includes it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kdib.properties.base import Curve, Evidence, Primary, Property
from kdib.records import Row, Subject
from kdib.tasks.base import Dataset

MIN_PER_LABEL = 100


class Estimate(NamedTuple):
    """An accuracy and its standard error over examples (not over seeds)."""

    value: float
    se: float


class GroupAccuracy(NamedTuple):
    """The accuracy of a group of `n` examples; `balanced` is None if too few of them have its rarest label."""

    group: int
    n: int
    smallest: int
    accuracy: Estimate
    balanced: Estimate | None


def group_accuracy(
    correct_N: np.ndarray, labels_N: np.ndarray, group_N: np.ndarray, *, min_per_label: int = MIN_PER_LABEL
) -> list[GroupAccuracy]:
    """Accuracy and balanced accuracy of every group.

    Args:
      correct_N: [N] bool, whether each example was classified correctly.
      labels_N: [N] int, the true labels; the balanced accuracy averages over every label that occurs in them.
      group_N: [N] int, the group of each example; negative if it is in no group.
      min_per_label: a group needs this many examples of every label for a balanced accuracy.

    Returns:
      One GroupAccuracy per group, by increasing group number. Standard errors are binomial; those of the balanced
      accuracy are stratified by label.

    Raises:
      ValueError: if the three arrays are not all [N].

    Reference: Brodersen et al., The balanced accuracy and its posterior distribution, ICPR (2010).
    """
    correct_N, labels_N, group_N = np.asarray(correct_N, bool), np.asarray(labels_N), np.asarray(group_N)
    if not correct_N.shape == labels_N.shape == group_N.shape or correct_N.ndim != 1:
        shapes = (correct_N.shape, labels_N.shape, group_N.shape)
        raise ValueError(f"expected correct, labels and group of one shape [N], got {shapes}")
    labels = np.unique(labels_N)
    return [
        _one_group(int(k), correct_N[group_N == k], labels_N[group_N == k], labels, min_per_label)
        for k in np.unique(group_N[group_N >= 0])
    ]


def mean_over_groups(groups: Sequence[Estimate]) -> Estimate | None:
    """The unweighted mean over disjoint groups and its standard error; None if there are no groups."""
    if not groups:
        return None
    values, errors = np.array(groups).T
    return Estimate(float(values.mean()), float(np.sqrt(np.square(errors).sum()) / len(groups)))


def measure(subjects: Sequence[Subject], evidence: Evidence) -> Iterator[Row]:
    """The rows of every subject on every test set."""
    for subject in subjects:
        for split, dataset in evidence.sets.items():
            correct_N = evidence.logits(subject, split).argmax(axis=1) == dataset.inputs["label"]
            yield from _set_rows(subject, split, dataset, correct_N)


def _one_group(
    group: int, correct_n: np.ndarray, labels_n: np.ndarray, labels: np.ndarray, min_per_label: int
) -> GroupAccuracy:
    strata = [correct_n[labels_n == label] for label in labels]
    smallest = min(len(stratum) for stratum in strata)
    balanced = None
    if smallest >= max(min_per_label, 1):
        balanced = mean_over_groups([_binomial(stratum) for stratum in strata])
    return GroupAccuracy(group, len(correct_n), smallest, _binomial(correct_n), balanced)


def _binomial(correct_n: np.ndarray) -> Estimate:
    share = float(correct_n.mean())
    return Estimate(share, float(np.sqrt(share * (1 - share) / len(correct_n))))


def _set_rows(subject: Subject, split: str, dataset: Dataset, correct_N: np.ndarray) -> Iterator[Row]:
    labels_N = dataset.inputs["label"]

    def row(metric: str, group: str, coords: tuple, estimate: Estimate | None, n: int) -> Row:
        value, se = estimate or (None, None)
        return Row(subject.id, None, "accuracy", metric, split, group, coords, value, n, se)

    for whole in group_accuracy(correct_N, labels_N, np.zeros(len(labels_N), int)):
        yield from _group_rows(row, "", (), whole)
    for column, group_N in dataset.groups.items():
        groups = group_accuracy(correct_N, labels_N, group_N)
        for group in groups:
            yield from _group_rows(row, column, ((column, group.group),), group)
        large = [(group.accuracy, group.balanced) for group in groups if group.balanced]
        yield row("mean_accuracy", column, (), mean_over_groups([plain for plain, _ in large]), len(large))
        yield row("mean_balanced_accuracy", column, (), mean_over_groups([b for _, b in large]), len(large))


def _group_rows(row: Callable[..., Row], column: str, coords: tuple, group: GroupAccuracy) -> Iterator[Row]:
    yield row("accuracy", column, coords, group.accuracy, group.n)
    yield row("balanced_accuracy", column, coords, group.balanced, group.n if group.balanced else group.smallest)


def _curve(column: str, xlabel: str) -> Curve:
    return Curve("balanced_accuracy", column, x=column, xlabel=xlabel, ylabel="balanced accuracy")


PROPERTY = Property(
    name="accuracy",
    title="Accuracy",
    kind="scalar",
    # The bias is visible where attractors stand between subject and verb. The mean over groups gives rare groups the
    # same weight as common ones; balancing keeps a preference for one number from passing as competence.
    primary=Primary("mean_balanced_accuracy", split="", group="attractors"),
    higher_is_better=True,
    measure=measure,
    caption="Balanced accuracy (the mean of the accuracies on singular and plural) by number of attractors (nouns of "
    "the other number between subject and verb), by number of intervening nouns in sentences without attractors "
    "(controls of the same length), and by distance between subject and verb. "
    f"Groups with fewer than {MIN_PER_LABEL} examples of a label are too small and do not count towards any mean.",
    reference="Linzen, Dupoux, Goldberg (TACL 2016); Abnar, Dehghani, Zuidema (arXiv 2006.00555), section 3",
    curves=(
        _curve("attractors", "attractors"),
        _curve("same_number", "nouns of the same number in between"),
        _curve("distance", "distance from subject to verb"),
    ),
    caveat="Accuracy shows how often a network is right, not which rule it follows: two networks of equal accuracy may "
    "err on different sentences. The mean over groups is noisy, because its smallest groups count as much as its "
    "largest.",
)

IMAGES = PROPERTY._replace(
    # Classes are nearly balanced here, and translation and corruptions, which reveal biases, are separate properties.
    primary=Primary("accuracy", split="", group=""),
    caption="The share of a test set’s images that are classified correctly. The prediction is the class with the "
    "largest logit.",
    reference="LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition (Proc. IEEE "
    "1998), section III",
    curves=(),
    caveat="Accuracy shows how often a network is right, not why: networks of equal accuracy may err on different "
    "images and rely on different features. Near 1, differences between networks rest on a few images only.",
)
