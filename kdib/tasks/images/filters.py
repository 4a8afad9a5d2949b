"""Gaussian blur as a matrix product and the Canny edge detector, for one grey image [H, W] at a time."""

import jax
import jax.numpy as jnp
import numpy as np


def gaussian_matrix(n: int, sigma: float, *, mode: str = "nearest") -> np.ndarray:
    """The [n, n] matrix that blurs an axis of n pixels, with a kernel truncated at 4 sigma.

    `mode` defines the values outside: "nearest" repeats the outermost pixel, "constant" uses zeros. Raises ValueError
    for any other mode. Reference: scipy.ndimage.gaussian_filter1d.
    """
    if mode not in ("nearest", "constant"):
        raise ValueError(f"expected mode 'nearest' or 'constant', got {mode!r}")
    radius = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    place = np.arange(n)[:, None] + np.arange(-radius, radius + 1)
    matrix_nxn = np.zeros((n, n))
    weight = np.broadcast_to(kernel / kernel.sum(), place.shape)
    if mode == "constant":
        weight = np.where((place >= 0) & (place < n), weight, 0)
    np.add.at(matrix_nxn, (np.broadcast_to(np.arange(n)[:, None], place.shape), np.clip(place, 0, n - 1)), weight)
    return matrix_nxn.astype(np.float32)


def gaussian(image_HxW: jax.Array, sigma: float, *, mode: str = "nearest") -> jax.Array:
    """Blur an image [H, W] along both axes; the arguments are those of `gaussian_matrix`."""
    rows, columns = (gaussian_matrix(n, sigma, mode=mode) for n in image_HxW.shape)
    return _product(_product(rows, image_HxW), columns.T)


def blur_rows(image_HxW: jax.Array, sigma: float) -> jax.Array:
    """Blur an image [H, W] along axis 0 only."""
    return _product(gaussian_matrix(image_HxW.shape[0], sigma), image_HxW)


def canny(image_HxW: jax.Array, *, sigma: float = 1.0, low: float = 0.1, high: float = 0.2) -> jax.Array:
    """The edges of an image of floats in [0, 1], as booleans [H, W].

    Edge candidates are pixels where the gradient magnitude is at least `low` and a maximum along the gradient,
    interpolated between eight neighbours. A connected component of candidates is kept if it reaches `high` somewhere.

    Reference: Canny, A computational approach to edge detection, IEEE PAMI 8 (1986); skimage.feature.canny.
    """
    shares_HxW = gaussian(jnp.ones_like(image_HxW), sigma, mode="constant")
    smooth_HxW = gaussian(image_HxW, sigma, mode="constant") / (shares_HxW + jnp.finfo(image_HxW.dtype).eps)
    dy_HxW, dx_HxW = sobel(smooth_HxW)
    magnitude_HxW = jnp.sqrt(dy_HxW**2 + dx_HxW**2)
    inner_HxW = jnp.zeros(image_HxW.shape, bool).at[1:-1, 1:-1].set(True)
    weak_HxW = inner_HxW & (magnitude_HxW >= low) & _is_ridge(dy_HxW, dx_HxW, magnitude_HxW)
    return _grown(weak_HxW & (magnitude_HxW >= high), weak_HxW)


def sobel(image_HxW: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The derivatives down and to the right, times 8; the image is mirrored beyond the border.

    Reference: scipy.ndimage.sobel.
    """
    padded = jnp.pad(image_HxW, 1, mode="symmetric")
    smooth_x = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    smooth_y = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return smooth_x[2:] - smooth_x[:-2], smooth_y[:, 2:] - smooth_y[:, :-2]


def _is_ridge(dy_HxW: jax.Array, dx_HxW: jax.Array, magnitude_HxW: jax.Array) -> jax.Array:
    """Whether the magnitude is at least as large as on both sides, where the gradient line leaves the 3 x 3 square."""
    steep_y, steep_x = jnp.abs(dy_HxW), jnp.abs(dx_HxW)
    vertical, alike = steep_y > steep_x, (dy_HxW > 0) == (dx_HxW > 0)
    larger = jnp.maximum(steep_y, steep_x)
    weight = jnp.minimum(steep_y, steep_x) / jnp.where(larger > 0, larger, 1)

    def side(towards: int) -> jax.Array:
        """The magnitude interpolated one step along the gradient (towards = 1) or against it (-1)."""
        falling = _at(magnitude_HxW, towards, towards)
        rising = jnp.where(vertical, _at(magnitude_HxW, towards, -towards), _at(magnitude_HxW, -towards, towards))
        straight = jnp.where(vertical, _at(magnitude_HxW, towards, 0), _at(magnitude_HxW, 0, towards))
        return jnp.where(alike, falling, rising) * weight + straight * (1 - weight)

    return (side(1) <= magnitude_HxW) & (side(-1) <= magnitude_HxW)


def _at(image_HxW: jax.Array, dy: int, dx: int) -> jax.Array:
    """out[y, x] = image[y + dy, x + dx] for steps of at most one pixel; zero outside."""
    height, width = image_HxW.shape
    return jnp.pad(image_HxW, 1)[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]


def _grown(seed_HxW: jax.Array, within_HxW: jax.Array) -> jax.Array:
    """The components of `within`, connected over sides and corners, that contain a pixel of `seed`."""

    def grow(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        old, _ = state
        tall = old | _at(old, 1, 0) | _at(old, -1, 0)
        new = (tall | _at(tall, 0, 1) | _at(tall, 0, -1)) & within_HxW
        return new, jnp.any(new != old)

    # Without a seed pixel there is nothing to grow.
    return jax.lax.while_loop(lambda state: state[1], grow, (seed_HxW, jnp.any(seed_HxW)))[0]


def _product(a: jax.Array | np.ndarray, b: jax.Array | np.ndarray) -> jax.Array:
    # The default precision of a TPU would round the image to bfloat16.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
