"""kdib.properties.corruptions: the rows of a network whose answers are known, and the published error ratio."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib.answers import answer
from kdib.models.base import Model, Outputs
from kdib.properties import corruptions
from kdib.properties.base import Evidence, evenly
from kdib.properties.calibration import expected_calibration_error
from kdib.properties.corruptions import PROPERTY, mean_corruption_error, relative_errors
from kdib.records import Subject
from kdib.tasks.base import Dataset
from kdib.tasks.images.corruptions import CORRUPTIONS, corrupt


def test_mean_corruption_error_is_a_mean_of_ratios():
    assert mean_corruption_error([0.2, 0.5], [0.4, 0.25]) == pytest.approx((0.5 + 2) / 2)  # not .7 / .65
    assert mean_corruption_error([0.3, 0.1], [0.3, 0.1]) == 1
    with pytest.raises(ValueError, match="above 0"):
        mean_corruption_error([0.1], [0.0])
    with pytest.raises(ValueError, match=r"got \(2,\) and \(1,\)"):
        mean_corruption_error([0.1, 0.2], [0.1])


def test_corruptions_without_a_reference_error_are_left_out_and_named():
    errors = {
        ("alone", 0): {"fog": 0.4, "stripe": 0.0, "scale": 0.2},
        ("alone", 1): {"fog": 0.2, "stripe": 0.1, "scale": 0.1},
        ("cnn", 0): {"fog": 0.2, "stripe": 0.3, "scale": 0.3},
        ("cnn", 1): {"fog": 0.1, "stripe": 0.0, "scale": 0.3},
        ("cnn", 2): {"fog": 0.1, "stripe": 0.0, "scale": 0.3},  # its reference went non-finite
    }
    found, faultless = relative_errors(errors, "alone")
    assert faultless == ["stripe"] and found["alone"] == {0: 1, 1: 1}
    assert found["cnn"] == pytest.approx({0: (0.5 + 1.5) / 2, 1: (0.5 + 3) / 2})
    only = {key: {"stripe": 0.0} for key in errors}
    assert relative_errors(only, "alone") == ({}, ["stripe"])


def bright_or_dark():
    """Class 1 where the mean grey level exceeds 80; certain of it by the distance."""

    def apply(params, model_state, batch, *, train, key):
        level = batch["image"].astype(jnp.float32).mean(axis=(1, 2, 3))
        margin = params["slope"] * (level - 80)
        return Outputs(jnp.stack([-margin, margin], -1), {}), model_state

    return Model(init=lambda key, batch: {}, apply=apply)


def test_rows_are_those_of_the_corrupted_images(monkeypatch):
    # The draws of all 15 are tested with the corruptions; three will do for the rows.
    chosen = {name: CORRUPTIONS[name] for name in ("impulse_noise", "brightness", "stripe")}
    monkeypatch.setattr(corruptions, "CORRUPTIONS", chosen)
    monkeypatch.setattr(corruptions, "N_IMAGES", 30)
    rng = np.random.default_rng(0)
    images = (rng.random((40, 28, 28, 1)) * rng.random((40, 1, 1, 1)) * 255).astype(np.uint8)
    labels = (images.mean(axis=(1, 2, 3)) > 80).astype(np.int32)
    dataset = Dataset({"image": images, "label": labels, "id": np.arange(40)}, {})
    subject, slope = Subject("a/seed0@1", "a", 0, "seed0", 1, "a"), np.float32(0.02)
    asked = lambda subject, inputs: answer(bright_or_dark(), {"params": {"slope": slope}}, inputs).logits  # noqa: E731
    rows = list(PROPERTY.measure([subject], Evidence({"test": dataset}, lambda *_: None, [], asked=asked)))
    values = {(row.metric, row.coords): row for row in rows}
    assert len(values) == len(rows) == 2 * 3 + 2
    accuracies, eces, rows_n = [], [], evenly(40, 30)
    for number, name in enumerate(chosen):
        key = jax.random.fold_in(jax.random.key(0), number)
        level = np.asarray(corrupt(name, key, images[rows_n])).mean(axis=(1, 2, 3), dtype=np.float64)
        prob = 1 / (1 + np.exp(-2 * slope * (level - 80)))
        accuracies.append(((level > 80) == labels[rows_n]).mean())
        eces.append(expected_calibration_error(np.stack([1 - prob, prob], -1), labels[rows_n]))
        assert values["accuracy", (("corruption", name),)].value == pytest.approx(accuracies[-1])
        assert values["ece", (("corruption", name),)].value == pytest.approx(eces[-1], rel=1e-3)
        assert values["accuracy", (("corruption", name),)].n == 30
    assert len(set(accuracies)) > 1
    primary = PROPERTY.primary
    assert values[primary.metric, primary.coords].value == pytest.approx(np.mean(accuracies))
    assert values["mean_ece", ()].value == pytest.approx(np.mean(eces), rel=1e-3)
    assert {row.group for row in rows} == {primary.group} and values["mean_ece", ()].n == 3


def test_what_is_shown_says_style():
    assert "MNIST-C-style" in PROPERTY.title and "MNIST-C-style" in PROPERTY.caption
