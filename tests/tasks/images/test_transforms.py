"""kdib.tasks.images.transforms: exact where exactness is promised, and scipy, scikit-image and jax.image elsewhere."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from kdib.tasks.images import transforms

TOLERANCE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture
def image():
    """A picture [9, 12, 3] of noise, so that no border and no direction passes by chance."""
    return np.random.default_rng(0).random((9, 12, 3), dtype=np.float32)


def moved(image, dy, dx):
    """Pixel by pixel."""
    out = np.zeros_like(image)
    height, width, _ = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y - dy < height and 0 <= x - dx < width:
                out[y, x] = image[y - dy, x - dx]
    return out


@pytest.mark.parametrize("offset", [(0, 0), (2, 0), (0, 3), (-4, 5), (8, -11), (9, 0), (-100, 100)])
def test_whole_shifts_are_exact(image, offset):
    for picture in (image, (image * 255).astype(np.uint8)):
        np.testing.assert_array_equal(transforms.shift(picture, *offset), moved(picture, *offset))
    several = transforms.shift(np.stack([image, 2 * image]), *offset)
    np.testing.assert_array_equal(several, [moved(image, *offset), moved(2 * image, *offset)])


def test_offsets_may_be_traced_and_reach_bounds_them(image):
    offsets = jnp.array([[1, -2], [-2, 0], [0, 2]])
    shift = jax.jit(jax.vmap(lambda offset: transforms.shift(image, *offset, reach=2)))
    np.testing.assert_array_equal(shift(offsets), [moved(image, *offset) for offset in offsets.tolist()])
    np.testing.assert_array_equal(transforms.shift(image, 5, 0, reach=2), moved(image, 2, 0))
    np.testing.assert_array_equal(transforms.shift(image, jnp.uint8(1), 0), moved(image, 1, 0))
    with pytest.raises(TypeError, match=r"whole offsets, got float.*shift_subpixel"):
        transforms.shift(image, 0.5, 0)


@pytest.mark.parametrize("offset", [(0.25, -1.5), (3.0, 2.0), (-0.9, 0.0), (20.5, 0.0)])
def test_subpixel_shifts_are_scipys(image, offset):
    expected = ndimage.shift(image, (*offset, 0), order=1, mode="grid-constant")
    np.testing.assert_allclose(transforms.shift_subpixel(image, *offset), expected, **TOLERANCE)


def test_affine_is_scipys(image):
    matrix, centre = np.array([[0.9, 0.4], [-0.3, 1.2]]), np.array([4.0, 5.5])
    expected = np.stack(
        [
            ndimage.affine_transform(channel, matrix, centre - matrix @ centre, order=1, mode="grid-constant")
            for channel in np.moveaxis(image, -1, 0)
        ],
        axis=-1,
    )
    np.testing.assert_allclose(transforms.affine(image, jnp.array(matrix)), expected, **TOLERANCE)


@pytest.mark.parametrize("degrees", [0, 30, -75, 90])
def test_rotation_is_scikit_images(degrees):
    from skimage.transform import rotate

    image = np.random.default_rng(1).random((11, 11, 2))
    expected = rotate(image, degrees, order=1, mode="constant")
    np.testing.assert_allclose(transforms.rotate(image.astype(np.float32), degrees), expected, **TOLERANCE)
    quarter = transforms.rotate(image.astype(np.float32), 90)
    np.testing.assert_allclose(quarter, np.rot90(image), **TOLERANCE)  # counter-clockwise


def test_scale_is_scipys(image):
    centre = np.array([4.0, 5.5, 1.0])
    matrix = np.diag([1 / 1.3, 1 / 1.3, 1])
    expected = ndimage.affine_transform(image, matrix, centre - matrix @ centre, order=1, mode="grid-constant")
    np.testing.assert_allclose(transforms.scale(image, 1.3), expected, **TOLERANCE)


def test_shear_moves_upper_rows_to_the_right(image):
    sheared = np.asarray(transforms.shear(image, 1.0))
    for row in range(9):
        expected = moved(image[row : row + 1], 0, 4 - row)
        np.testing.assert_allclose(sheared[row : row + 1], expected, **TOLERANCE)


def test_a_stretched_crop_is_jaxs_resize(image):
    crop = image[2:7, 3:6]
    expected = jax.image.resize(crop, image.shape, "linear", antialias=False)
    np.testing.assert_allclose(transforms.crop_resize(image, 2, 3, 5, 3), expected, **TOLERANCE)
    np.testing.assert_array_equal(transforms.crop_resize(image, 0, 0, 9, 12), image)


def test_colours_by_their_formulas(image):
    luma = image @ np.array([0.299, 0.587, 0.114], np.float32)
    unchanged = transforms.colour_jitter(image, 1, 1, 1)
    np.testing.assert_allclose(unchanged, image, **TOLERANCE)
    np.testing.assert_allclose(transforms.colour_jitter(image, 1, 0, 1), np.full_like(image, luma.mean()), **TOLERANCE)
    np.testing.assert_allclose(transforms.colour_jitter(image, 1, 1, 0), luma[..., None].repeat(3, -1), **TOLERANCE)
    np.testing.assert_allclose(transforms.colour_jitter(image, 1.5, 1, 1), np.minimum(1.5 * image, 1), **TOLERANCE)
    contrast = np.clip(luma.mean() + 2 * (image - luma.mean()), 0, 1)
    np.testing.assert_allclose(transforms.colour_jitter(image, 1, 2, 1), contrast, **TOLERANCE)
    grey = image[..., :1]
    np.testing.assert_allclose(transforms.colour_jitter(grey, 1, 1, 3), grey, **TOLERANCE)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        transforms.colour_jitter(image[..., :2], 1, 1, 1)


@pytest.mark.parametrize("turns", [0.0, 0.1, 1 / 3, -0.25, 0.5])
def test_the_hue_is_turned_as_in_hsv(image, turns):
    corners = np.array([[[r, g, b] for r in (0, 1) for g in (0, 1) for b in (0, 1)]], np.float32)  # ties, and greys
    for picture in (image, corners):
        hsv = (colorsys.rgb_to_hsv(*map(float, pixel)) for pixel in picture.reshape(-1, 3))
        expected = [colorsys.hsv_to_rgb((hue + turns) % 1, *rest) for hue, *rest in hsv]
        turned = transforms.colour_jitter(picture, 1, 1, 1, turns)
        np.testing.assert_allclose(turned.reshape(-1, 3), expected, **TOLERANCE)


@pytest.mark.parametrize(
    "probe",
    [
        lambda image: transforms.shift_subpixel(image, 0.5, 0),
        lambda image: transforms.rotate(image, 10.0),
        lambda image: transforms.scale(image, 1.2),
        lambda image: transforms.colour_jitter(image, 1, 1, 1),
    ],
)
def test_whole_numbers_are_refused_where_pixels_are_mixed(probe):
    with pytest.raises(TypeError, match="expected an image of floats, got uint8"):
        probe(jnp.zeros((5, 5, 3), jnp.uint8))
