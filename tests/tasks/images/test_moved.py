"""Moved and smaller pictures: whole shifts are slices, the rest is what scipy makes of it."""

import numpy as np
import pytest
from scipy import ndimage

from kdib.tasks.images import moved

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 12, 10, 3), np.uint8)  # not square, so that axes cannot be mixed up


def sliced(image_HxWxC, dy, dx):
    """By padding and cutting out: +dy down, +dx right, zeros come in."""
    height, width, _ = image_HxWxC.shape
    padded = np.pad(image_HxWxC, ((20, 20), (20, 20), (0, 0)))
    return padded[20 - dy : 20 - dy + height, 20 - dx : 20 - dx + width]


def affine(image_HxWxC, matrix, offset):
    """scipy's bilinear sampling; beyond the edge are zeros, into which an edge fades."""
    return ndimage.affine_transform(
        image_HxWxC.astype(float), matrix, offset, order=1, mode="grid-constant", output=float
    )


def test_whole_offsets_are_slices():
    offset_Nx2 = RNG.integers(-13, 14, (40, 2))
    for found, image, (dy, dx) in zip(moved.moved(IMAGES, offset_Nx2), IMAGES, offset_Nx2, strict=True):
        np.testing.assert_array_equal(found, sliced(image, dy, dx), strict=True)


def test_shifted_pictures_are_whole_shifts_within_reach():
    shifted_NxHxWxC, offset_Nx2 = moved.shifted(IMAGES, 5)
    assert offset_Nx2.dtype.kind == "i" and len(np.unique(offset_Nx2, axis=0)) > 20
    for found, image, (dy, dx) in zip(shifted_NxHxWxC, IMAGES, offset_Nx2, strict=True):
        np.testing.assert_array_equal(found, sliced(image, dy, dx), strict=True)
    many = moved.shifted(np.zeros((2000, 1, 1, 1), np.uint8), 0)[1]
    assert set(many.ravel()) == set(range(-3, 4)) and np.all(np.abs(many.mean(axis=0)) < 0.2)


def test_moved_pictures_are_scipys():
    offset_Nx2 = RNG.uniform(-3, 3, (40, 2))
    for found, image, (dy, dx) in zip(moved.moved(IMAGES, offset_Nx2), IMAGES, offset_Nx2, strict=True):
        np.testing.assert_allclose(found, affine(image, np.ones(3), (-dy, -dx, 0)), atol=0.502)


def test_translated_pictures_are_moved_by_three_pixels_on_each_axis():
    found_NxHxWxC, offset_Nx2 = moved.translated(IMAGES, 5)
    for found, image, (dy, dx) in zip(found_NxHxWxC, IMAGES, offset_Nx2, strict=True):
        np.testing.assert_array_equal(found, sliced(image, dy, dx), strict=True)
    many = moved.translated(np.zeros((2000, 1, 1, 1), np.uint8), 0)[1]
    sides, counts = np.unique(many, axis=0, return_counts=True)
    assert sides.tolist() == [[-3, -3], [-3, 3], [3, -3], [3, 3]] and np.all(np.abs(counts - 500) < 80)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3])
def test_scaled_pictures_are_scipys(factor):
    _, height, width, _ = IMAGES.shape
    middle = np.array([(height - 1) / 2, (width - 1) / 2, 1])
    matrix = np.array([1 / factor, 1 / factor, 1])
    for found, image in zip(moved.scaled(IMAGES, factor), IMAGES, strict=True):
        np.testing.assert_allclose(found, affine(image, matrix, middle - matrix * middle), atol=0.502)


def test_a_square_of_ten_pixels_becomes_one_of_seven():
    image = np.zeros((1, 28, 28, 1), np.uint8)
    image[0, 9:19, 9:19] = 200
    small = moved.scaled(image)[0, ..., 0]
    assert small.sum() / 200 == pytest.approx(49, rel=0.03) and small[13, 13] == 200
    np.testing.assert_array_equal(small, small[::-1, ::-1])


def test_the_seed_is_all_that_is_drawn_from_and_pieces_are_joined(monkeypatch):
    whole = moved.translated(IMAGES, 1)[0]
    monkeypatch.setattr(moved, "CHUNK", 7)
    np.testing.assert_array_equal(moved.translated(IMAGES, 1)[0], whole, strict=True)
    assert not np.array_equal(moved.translated(IMAGES, 2)[0], whole)
    assert whole.dtype == np.uint8
