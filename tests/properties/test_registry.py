"""kdib.properties: which properties a task has, and what is declared for images."""

import numpy as np
import pytest

from kdib.properties import of_task
from kdib.properties.base import Evidence
from kdib.records import Subject
from kdib.tasks.base import Dataset
from kdib.verdict import has_direction

SUBJECT = Subject("alone/seed0@10", "alone", 0, "seed0", 10, "f")


def test_each_task_has_its_own():
    agreement, images = of_task("agreement"), of_task("images")
    assert agreement["accuracy"].primary[::2] == ("mean_balanced_accuracy", "attractors")
    assert images["accuracy"].primary == ("accuracy", "", "", ())
    assert images["accuracy"].curves == () and agreement["accuracy"].curves
    assert "attractor" not in images["accuracy"].caption
    assert "perplexity" in agreement and "perplexity" not in images
    assert all(name == prop.name for properties in (agreement, images) for name, prop in properties.items())


def test_a_task_without_any_is_named():
    with pytest.raises(ValueError, match=r"config\.task\.name: 'sound' is unknown\..* agreement, images"):
        of_task("sound")


@pytest.mark.parametrize("task", ["agreement", "images"])
def test_each_says_what_it_measures_after_whom_and_what_its_number_does_not_say(task):
    for prop in of_task(task).values():
        for said in (prop.caption, prop.reference, prop.caveat):
            assert said.strip(), prop.name
        assert prop.caption[-1] == prop.caveat[-1] == "." and prop.caveat not in prop.caption


def test_only_a_scalar_property_with_a_direction_can_have_a_verdict():
    accuracy, fidelity = (of_task("images")[name] for name in ("accuracy", "fidelity"))
    assert has_direction(accuracy) and not has_direction(fidelity)
    assert not has_direction(accuracy._replace(higher_is_better=None))


def test_accuracy_of_ten_classes_without_groups():
    labels_N = np.arange(40) % 10
    answers_N = np.where(np.arange(40) < 30, labels_N, (labels_N + 1) % 10)
    dataset = Dataset({"label": labels_N, "id": np.arange(40)}, {})
    evidence = Evidence({"test": dataset}, lambda subject, split: np.eye(10, dtype=np.float32)[answers_N], ())
    prop = of_task("images")["accuracy"]
    rows = {(row.metric, row.group, row.coords): row for row in prop.measure([SUBJECT], evidence)}
    assert rows[prop.primary.metric, prop.primary.group, prop.primary.coords].value == 0.75
    assert rows["balanced_accuracy", "", ()].value is None  # four of a class are too few
