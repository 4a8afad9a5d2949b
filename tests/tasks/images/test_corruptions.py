"""kdib.tasks.images.corruptions and filters: against scipy, scikit-image, and loops over pixels in numpy."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from kdib.tasks.images import corruptions, filters
from kdib.tasks.images.corruptions import CORRUPTIONS, corrupt

KEY = jax.random.key(7)
TOLERANCE = {"rtol": 0, "atol": 3e-5}


@pytest.fixture(scope="module")
def images():
    """Blobs and strokes [N, 28, 28, 1] uint8 with flat white and black, as digits have."""
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(size=(40, 28, 28)), (0, 2, 2))
    blobs = np.clip((noise / noise.std() - 0.7) * 2, 0, 1)
    return (blobs * 255).astype(np.uint8)[..., None]


@pytest.fixture(scope="module")
def picture(images):
    """One of them as floats [28, 28, 1]."""
    return images[0] / np.float32(255)


def warped(picture, matrix_xy):
    """Scikit-image's warp about the centre, by a matrix of (x, y), as MNIST-C calls it."""
    from skimage.transform import AffineTransform, warp

    middle = np.array([13.5, 13.5])
    full = np.eye(3)
    full[:2, :2], full[:2, 2] = matrix_xy, middle - matrix_xy @ middle
    return warp(picture[..., 0].astype(np.float64), inverse_map=AffineTransform(matrix=full), order=1)


def one_of(result, *expected):
    """The corruption draws a direction: it has to be one of these, up to rounding."""
    distances = [np.abs(np.asarray(result)[..., 0] - candidate).max() for candidate in expected]
    assert min(distances) < 3e-5, distances
    return int(np.argmin(distances))


@pytest.mark.parametrize("name", ["shear", "rotate"])
def test_slanted_and_turned_as_scikit_image_does(picture, name):
    c, s = np.cos(0.4), np.sin(0.4)
    matrices = {"shear": ([[1, -s], [0, c]], [[1, s], [0, c]]), "rotate": ([[c, -s], [s, c]], [[c, s], [-s, c]])}
    expected = [warped(picture, np.array(matrix)) for matrix in matrices[name]]
    drawn = {one_of(CORRUPTIONS[name](jax.random.key(i), picture), *expected) for i in range(8)}
    assert drawn == {0, 1}


def test_scaled_as_scikit_image_does(picture):
    one_of(CORRUPTIONS["scale"](KEY, picture), warped(picture, np.eye(2) / 0.7))


def test_translated_by_three_pixels_either_way(picture):
    expected = [
        ndimage.shift(picture[..., 0], offset, order=0, mode="grid-constant")
        for offset in [(3, 3), (3, -3), (-3, 3), (-3, -3)]
    ]
    drawn = {one_of(CORRUPTIONS["translate"](jax.random.key(i), picture), *expected) for i in range(20)}
    assert drawn == {0, 1, 2, 3}


@pytest.mark.parametrize("sigma", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("mode", ["nearest", "constant"])
def test_gaussian_is_scipys(picture, sigma, mode):
    expected = ndimage.gaussian_filter(picture[..., 0].astype(np.float64), sigma, mode=mode)
    np.testing.assert_allclose(filters.gaussian(picture[..., 0], sigma, mode=mode), expected, **TOLERANCE)
    rows = ndimage.gaussian_filter1d(picture[..., 0].astype(np.float64), sigma, axis=0, mode="nearest")
    np.testing.assert_allclose(filters.blur_rows(picture[..., 0], sigma), rows, **TOLERANCE)


@pytest.mark.parametrize("axis", [0, 1])
def test_sobel_is_scipys(picture, axis):
    np.testing.assert_allclose(
        filters.sobel(picture[..., 0])[axis], ndimage.sobel(picture[..., 0], axis=axis), **TOLERANCE
    )


def test_canny_is_scikit_images(images):
    from skimage.feature import canny

    ours = np.asarray(jax.jit(jax.vmap(filters.canny))(images[..., 0] / np.float32(255)))
    theirs = np.stack([canny(image) for image in images[..., 0] / 255.0])
    assert ours.mean() > 0.02
    assert (ours != theirs).mean() < 1e-3  # theirs is in float64: ties between neighbours fall either way


def test_canny_of_real_digits_is_scikit_images(data_dir):
    import gzip

    from skimage.feature import canny

    with gzip.open(data_dir / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        raw = file.read(16 + 400 * 784)[16:]
    digits = np.frombuffer(raw, np.uint8).reshape(-1, 28, 28)
    ours = np.asarray(jax.jit(jax.vmap(filters.canny))(digits / np.float32(255)))
    theirs = np.stack([canny(image) for image in digits / 255.0])
    assert (ours != theirs).mean() < 1e-3


def test_hysteresis_keeps_whole_pieces_and_drops_weak_ones():
    weak = np.zeros((28, 28), bool)
    weak[3, 2:20] = weak[10, 2:20] = True
    weak[4:9, 20] = weak[9, 19] = True  # over corners: one piece from (3, 2) to (10, 2)
    weak[15:20, 5] = True  # nothing strong
    seed = np.zeros_like(weak)
    seed[10, 2] = True
    expected = weak.copy()
    expected[15:20, 5] = False
    np.testing.assert_array_equal(filters._grown(jnp.array(seed), jnp.array(weak)), expected)


@pytest.mark.parametrize("delta", [1, 2])
def test_exchange_is_a_loop_over_pixels(picture, delta):
    rng, span = np.random.default_rng(1), 28 - 2 * delta
    chance = rng.random((2, span, span)) < 0.5
    offset = rng.integers(-delta, delta, (2, span, span, 2))
    expected = picture[..., 0].copy()
    for sweep in range(2):
        for row, h in enumerate(range(28 - delta, delta, -1)):
            for column, w in enumerate(range(28 - delta, delta, -1)):
                if chance[sweep, row, column]:
                    there = h + offset[sweep, row, column, 0], w + offset[sweep, row, column, 1]
                    expected[h, w], expected[there] = expected[there], expected[h, w]
    result = corruptions.exchange(jnp.array(picture[..., 0]), jnp.array(chance), jnp.array(offset), delta)
    np.testing.assert_array_equal(result, expected)


def test_glass_blur_without_exchange_is_two_blurs(picture, monkeypatch):
    monkeypatch.setattr(corruptions, "exchange", lambda image, *draws: image)
    blur = lambda x: ndimage.gaussian_filter1d(x, 0.7, axis=0, mode="nearest")  # noqa: E731
    expected = blur(np.floor(blur(picture[..., 0].astype(np.float64)) * 255) / 255)
    result = CORRUPTIONS["glass_blur"](KEY, picture)[..., 0]
    assert np.abs(result - expected).max() <= 1 / 255  # a value at an edge of the truncation
    assert (np.abs(result - expected) > 1e-4).mean() < 0.01


@pytest.mark.parametrize("angle", [-45, -20.5, 0, 37.3])
def test_motion_blur_is_a_loop_over_pixels(picture, angle):
    weight = np.exp(-(np.arange(21) ** 2) / 18)
    weight /= weight.sum()
    expected = np.zeros((28, 28))
    for i in range(21):
        dy, dx = (int(np.ceil(i * part - 0.5)) for part in (np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))))
        rows, columns = np.clip(np.arange(28) + dy, 0, 27), np.clip(np.arange(28) + dx, 0, 27)
        expected += weight[i] * picture[..., 0][np.ix_(rows, columns)]
    np.testing.assert_allclose(corruptions.smear(picture, angle, 10, 3.0)[..., 0], expected, **TOLERANCE)


def test_plasma_is_diamond_square_on_a_torus():
    size, decay = 16, 1.4
    uniform = np.asarray(jax.random.uniform(KEY, (size**2 - 1,), minval=-1.0), np.float64)
    heights, step, wobble, used = np.zeros((size, size)), size, 1.0, 0
    while step > 1:
        half, n = step // 2, size // step
        draw = uniform[used : used + 3 * n * n].reshape(3, n, n)
        used += 3 * n * n
        corners = [(0, 0), (step, 0), (0, step), (step, step)]
        crosses = [(half, 0), (-half, 0), (0, half), (0, -half)]
        for kind, (y0, x0, near) in enumerate([(half, half, corners), (0, half, crosses), (half, 0, crosses)]):
            for i in range(n):
                for j in range(n):
                    y, x = i * step + y0, j * step + x0
                    base = (i * step, j * step) if kind == 0 else (y, x)
                    mean = np.mean([heights[(base[0] + dy) % size, (base[1] + dx) % size] for dy, dx in near])
                    heights[y, x] = mean + wobble * (wobble * draw[kind, i, j])  # published so: its uniform is +-wobble
        step, wobble = half, wobble / decay
    heights -= heights.min()
    np.testing.assert_allclose(corruptions.plasma(KEY, size, decay), heights / heights.max(), **TOLERANCE)


def test_fog_is_a_scaled_sum(picture):
    cloud = np.asarray(corruptions.plasma(KEY, 256, 1.4))[:28, :28, None]
    top = picture.max()
    np.testing.assert_allclose(CORRUPTIONS["fog"](KEY, picture), (picture + 3 * cloud) * top / (top + 3), **TOLERANCE)


def test_spatter_is_scipys_blurs(picture):
    noise = 0.65 + 0.3 * np.asarray(jax.random.normal(KEY, (28, 28)), np.float64)
    drops = (ndimage.gaussian_filter(noise, 1, mode="nearest") > 0.65).astype(float)
    mask = ndimage.gaussian_filter(drops, 1.5, mode="nearest")
    mask[mask < 0.8] = 0
    assert 0.05 < mask.mean() < 0.6
    expected = picture[..., 0] * (1 - mask) + 63 / 255 * mask
    np.testing.assert_allclose(CORRUPTIONS["spatter"](KEY, picture)[..., 0], expected, **TOLERANCE)


def drawn_line(c0, r0, c1, r1):
    """A line of MNIST-C, column by column."""
    out = np.zeros((28, 28))
    for c in range(int(np.floor(c0)), min(int(np.ceil(c1)), 28)):
        distance = np.abs(np.arange(28) - ((r1 - r0) / (c1 - c0) * (c - c0) + r0))
        near = distance < 2.3
        out[near, c] = np.clip(np.log(1 - distance[near] / 2.3) + 1, 0, 1)
    return out


def test_a_dotted_line_leaves_every_second_pair_of_columns(picture):
    result = np.asarray(CORRUPTIONS["dotted_line"](KEY, np.zeros_like(picture)))[..., 0]
    start, end = jax.random.randint(KEY, (2,), 0, 27).tolist()
    expected = drawn_line(0, start, 27, end)
    for c in range(0, 28, 4):
        expected[:, c : c + 2] = 0
    np.testing.assert_allclose(result, expected, **TOLERANCE)
    assert (result[:, 2:4].max(axis=0) > 0.5).all() and result[:, 27].max() == 0


@pytest.mark.parametrize("rise", [-5, 0, 4])
def test_zigzag_is_mnist_cs(picture, rise):
    angle = np.arctan(rise / 23)
    length = 23 / np.cos(angle)
    points = [(0, 0)] + [((2 * i + 1) * 2, (-1) ** i * 2) for i in range(int((length - 2) // 4) + 1)]
    points.append((length, points[-1][1] / (2 * (length - 4 * (length // 4)))))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    places = np.array(points) @ turn.T + (2, 12)
    expected = picture[..., 0].astype(np.float64)
    for (c0, r0), (c1, r1) in itertools.pairwise(places):
        expected = np.clip(expected + drawn_line(c0, r0, c1, r1), 0, 1)
    result = corruptions.draw_zigzag(picture, 12, rise, 2.0, 2.3)[..., 0]
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-4)  # the logarithm near distance 2.3


def test_shot_noise_is_poisson_clipped():
    from scipy.stats import poisson

    values = CORRUPTIONS["shot_noise"](KEY, jnp.full((200, 200, 1), 0.4))
    for k in range(3):
        expected = poisson.pmf(k, 1.2)
        assert float(jnp.isclose(values, k / 3).mean()) == pytest.approx(expected, abs=0.012), k
    assert float((values == 1).mean()) == pytest.approx(poisson.sf(2, 1.2), abs=0.012)
    assert float(CORRUPTIONS["shot_noise"](KEY, jnp.zeros((28, 28, 1))).max()) == 0
    with pytest.raises(ValueError, match=r"whole number >= 1, got 0\.5"):
        CORRUPTIONS["shot_noise"](KEY, values, photons=0.5)


def test_impulse_noise_is_half_salt():
    values = CORRUPTIONS["impulse_noise"](KEY, jnp.full((200, 200, 1), 0.4))
    shares = [float((values == level).mean()) for level in (0.0, 1.0)]
    np.testing.assert_allclose(shares, 0.085, atol=0.007)
    assert float(jnp.isclose(values, 0.4).mean()) == pytest.approx(0.83, abs=0.01)


def test_brightness_and_stripe(picture):
    np.testing.assert_allclose(CORRUPTIONS["brightness"](KEY, picture), np.minimum(picture + 0.5, 1), **TOLERANCE)
    expected = picture.copy()
    expected[:, :7], expected[:, 21:] = 1 - picture[:, :7], 1 - picture[:, 21:]
    np.testing.assert_allclose(CORRUPTIONS["stripe"](KEY, picture), expected, **TOLERANCE)


NOTHING_DRAWN = {"scale", "brightness", "stripe", "canny_edges"}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_image_has_its_own_draw_and_depends_on_nothing_else(name, images, monkeypatch):
    monkeypatch.setattr(corruptions, "CHUNK", 4)
    same = np.repeat(images[:1], 6, axis=0)
    out = np.asarray(corrupt(name, KEY, same))
    assert out.shape == same.shape and out.dtype == np.uint8
    assert (out != same).any()
    distinct = len({picture.tobytes() for picture in out})
    assert distinct == 1 if name in NOTHING_DRAWN else distinct > 1
    others = same.copy()
    others[1:] = images[1:6]
    np.testing.assert_array_equal(corrupt(name, KEY, others)[0], out[0])


KNOBS = {
    "shot_noise": {"photons": 60},
    "impulse_noise": {"amount": 0.03},
    "glass_blur": {"sigma": 0.3},
    "motion_blur": {"sigma": 0.5},
    "shear": {"amount": 0.05},
    "scale": {"factor": 0.97},
    "rotate": {"radians": 0.05},
    "brightness": {"amount": 0.1},
    "translate": {"pixels": 1},
    "stripe": {"width": 1},
    "fog": {"amount": 0.5},
    "spatter": {"threshold": 0.9},
    "dotted_line": {"reach": 0.5},
    "zigzag": {"reach": 0.5},
}


@pytest.mark.parametrize("name", KNOBS)
def test_a_knob_turned_down_corrupts_less(name, picture):
    def distance(**knobs):
        return float(jnp.abs(CORRUPTIONS[name](KEY, jnp.array(picture), **knobs) - picture).mean())

    assert distance(**KNOBS[name]) < 0.8 * distance()


@pytest.mark.parametrize(
    ("name", "knob"),
    [("translate", "pixels"), ("motion_blur", "radius"), ("glass_blur", "sweeps"), ("glass_blur", "delta")],
)
def test_a_whole_number_may_be_a_float(name, knob, images):
    own = inspect.signature(CORRUPTIONS[name]).parameters[knob].default
    np.testing.assert_array_equal(corrupt(name, KEY, images[:1], **{knob: float(own)}), corrupt(name, KEY, images[:1]))


def test_unknown_names_and_other_sizes_are_refused(images):
    with pytest.raises(ValueError, match=r"unknown corruption 'snow'; known: shot_noise, .*canny_edges"):
        corrupt("snow", KEY, images)
    with pytest.raises(ValueError, match=r"corruption 'fog': 'amont' is unknown\. Did you mean 'amount'\? .*decay"):
        corrupt("fog", KEY, images, amont=1.0)
    for name, knob, value, words in (
        ("fog", "decay", 0.0, "a number > 0"),
        ("glass_blur", "delta", 0, "a whole number from 1 to 13"),
        ("glass_blur", "delta", 14, "a whole number from 1 to 13"),
        ("glass_blur", "sweeps", 0, "a whole number >= 1"),
        ("spatter", "blur", 0.0, "a number > 0"),
        ("spatter", "edge", 0.0, "a number > 0"),
        ("brightness", "amount", "a", "a number >= 0"),
        ("translate", "pixels", 2.5, "a whole number from 0 to 28"),
        ("stripe", "width", -3, "a whole number from 0 to 14"),
    ):
        with pytest.raises(ValueError, match=rf"corruption '{name}': {knob} must be {words}, got {value!r}$"):
            corrupt(name, KEY, images, **{knob: value})
    with pytest.raises(ValueError, match=r"MNIST-C-style .*\[N, 28, 28, 1\].* got uint8 \(2, 32, 32, 3\)"):
        corrupt("fog", KEY, np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8 images"):
        corrupt("fog", KEY, images / 255)
