"""The 15 corruptions of MNIST-C as pure functions of a key and an image, with their strengths as knobs.

    corrupted_NxHxWxC = corrupt("fog", jax.random.key(0), images_NxHxWxC)

Each is (key, image [28, 28, 1] of floats in [0, 1], **knobs) -> image in [0, 1]; the default knobs are MNIST-C's. The
published set is one random draw from the original code. This module uses other random generators, so its sets are
different draws, which are labelled "MNIST-C-style".

Reference: Mu, Gilmer, MNIST-C: A Robustness Benchmark for Computer Vision, ICML workshop (2019), and its code.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kdib.fields import known
from kdib.ranges import AT_LEAST_0, COUNT, POSITIVE, SOME, Range, check
from kdib.tasks.images import filters, transforms

STYLE = "MNIST-C-style"
SIDE = 28
SHAPE = (SIDE, SIDE, 1)
CHUNK = 128  # images corrupted together; fog needs 256 x 256 heights for each


def shot_noise(key: jax.Array, image: jax.Array, *, photons: int = 3) -> jax.Array:
    """Shot noise Poisson(photons * image) / photons; fewer photons give more noise.

    Each pixel inverts the distribution function at one uniform number. Counts of at least `photons` are clipped to 1,
    so `photons` steps of the distribution function suffice. Raises ValueError unless `photons` is whole and >= 1.
    """
    if photons != int(photons) or photons < 1:
        raise ValueError(f"shot_noise: expected photons to be a whole number >= 1, got {photons}")
    rate = photons * image
    uniform = jax.random.uniform(key, image.shape)
    term = reached = jnp.exp(-rate)  # P(count = 0), P(count <= 0)
    count = (uniform >= reached).astype(image.dtype)
    for k in range(1, int(photons)):
        term = term * rate / k
        reached = reached + term
        count = count + (uniform >= reached)
    return count / photons


def impulse_noise(key: jax.Array, image: jax.Array, *, amount: float = 0.17) -> jax.Array:
    """Turn this share of the pixels white or black with equal probability."""
    uniform = jax.random.uniform(key, image.shape)
    return jnp.where(uniform < amount / 2, 1.0, jnp.where(uniform < amount, 0.0, image))


def glass_blur(key: jax.Array, image: jax.Array, *, sigma: float = 0.7, delta: int = 1, sweeps: int = 2) -> jax.Array:
    """Blur the image, exchange pixels with nearby ones, and blur it again.

    As in the code of MNIST-C, both blurs run along axis 0 only, and the result of the first is truncated to 256 levels.
    """
    for_chance, for_offset = jax.random.split(key)
    span = SIDE - 2 * delta
    chance = jax.random.bernoulli(for_chance, 0.5, (sweeps, span, span))
    offset = jax.random.randint(for_offset, (sweeps, span, span, 2), -delta, delta)
    coarse_HxW = jnp.floor(filters.blur_rows(image[..., 0], sigma) * 255)
    mixed_HxW = exchange(coarse_HxW, chance, offset, delta)
    return jnp.clip(filters.blur_rows(mixed_HxW / 255, sigma), 0, 1)[..., None]


def exchange(image_HxW: jax.Array, chance: jax.Array, offset: jax.Array, delta: int) -> jax.Array:
    """Exchange pixels with nearby ones where `chance` is True, one after another, starting at the lower right.

    Args:
      image_HxW: [H, W] values.
      chance: [sweeps, S, S] bool with S = SIDE - 2 delta, in the order of the visits.
      offset: [sweeps, S, S, 2] int (dy, dx) in [-delta, delta - 1].
      delta: the largest offset.
    """
    sweeps, span, _ = chance.shape
    place = jnp.arange(2 * delta)

    def visit(i, image):
        sweep, row, column = i // span**2, i // span % span, i % span
        corner = SIDE - 2 * delta - row, SIDE - 2 * delta - column
        # The square is the same in all images of a batch, hence a slice; pixels at random offsets would need a gather.
        square = jax.lax.dynamic_slice(image, corner, (2 * delta, 2 * delta))
        dy, dx = offset[sweep, row, column]
        partner = (place[:, None] == delta + dy) & (place[None, :] == delta + dx)
        mine, theirs = square[delta, delta], jnp.sum(jnp.where(partner, square, 0))
        changed = jnp.where(partner, mine, square).at[delta, delta].set(theirs)
        return jax.lax.dynamic_update_slice(image, jnp.where(chance[sweep, row, column], changed, square), corner)

    return jax.lax.fori_loop(0, sweeps * span**2, visit, image_HxW)


def motion_blur(
    key: jax.Array, image: jax.Array, *, radius: int = 10, sigma: float = 3.0, degrees: float = 45.0
) -> jax.Array:
    """Blur by half a Gaussian of 2 * radius + 1 pixels along an angle uniform in [-degrees, degrees]."""
    return smear(image, jax.random.uniform(key, minval=-degrees, maxval=degrees), radius, sigma)


def smear(image: jax.Array, angle: jax.Array | float, radius: int, sigma: float) -> jax.Array:
    """The motion blur of [H, W, 1] along `angle` degrees, sampled at the pixels nearest to the line.

    The outermost pixels are repeated beyond the border. Reference: ImageMagick's MotionBlurImage.
    """
    taps = jnp.arange(2 * radius + 1)
    weight = jnp.exp(-(taps**2) / (2 * sigma**2))
    weight = weight / weight.sum()
    towards = jnp.deg2rad(angle)
    rows, columns = (jnp.ceil(taps * part - 0.5).astype(jnp.int32) for part in (jnp.sin(towards), jnp.cos(towards)))
    reach = 2 * radius
    padded_HxW = jnp.pad(image[..., 0], reach, mode="edge")
    steps = [
        weight[i] * jax.lax.dynamic_slice(padded_HxW, (reach + rows[i], reach + columns[i]), (SIDE, SIDE))
        for i in range(len(taps))
    ]
    return sum(steps[1:], start=steps[0])[..., None]


def shear(key: jax.Array, image: jax.Array, *, amount: float = 0.4) -> jax.Array:
    """Shear rows by sin(amount) to a random side and stretch the height by 1 / cos(amount), about the centre."""
    angle = _sign(key) * amount
    return transforms.affine(image, jnp.array([[jnp.cos(angle), 0.0], [-jnp.sin(angle), 1.0]]))


def scale(key: jax.Array, image: jax.Array, *, factor: float = 0.7) -> jax.Array:
    """Scale by this factor about the centre; deterministic."""
    del key
    return transforms.scale(image, factor)


def rotate(key: jax.Array, image: jax.Array, *, radians: float = 0.4) -> jax.Array:
    """Rotate by this angle to a random side about the centre."""
    return transforms.rotate(image, jnp.rad2deg(_sign(key) * radians))


def brightness(key: jax.Array, image: jax.Array, *, amount: float = 0.5) -> jax.Array:
    """Add this amount and clip to [0, 1]; deterministic."""
    del key
    return jnp.clip(image + amount, 0, 1)


def translate(key: jax.Array, image: jax.Array, *, pixels: int = 3) -> jax.Array:
    """Move by this many whole pixels up or down and to the left or right, at random."""
    dy, dx = jnp.where(jax.random.bernoulli(key, shape=(2,)), pixels, -pixels)
    return transforms.shift(image, dy, dx, reach=pixels)


def stripe(key: jax.Array, image: jax.Array, *, width: int = 7) -> jax.Array:
    """Invert this many columns at either side; deterministic."""
    del key
    column = jnp.arange(SIDE)[None, :, None]
    return jnp.where((column < width) | (column >= SIDE - width), 1 - image, image)


def fog(key: jax.Array, image: jax.Array, *, amount: float = 3.0, decay: float = 1.4) -> jax.Array:
    """Add a cloud times `amount` and rescale the sum; a smaller `decay` gives a rougher cloud."""
    top = image.max()
    cloud_HxW = plasma(key, 256, decay)[:SIDE, :SIDE]
    return jnp.clip((image + amount * cloud_HxW[..., None]) * top / (top + amount), 0, 1)


def plasma(key: jax.Array, size: int, decay: float) -> jax.Array:
    """Heights [size, size] from 0 to 1 by the diamond-square algorithm on a torus; `size` is a power of two.

    Each level uses the next [3, n, n] uniform numbers: for the centres of squares, of horizontal edges and of vertical
    edges. They shrink by decay squared from level to level, as in the published MNIST-C, which draws from the uniform
    distribution over +-wobble and multiplies by the wobble once more. Reference: Fournier, Fussell,
    Carpenter, Computer rendering of stochastic models, CACM 25 (1982).
    """
    corners, wobble = jnp.zeros((1, 1)), 1.0
    uniform = jax.random.uniform(key, (size**2 - 1,), minval=-1.0)  # one draw compiles eight times as fast
    while len(corners) < size:
        n = len(corners)
        noise = wobble**2 * uniform[n**2 - 1 : 4 * n**2 - 1].reshape(3, n, n)
        across = corners + jnp.roll(corners, -1, 1)
        upright = corners + jnp.roll(corners, -1, 0)
        middle = (across + jnp.roll(across, -1, 0)) / 4 + noise[0]
        level_edges = (across + middle + jnp.roll(middle, 1, 0)) / 4 + noise[1]
        upright_edges = (upright + middle + jnp.roll(middle, 1, 1)) / 4 + noise[2]
        even = jnp.stack([corners, level_edges], -1).reshape(n, 2 * n)
        odd = jnp.stack([upright_edges, middle], -1).reshape(n, 2 * n)
        corners = jnp.stack([even, odd], 1).reshape(2 * n, 2 * n)
        wobble /= decay
    heights = corners - corners.min()
    return heights / heights.max()


def spatter(
    key: jax.Array,
    image: jax.Array,
    *,
    mean: float = 0.65,
    spread: float = 0.3,
    blur: float = 1.0,
    threshold: float = 0.65,
    edge: float = 1.5,
    cutoff: float = 0.8,
) -> jax.Array:
    """Add mud drops of grey level 63 / 255 where blurred noise exceeds `threshold`; a larger `mean` adds more."""
    noise_HxW = mean + spread * jax.random.normal(key, (SIDE, SIDE))
    drops_HxW = (filters.gaussian(noise_HxW, blur) > threshold).astype(image.dtype)
    mask_HxW = filters.gaussian(drops_HxW, edge)
    mask = jnp.where(mask_HxW < cutoff, 0, mask_HxW)[..., None]
    return jnp.clip(image * (1 - mask) + 63 / 255 * mask, 0, 1)


def dotted_line(key: jax.Array, image: jax.Array, *, reach: float = 2.3) -> jax.Array:
    """Add a dotted line from side to side between heights drawn from 0..26; `reach` is its half width in pixels."""
    start, end = jax.random.randint(key, (2,), 0, SIDE - 1)
    line_HxW = line(0.0, start, SIDE - 1.0, end, reach)
    dots_HxW = jnp.where((jnp.arange(SIDE) // 2 % 2 == 0)[None, :], 0, line_HxW)
    return jnp.clip(image + dots_HxW[..., None], 0, 1)


def zigzag(key: jax.Array, image: jax.Array, *, amplitude: float = 2.0, reach: float = 2.3) -> jax.Array:
    """Add a zigzag from column 2 to 25 about a line of random height and slope."""
    for_height, for_slope = jax.random.split(key)
    start = jax.random.randint(for_height, (), 0, SIDE - 1)
    return draw_zigzag(image, start, jax.random.randint(for_slope, (), -5, 5), amplitude, reach)


def draw_zigzag(
    image: jax.Array, start: jax.Array | int, rise: jax.Array | int, amplitude: float, reach: float
) -> jax.Array:
    """Add to [28, 28, 1] a zigzag from row `start` at column 2 to row `start + rise` (rise in -5..4) at column 25."""
    length = 2.0  # of half a wave; each line of 23 columns at such a slope then has the same seven pieces
    angle = jnp.arctan(rise / 23.0)
    distance = 23.0 / jnp.cos(angle)
    along = [0.0, *((2 * i + 1) * length for i in range(6)), distance]
    # In MNIST-C the last piece ends at a distance of amplitude / (2 (distance - 20)) from the line.
    aside = [0.0, *((-1) ** i * amplitude for i in range(6)), -amplitude / (2 * (distance - 20.0))]
    columns = [2.0 + jnp.cos(angle) * c - jnp.sin(angle) * r for c, r in zip(along, aside, strict=True)]
    rows = [start + jnp.sin(angle) * c + jnp.cos(angle) * r for c, r in zip(along, aside, strict=True)]
    for i in range(7):
        piece_HxW = line(columns[i], rows[i], columns[i + 1], rows[i + 1], reach)
        image = jnp.clip(image + piece_HxW[..., None], 0, 1)
    return image


def line(c0, r0, c1, r1, reach: float) -> jax.Array:
    """A line [28, 28] from column c0, row r0 to column c1 > c0, row r1, that fades with the vertical distance.

    Its brightness is log(1 - distance / reach) + 1, clipped to [0, 1], in the columns from floor(c0) to below ceil(c1).
    """
    row, column = jnp.arange(SIDE)[:, None], jnp.arange(SIDE)[None, :]
    height = (r1 - r0) / (c1 - c0) * (column - c0) + r0
    distance = jnp.minimum(jnp.abs(row - height), reach * (1 - 1e-6))
    brightness = jnp.clip(jnp.log(1 - distance / reach) + 1, 0, 1)
    return jnp.where((column >= jnp.floor(c0)) & (column < jnp.ceil(c1)), brightness, 0)


def canny_edges(
    key: jax.Array, image: jax.Array, *, sigma: float = 1.0, low: float = 0.1, high: float = 0.2
) -> jax.Array:
    """White edges on black (see filters.canny); deterministic."""
    del key
    return filters.canny(image[..., 0], sigma=sigma, low=low, high=high)[..., None].astype(image.dtype)


CORRUPTIONS: dict[str, Callable[..., jax.Array]] = {
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "shear": shear,
    "scale": scale,
    "rotate": rotate,
    "brightness": brightness,
    "translate": translate,
    "stripe": stripe,
    "fog": fog,
    "spatter": spatter,
    "dotted_line": dotted_line,
    "zigzag": zigzag,
    "canny_edges": canny_edges,
}
KNOBS = {  # all other knobs are numbers >= 0
    "photons": SOME,
    "delta": Range(1, SIDE // 2 - 1, whole=True),
    "sweeps": SOME,
    "radius": COUNT,
    "sigma": POSITIVE,
    "factor": POSITIVE,
    "pixels": Range(0, SIDE, whole=True),
    "width": Range(0, SIDE // 2, whole=True),
    "decay": POSITIVE,
    "blur": POSITIVE,
    "edge": POSITIVE,
    "mean": Range(),
    "radians": Range(),
    "threshold": Range(),
    "cutoff": Range(),
    "amplitude": Range(),
    "reach": POSITIVE,
}


def corrupt(name: str, key: jax.Array, images_NxHxWxC: Any, **knobs: Any) -> jax.Array:
    """Corrupt N images, each with the key `fold_in(key, its row)`, and round to whole grey levels.

    Args:
      name: one of CORRUPTIONS.
      key: the key of the whole set.
      images_NxHxWxC: [N, 28, 28, 1] uint8.
      knobs: knobs of the corruption, such as `amount`; every new value compiles again.

    Returns:
      [N, 28, 28, 1] uint8.

    Raises:
      ValueError: for an unknown name or knob, listing the known ones, a knob out of range, or images of another
        shape or dtype.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}; known: {', '.join(CORRUPTIONS)}")
    own = inspect.signature(CORRUPTIONS[name]).parameters.values()
    for knob, value in knobs.items():
        known(f"corruption {name!r}", knob, [p.name for p in own if p.kind is p.KEYWORD_ONLY])
        allowed = KNOBS.get(knob, AT_LEAST_0)
        check(f"corruption {name!r}: {knob}", value, allowed)
        knobs[knob] = int(value) if allowed.whole else float(value)  # 3.0 counts as a whole number
    shape, dtype = images_NxHxWxC.shape, images_NxHxWxC.dtype
    if len(shape) != 4 or not shape[0] or shape[1:] != SHAPE or dtype != jnp.uint8:
        raise ValueError(f"{STYLE} corruptions expect uint8 images [N, {SIDE}, {SIDE}, 1], N > 0, got {dtype} {shape}")
    return _corrupted(key, jnp.asarray(images_NxHxWxC), name=name, knobs=tuple(sorted(knobs.items())))


@functools.partial(jax.jit, static_argnames=("name", "knobs"))
def _corrupted(key: jax.Array, images: jax.Array, *, name: str, knobs: tuple) -> jax.Array:
    def one(row_and_image):
        row, image = row_and_image
        changed = CORRUPTIONS[name](jax.random.fold_in(key, row), image.astype(jnp.float32) / 255, **dict(knobs))
        return jnp.round(changed * 255).astype(jnp.uint8)

    n = len(images)
    size = min(CHUNK, n)
    rows = jnp.arange(-(-n // size) * size)  # whole chunks, because a remainder would be compiled separately
    return jax.lax.map(one, (rows, images[rows % n]), batch_size=size)[:n]


def _sign(key: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
