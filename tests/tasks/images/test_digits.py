"""Generated digits: MNIST's format, one picture a seed and place, centred, and drawn as the strokes say."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from scipy.interpolate import CubicHermiteSpline
from sklearn.neural_network import MLPClassifier

from kdib.tasks.images import digits as module
from kdib.tasks.images.digits import BLOCK, CLASSES, SIDE, digits
from kdib.tasks.images.glyphs import N_POINTS, WAYS, glyphs, spline


@pytest.fixture(scope="module")
def drawn():
    return digits(0, 1500)


def test_the_format_is_mnists(drawn):
    image_NxHxWxC, label_N = drawn
    assert image_NxHxWxC.shape == (1500, 28, 28, 1) and image_NxHxWxC.dtype == np.uint8
    assert label_N.shape == (1500,) and label_N.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(label_N), np.full(10, 150))
    assert image_NxHxWxC.min() == 0 and image_NxHxWxC.max() > 250
    ink_N = np.mean(image_NxHxWxC > 127, axis=(1, 2, 3))
    assert ink_N.min() > 0.02 and ink_N.max() < 0.45 and 0.08 < ink_N.mean() < 0.2


@pytest.mark.parametrize("n", [0, 1, BLOCK, BLOCK + 1])
def test_fewer_digits_are_the_first_of_more(drawn, n):
    image_NxHxWxC, label_N = digits(0, n)
    np.testing.assert_array_equal(image_NxHxWxC, drawn[0][:n], strict=True)
    np.testing.assert_array_equal(label_N, drawn[1][:n], strict=True)


def test_seeds_and_streams_share_no_digit(drawn):
    others = [digits(0, 500, "validation"), digits(0, 500, "test"), digits(1, 500)]
    pictures = [image.tobytes() for images, _ in (drawn, *others) for image in images]
    assert len(set(pictures)) == len(pictures) == 3000
    with pytest.raises(KeyError, match="tests"):
        digits(0, 1, "tests")


def test_digits_are_centred_by_mass_and_stay_within_the_picture(drawn):
    mass_NxHxW = drawn[0][..., 0] / drawn[0].sum(axis=(1, 2, 3))[:, None, None]
    centre_Nx2 = np.stack([mass_NxHxW.sum(axis=axis) @ np.arange(SIDE) for axis in (2, 1)], axis=1)
    off_Nx2 = centre_Nx2 - (SIDE - 1) / 2
    assert np.all(np.abs(off_Nx2.mean(axis=0)) < 0.1)
    assert 0.9 * module.WANDER < off_Nx2.std() < 1.5 * module.WANDER  # the pen's varying width adds to it
    edge_N = np.concatenate([drawn[0][:, [0, -1], :, 0].max(axis=(1, 2)), drawn[0][:, :, [0, -1], 0].max(axis=(1, 2))])
    assert np.mean(edge_N > 0) < 0.03


def test_an_mlp_learns_them_but_not_all_and_not_where_they_stand():
    (x, y), (test_x, test_y) = digits(0, 4000), digits(0, 1000, "test")
    mlp = MLPClassifier((100,), learning_rate_init=3e-3, max_iter=12, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it could train for longer
        mlp.fit(x.reshape(4000, -1) / 255.0, y)
    moved = np.roll(test_x, (3, 3), axis=(1, 2))
    accuracy, elsewhere = (
        (mlp.predict(images.reshape(1000, -1) / 255.0) == test_y).mean() for images in (test_x, moved)
    )
    assert 0.85 < accuracy < 0.99 and elsewhere < 0.45


def test_one_prototype_a_class_is_not_enough_but_says_something(drawn):
    x, y = drawn[0].reshape(1500, -1) / 255.0, drawn[1]
    means = np.stack([x[:1000][y[:1000] == k].mean(axis=0) for k in range(CLASSES)])
    distance = np.sum((x[1000:, None, :] - means[None]) ** 2, axis=-1)
    assert 0.5 < np.mean(distance.argmin(axis=1) == y[1000:]) < 0.85


# ---- strokes and ink


def test_the_spline_is_catmull_and_roms():
    points = np.random.default_rng(0).normal(size=(6, 2))
    mirrored = np.concatenate([[2 * points[0] - points[1]], points, [2 * points[-1] - points[-2]]])
    reference = CubicHermiteSpline(np.arange(6), points, (mirrored[2:] - mirrored[:-2]) / 2)
    np.testing.assert_allclose(spline(6, 33) @ points, reference(np.linspace(0, 5, 33)), atol=1e-12)
    np.testing.assert_allclose(spline(6, 33).sum(axis=1), 1)


def test_every_way_of_writing_goes_through_its_strokes():
    table, ways = glyphs(), [way for digit in WAYS for way in WAYS[digit]]
    assert len(ways) == len(table.control_TxKx2) == table.count_D.sum()
    for t, way in enumerate(ways):
        points_Px2 = table.spline_TxPxK[t] @ table.control_TxKx2[t]
        ends = np.flatnonzero(table.joined_TxP[t] == 0)
        assert len(ends) == len(way) and ends[-1] == N_POINTS - 1
        starts = [0, *(ends[:-1] + 1)]
        for stroke, start, end in zip(way, starts, ends, strict=True):
            np.testing.assert_allclose(points_Px2[[start, end]], np.array(stroke)[[0, -1]] / 100, atol=1e-6)


def test_lengths_sum_to_the_strokes_and_nothing_joins_two():
    points_1xPx2 = np.array([[[0, 0], [3, 4], [6, 8], [100, 0], [100, 2]]], np.float32)
    length_1xP = module._lengths(points_1xPx2, np.array([[1, 1, 0, 1, 0]], np.float32))
    np.testing.assert_allclose(length_1xP, [[2.5, 5, 2.5, 1, 1]])


def test_a_straight_stroke_is_as_dark_all_along_and_as_wide_as_the_pen(monkeypatch):
    monkeypatch.setattr(module, "PEN", (1.0, 1.0))
    monkeypatch.setattr(module, "PRESSURE", 0.0)
    y_P = np.linspace(6, 22, N_POINTS, dtype=np.float32)
    points_1xPx2 = np.stack([np.full_like(y_P, 14), y_P], axis=-1)[None]
    length_1xP = module._lengths(points_1xPx2, np.r_[np.ones(N_POINTS - 1), 0].astype(np.float32)[None])
    image_HxW = module._inked(points_1xPx2, length_1xP, np.random.default_rng(0))[0]
    assert np.ptp(image_HxW[9:20], axis=0).max() <= 1  # no beads
    assert image_HxW[9, 14] >= 0.75 * 255 and image_HxW[9, 14] >= image_HxW[9, 13] > image_HxW[9, 12]
    np.testing.assert_array_equal(image_HxW[9, 12:17], image_HxW[9, 12:17][::-1])
    assert image_HxW[:, [*range(11), *range(18, 28)]].max() == 0 and image_HxW[[*range(4), *range(25, 28)]].max() == 0


# ---- the picture


def test_the_command_line_draws_the_digits(tmp_path):
    file = tmp_path / "digits.png"
    command = [sys.executable, "-m", "kdib.tasks.images.digits", f"--out={file}", "--data_seed=3"]
    assert subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ}).stdout == f"{file}\n"
    page = np.asarray(Image.open(file))
    images, labels = digits(3, 500)
    labels_width = page.shape[1] - 10 * 2 * SIDE
    first_seven = page[7 * 2 * SIDE : 8 * 2 * SIDE : 2, labels_width : labels_width + 2 * SIDE : 2]
    np.testing.assert_array_equal(255 - first_seven, images[labels == 7][0, ..., 0])
    assert page.shape == (560, 584) and page[:, :labels_width].min() < 128  # the labels in front
