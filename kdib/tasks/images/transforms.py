"""Deterministic image transforms for probes and augmentation: shift, rotate, scale, shear, crop, colour.

They are pure functions of an image and parameters: `shift(image, dy, dx)`, `rotate(image, degrees)`. Parameters may be
traced, so `jax.vmap` can give every image its own. `views.py` draws random parameters.

Images are [H, W, C]; `shift` and `shift_subpixel` also take leading axes, which share the offset. Rows count downwards:
+dy moves the image down, +dx to the right. Interpolation is bilinear between pixel centres, and pixels outside the
image are zero (`mode="grid-constant"` of scipy.ndimage).
"""

import jax
import jax.numpy as jnp

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def shift(image: jax.Array, dy: jax.Array | int, dx: jax.Array | int, *, reach: int | None = None) -> jax.Array:
    """Move an image by whole pixels, exactly and for any dtype.

    Args:
      image: [..., H, W, C].
      dy: whole number of rows, down; may be traced.
      dx: whole number of columns, to the right; may be traced.
      reach: an upper bound on both offsets, which makes the padded copy smaller. Larger offsets are clipped to it.

    Returns:
      [..., H, W, C] of the same dtype, filled with zeros.

    Raises:
      TypeError: if an offset is not of an integer type; `shift_subpixel` takes fractions.
    """
    for offset in (dy, dx):
        if not jnp.issubdtype(jnp.result_type(offset), jnp.integer):
            raise TypeError(f"expected whole offsets, got {jnp.result_type(offset)}: shift_subpixel takes fractions")
    height, width = image.shape[-3:-1]
    rows, columns = (height, width) if reach is None else (min(reach, height), min(reach, width))
    lead = image.ndim - 3
    padded = jnp.pad(image, [(0, 0)] * lead + [(rows, rows), (columns, columns), (0, 0)])
    start = (*[jnp.int32(0)] * lead, rows - _clip(dy, rows), columns - _clip(dx, columns), jnp.int32(0))
    return jax.lax.dynamic_slice(padded, start, image.shape)


def shift_subpixel(image: jax.Array, dy: jax.Array | float, dx: jax.Array | float) -> jax.Array:
    """Move a float image [..., H, W, C] by fractions of pixels, dy down and dx to the right.

    At whole offsets it equals `shift` up to the rounding of a product. Reference: scipy.ndimage.shift, order=1.
    """
    height, width = image.shape[-3:-1]
    return _resample(image, jnp.arange(height) - dy, jnp.arange(width) - dx)


def affine(image: jax.Array, matrix_2x2: jax.Array) -> jax.Array:
    """Affine transform of [H, W, C] by the inverse map out(p) = image(centre + matrix (p - centre)), p = (row, column).

    Reference: scipy.ndimage.affine_transform, order=1.
    """
    height, width, _ = image.shape
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y_HxW, x_HxW = jnp.meshgrid(jnp.arange(height) - middle_y, jnp.arange(width) - middle_x, indexing="ij")
    (a, b), (c, d) = matrix_2x2
    return _sample(image, middle_y + a * y_HxW + b * x_HxW, middle_x + c * y_HxW + d * x_HxW)


def rotate(image: jax.Array, degrees: jax.Array | float) -> jax.Array:
    """Rotate an image [H, W, C] about its centre, counter-clockwise for the viewer.

    Reference: skimage.transform.rotate, order=1.
    """
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return affine(image, jnp.array([[cos, sin], [-sin, cos]]))


def scale(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Scale an image [H, W, C] about its centre by `factor` > 0; below 1 it shrinks, without a low-pass filter."""
    height, width, _ = image.shape
    rows, columns = (jnp.arange(n) - (n - 1) / 2 for n in (height, width))
    return _resample(image, (height - 1) / 2 + rows / factor, (width - 1) / 2 + columns / factor)


def shear(image: jax.Array, amount: jax.Array | float) -> jax.Array:
    """Shear an image [H, W, C]: a row moves right by `amount` pixels for each pixel that it is above the centre."""
    return affine(image, jnp.array([[1.0, 0.0], [amount, 1.0]]))


def crop_resize(
    image: jax.Array,
    top: jax.Array | float,
    left: jax.Array | float,
    height: jax.Array | float,
    width: jax.Array | float,
) -> jax.Array:
    """Crop the box of `height` x `width` pixels at row `top` and column `left`, and resize it to the size of the image.

    The box may end between pixels and must lie within the image [H, W, C]. Samples are clipped to the outermost pixel
    centres of the box. Reference: jax.image.resize of a cropped image, "linear", antialias=False.
    """
    rows, columns = image.shape[:2]
    return _resample(image, _stretched(rows, top, height), _stretched(columns, left, width))


def colour_jitter(
    image: jax.Array,
    brightness: jax.Array | float,
    contrast: jax.Array | float,
    saturation: jax.Array | float,
    hue: jax.Array | float = 0.0,
) -> jax.Array:
    """Change brightness, contrast, saturation and hue of an image [H, W, C] with values in [0, 1].

    The factors blend it with black, with its mean luma and with its own luma, and each result is clipped to [0, 1]. A
    factor of 1 changes nothing; 0 gives black, a uniform grey, and a grey image. `hue` is a fraction of a turn; 1/3
    turns red into green. An image with one channel is its own luma and has no hue. Reference:
    torchvision.transforms.v2.functional adjust_brightness, adjust_contrast, adjust_saturation and adjust_hue.

    Raises:
      ValueError: unless C is 1 or 3.
      TypeError: unless the image is floating point.
    """
    _check_floats(image)
    if image.shape[-1] not in (1, 3):
        raise ValueError(f"expected 1 or 3 channels, got an image of shape {image.shape}")
    image = jnp.clip(image * brightness, 0, 1)
    mean = _luma(image).mean()
    image = jnp.clip(mean + contrast * (image - mean), 0, 1)
    luma_HxWx1 = _luma(image)
    image = jnp.clip(luma_HxWx1 + saturation * (image - luma_HxWx1), 0, 1)
    return image if image.shape[-1] == 1 else _turned(image, hue)


def _turned(image: jax.Array, turns: jax.Array | float) -> jax.Array:
    """Turn the HSV hue of [H, W, 3] in [0, 1]; saturation and value do not change.

    Reference: Smith, Color gamut transform pairs, SIGGRAPH (1978).
    """
    largest, chroma = image.max(-1), image.max(-1) - image.min(-1)
    red, green, blue = jnp.moveaxis(image, -1, 0)
    some = jnp.where(chroma > 0, chroma, 1)
    third = jnp.where(largest == red, green - blue, jnp.where(largest == green, blue - red, red - green)) / some
    sixths = third + jnp.where(largest == red, 0, jnp.where(largest == green, 2, 4)) + 6 * turns
    away = jnp.stack([(n + sixths) % 6 for n in (5, 3, 1)], -1)
    return largest[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(away, 4 - away), 0, 1)


def _clip(offset: jax.Array | int, reach: int) -> jax.Array:
    # With an unsigned type -dy would wrap around.
    return jnp.clip(jnp.asarray(offset, jnp.int32), -reach, reach)


def _luma(image: jax.Array) -> jax.Array:
    if image.shape[-1] == 1:
        return image
    return (image @ jnp.array(LUMA, image.dtype))[..., None]


def _stretched(n: int, start: jax.Array | float, length: jax.Array | float) -> jax.Array:
    """The centres [n] of n pixels that cover [start, start + length) of an axis, in the coordinates of the axis."""
    within = jnp.clip((jnp.arange(n) + 0.5) * length / n - 0.5, 0, length - 1)
    return start + within


def _resample(image: jax.Array, rows_H: jax.Array, columns_W: jax.Array) -> jax.Array:
    """Bilinear samples of [..., H, W, C] at all rows x columns, as products with hat functions instead of a gather."""
    _check_floats(image)
    rows_HxH = _hat(rows_H, image.shape[-3], image.dtype)
    columns_WxW = _hat(columns_W, image.shape[-2], image.dtype)
    # The default precision of a TPU would round the image to bfloat16.
    return jnp.einsum("ih,...hwc,jw->...ijc", rows_HxH, image, columns_WxW, precision=jax.lax.Precision.HIGHEST)


def _check_floats(image: jax.Array) -> None:
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(f"expected an image of floats, got {image.dtype}: only `shift` takes integers")


def _hat(places_M: jax.Array, n: int, dtype) -> jax.Array:
    return jnp.maximum(1 - jnp.abs(places_M[:, None] - jnp.arange(n)[None, :]), 0).astype(dtype)


def _sample(image: jax.Array, y_HxW: jax.Array, x_HxW: jax.Array) -> jax.Array:
    """Bilinear samples of [H, W, C] at arbitrary places; pixels outside the image are zero."""
    _check_floats(image)
    top, left = jnp.floor(y_HxW), jnp.floor(x_HxW)
    down_HxWx1, right_HxWx1 = (y_HxW - top)[..., None], (x_HxW - left)[..., None]
    above = _between(_pixels(image, top, left), _pixels(image, top, left + 1), right_HxWx1)
    below = _between(_pixels(image, top + 1, left), _pixels(image, top + 1, left + 1), right_HxWx1)
    return _between(above, below, down_HxWx1)


def _between(a: jax.Array, b: jax.Array, weight: jax.Array) -> jax.Array:
    return (1 - weight) * a + weight * b


def _pixels(image: jax.Array, y_HxW: jax.Array, x_HxW: jax.Array) -> jax.Array:
    y_HxW, x_HxW = y_HxW.astype(jnp.int32), x_HxW.astype(jnp.int32)
    height, width, _ = image.shape
    inside_HxW = (y_HxW >= 0) & (y_HxW < height) & (x_HxW >= 0) & (x_HxW < width)
    return jnp.where(inside_HxW[..., None], jnp.asarray(image).at[y_HxW, x_HxW].get(mode="clip"), 0)
