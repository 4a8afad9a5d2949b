"""kdib.tasks.images.views: what augmentations draw, and what they refuse."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib.tasks.images import views

TOLERANCE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture
def image():
    """A picture [9, 12, 3] of noise, so that no border and no direction passes by chance."""
    return np.random.default_rng(0).random((9, 12, 3), dtype=np.float32)


def test_mixup_keeps_images_and_labels_together():
    onehot = jnp.eye(8)
    images = onehot[:, :, None, None]
    mixed, labels = views.mixup(jax.random.key(3), images, onehot, alpha=1.0)
    np.testing.assert_array_equal(mixed[:, :, 0, 0], labels)
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    weights = np.unique(np.round(labels[(labels > 0) & (labels < 1)], 5))
    assert len(weights) == 2 and weights.sum() == pytest.approx(1)  # one weight a batch


@pytest.mark.parametrize("name", views.AUGMENTATIONS)
def test_augmentations_are_functions_of_the_key_and_keep_the_range(name):
    images = np.random.default_rng(2).random((64, 10, 10, 3), dtype=np.float32)
    keys = jax.random.split(jax.random.key(5), 64)
    augment = jax.jit(jax.vmap(views.AUGMENTATIONS[name]))
    out = augment(keys, images)
    assert out.shape == images.shape and out.dtype == jnp.float32
    assert float(out.min()) >= 0 and float(out.max()) <= 1 + 1e-5
    np.testing.assert_array_equal(augment(keys, images), out)
    np.testing.assert_allclose(augment(keys[::-1], images[::-1])[::-1], out, **TOLERANCE)  # each by its own key
    assert len({np.asarray(picture).tobytes() for picture in augment(keys, np.repeat(images[:1], 64, 0))}) > 1


def test_random_shifts_are_uniform_over_the_square():
    point = np.zeros((7, 7, 1), np.float32)
    point[3, 3] = 1
    keys = jax.random.split(jax.random.key(0), 4900)
    out = jax.vmap(lambda key: views.AUGMENTATIONS["shift"](key, point, pixels=2))(keys)
    share = np.asarray(out.mean(axis=0))[..., 0]
    assert share[1:6, 1:6].sum() == pytest.approx(1)
    np.testing.assert_allclose(share[1:6, 1:6], 1 / 25, atol=0.014)  # five standard errors


def test_random_shifts_by_fractions_are_uniform_too():
    """The centre of mass of a point moves by the offset, which bilinear weights keep exactly."""
    point = np.zeros((9, 9, 1), np.float32)
    point[4, 4] = 1
    keys = jax.random.split(jax.random.key(0), 2000)
    out = np.asarray(jax.vmap(lambda key: views.AUGMENTATIONS["shift_subpixel"](key, point, distance=1.5))(keys))
    offset_Nx2 = np.stack([(out.sum((axis, 3)) @ np.arange(9)) - 4 for axis in (2, 1)], 1)
    assert np.abs(offset_Nx2).max() <= 1.5 + 1e-5 and np.abs(offset_Nx2 - np.rint(offset_Nx2)).max() > 0.4
    np.testing.assert_allclose(offset_Nx2.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(np.cov(offset_Nx2.T), np.eye(2) * 1.5**2 / 3, atol=0.08)


@pytest.mark.parametrize(
    ("name", "knob", "value", "words"),
    [
        ("shift", "pixels", 1.5, "a whole number >= 0"),
        ("rotate", "degrees", "x", "a number >= 0"),
        ("rotate", "degrees", float("nan"), "a number >= 0"),
        ("scale", "factor", 0, "a number >= 1"),
        ("shear", "amount", -0.1, "a number >= 0"),
        ("crop_resize", "area", 0, "a number > 0 and <= 1"),
        ("crop_resize", "aspect", 0.5, "a number >= 1"),
        ("colour_jitter", "hue", 0.6, "a number from 0 to 0.5"),
        ("flip", "probability", True, "a number from 0 to 1"),
    ],
)
def test_a_knob_out_of_its_range_is_refused(image, name, knob, value, words):
    with pytest.raises(ValueError, match=re.escape(f"{name}: {knob} must be {words}, got {value!r}")):
        views.AUGMENTATIONS[name](jax.random.key(0), image, **{knob: value})
    with pytest.raises(ValueError, match=re.escape(f"augmentation {name!r}: {knob} must be {words}")):
        views.augmentation(name, **{knob: value})


def test_every_knob_has_a_range():
    for change in views.KNOWN.values():
        parameters = inspect.signature(change).parameters.values()
        assert {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} <= views.KNOBS.keys()


def test_knobs_of_nothing_change_nothing(image):
    key = jax.random.key(0)
    knobs = {
        "shift": {"pixels": 0},
        "shift_subpixel": {"distance": 0},
        "rotate": {"degrees": 0},
        "scale": {"factor": 1},
        "shear": {"amount": 0},
        "crop_resize": {"area": 1, "aspect": 1},
        "colour_jitter": {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0},
        "flip": {"probability": 0},
    }
    assert set(knobs) == set(views.AUGMENTATIONS)
    for name, values in knobs.items():
        np.testing.assert_allclose(views.AUGMENTATIONS[name](key, image, **values), image, **TOLERANCE)
    np.testing.assert_array_equal(views.random_flip(key, image, probability=1), image[:, ::-1])
