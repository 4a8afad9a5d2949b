"""kdib.properties.accuracy: counted by hand, balance, groups that are too small."""

import math

import numpy as np
import pytest

from kdib.properties import of_task
from kdib.properties.accuracy import group_accuracy
from kdib.properties.base import Evidence
from kdib.records import Subject
from kdib.tasks.base import Dataset

PROPERTIES = of_task("agreement")
SUBJECT = Subject("alone/seed0@10", "alone", 0, "seed0", 10, "f")


def example(right_by_group_and_label, n=200):
    """n examples of each label in each group, of which the given number are answered correctly."""
    groups, labels, correct = [], [], []
    for group, by_label in right_by_group_and_label.items():
        for label, right in enumerate(by_label):
            groups += [group] * n
            labels += [label] * n
            correct += [True] * right + [False] * (n - right)
    return np.array(correct), np.array(labels), np.array(groups)


def rows_of(correct_N, labels_N, columns):
    """The rows of a network that is right where it is told to be, by (metric, group, coords)."""
    answers_N = np.where(correct_N, labels_N, 1 - labels_N)
    logits_NxK = np.eye(2, dtype=np.float32)[answers_N]
    dataset = Dataset({"label": labels_N, "id": np.arange(len(labels_N))}, columns)
    evidence = Evidence({"test": dataset}, lambda subject, split: logits_NxK, ())
    rows = list(PROPERTIES["accuracy"].measure([SUBJECT], evidence))
    assert len({row[:7] for row in rows}) == len(rows)
    return {(row.metric, row.group, row.coords): row for row in rows}


def test_rows_by_hand():
    correct, labels, groups = example({0: (200, 180), 1: (120, 100), -1: (0, 0)})
    rows = rows_of(correct, labels, {"attractors": groups})
    value = {key: row.value for key, row in rows.items()}
    assert value["accuracy", "", ()] == 600 / 1200
    assert value["accuracy", "attractors", (("attractors", 0),)] == 0.95
    assert value["balanced_accuracy", "attractors", (("attractors", 1),)] == pytest.approx(0.55)
    assert value["mean_balanced_accuracy", "attractors", ()] == pytest.approx(0.75)
    assert rows["mean_balanced_accuracy", "attractors", ()].n == 2
    assert rows["accuracy", "attractors", (("attractors", 0),)].n == 400
    assert not any(("attractors", -1) in coords for _, _, coords in rows)


def test_one_answer_for_all_is_half_balanced():
    labels = np.array([0] * 900 + [1] * 100)
    (group,) = group_accuracy(labels == 0, labels, np.zeros(1000, int))
    assert group.accuracy.value == 0.9
    assert group.balanced is not None and group.balanced.value == 0.5


def test_mean_weighs_groups_not_examples():
    correct, labels, groups = example({0: (200, 200), 1: (0, 0)})
    keep = (groups == 0) | (np.arange(len(groups)) % 2 == 0)  # half as many of the hard ones
    rows = rows_of(correct[keep], labels[keep], {"attractors": groups[keep]})
    assert rows["mean_accuracy", "attractors", ()].value == 0.5
    assert rows["accuracy", "", ()].value == pytest.approx(2 / 3)


@pytest.mark.parametrize(("rare", "large"), [(99, False), (100, True)])
def test_a_group_that_is_too_small_is_named_and_left_out(rare, large):
    labels = np.array([0] * 200 + [1] * 200 + [0] * 300 + [1] * rare)
    groups = np.array([0] * 400 + [3] * (300 + rare))
    rows = rows_of(groups == 0, labels, {"attractors": groups})  # all wrong in group 3
    small = rows["balanced_accuracy", "attractors", (("attractors", 3),)]
    mean = rows["mean_balanced_accuracy", "attractors", ()]
    assert (small.value, small.n) == ((0.0, 300 + rare) if large else (None, rare))
    assert (mean.value, mean.n) == ((0.5, 2) if large else (1.0, 1))
    assert rows["mean_accuracy", "attractors", ()].value == mean.value
    assert rows["accuracy", "attractors", (("attractors", 3),)].value == 0.0


def test_a_group_without_one_label_is_too_small():
    labels = np.array([0] * 300 + [1] * 300)
    only_first = group_accuracy(labels == 0, labels, np.where(labels == 0, 0, -1), min_per_label=0)[0]
    assert (only_first.smallest, only_first.balanced) == (0, None)


def test_no_group_gives_no_mean():
    labels = np.array([0, 1] * 150)
    rows = rows_of(labels == 0, labels, {"attractors": np.full(300, -1)})
    mean = rows["mean_accuracy", "attractors", ()]
    assert (mean.value, mean.n, mean.se) == (None, 0, None)


def test_standard_errors():
    """Binomial and stratified by hand; and the stratified one against the scatter of simulated test sets."""
    correct, labels, groups = example({0: (180, 100)})
    (group,) = group_accuracy(correct, labels, groups)
    assert group.accuracy.se == pytest.approx(math.sqrt(0.7 * 0.3 / 400))
    assert group.balanced is not None
    assert group.balanced.se == pytest.approx(math.sqrt(0.9 * 0.1 / 200 + 0.5 * 0.5 / 200) / 2)
    rng = np.random.default_rng(0)
    draws = [rng.random(400) < np.where(labels == 0, 0.9, 0.5) for _ in range(400)]
    scatter = np.std([group_accuracy(draw, labels, groups)[0].balanced.value for draw in draws])
    assert group.balanced.se == pytest.approx(scatter, rel=0.15)


def test_order_of_examples_does_not_matter():
    correct, labels, groups = example({0: (150, 180), 2: (20, 90)})
    order = np.random.default_rng(1).permutation(len(labels))
    assert group_accuracy(correct, labels, groups) == group_accuracy(correct[order], labels[order], groups[order])


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"one shape \[N\]"):
        group_accuracy(np.ones(3, bool), np.zeros(2, int), np.zeros(3, int))


def test_primary_is_among_the_rows():
    correct, labels, groups = example({0: (150, 180)})
    primary = PROPERTIES["accuracy"].primary
    assert (primary.metric, primary.group, primary.coords) in rows_of(correct, labels, {"attractors": groups})
