"""Test pictures that were moved or made smaller: what an architecture's bias is asked about.

A separable change of place is one bilinear weight matrix an axis, so whole sets take two products of matrices.
"""

import numpy as np

REACH = 3  # pixels on each axis: MNIST-C's translate
SCALE = 0.7  # MNIST-C's scale
CHUNK = 1024  # pictures at a time


def shifted(image_NxHxWxC: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Every picture moved by a random whole offset within REACH; and the offsets int [N, 2], (dy, dx)."""
    offset_Nx2 = np.random.default_rng([seed, 1]).integers(-REACH, REACH + 1, (len(image_NxHxWxC), 2))
    return moved(image_NxHxWxC, offset_Nx2), offset_Nx2


def translated(image_NxHxWxC: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Every picture moved by REACH pixels on each axis, to a random side; and the offsets int [N, 2], (dy, dx).

    Reference: MNIST-C's translate (Mu & Gilmer 2019).
    """
    offset_Nx2 = np.random.default_rng([seed, 2]).choice((-REACH, REACH), (len(image_NxHxWxC), 2))
    return moved(image_NxHxWxC, offset_Nx2), offset_Nx2


def scaled(image_NxHxWxC: np.ndarray, factor: float = SCALE) -> np.ndarray:
    """Every picture at `factor` of its size about its middle. Reference: MNIST-C's scale (Mu & Gilmer 2019)."""
    n, height, width, _ = image_NxHxWxC.shape
    places = [(np.arange(side) - (side - 1) / 2) / factor + (side - 1) / 2 for side in (height, width)]
    return _sampled(image_NxHxWxC, *(np.broadcast_to(place, (n, len(place))) for place in places))


def moved(image_NxHxWxC: np.ndarray, offset_Nx2: np.ndarray) -> np.ndarray:
    """Pictures moved by (dy, dx) pixels: +dy down, +dx right; zeros come in."""
    _, height, width, _ = image_NxHxWxC.shape
    rows_NxH, columns_NxW = (
        np.arange(side)[None, :] - offset_Nx2[:, axis, None] for axis, side in enumerate((height, width))
    )
    return _sampled(image_NxHxWxC, rows_NxH, columns_NxW)


def _sampled(image_NxHxWxC: np.ndarray, rows_NxH: np.ndarray, columns_NxW: np.ndarray) -> np.ndarray:
    """uint8: pixel (i, j) is what the picture has at (rows[i], columns[j]), bilinear, 0 outside of it."""
    n = len(image_NxHxWxC)
    pieces = [slice(start, start + CHUNK) for start in range(0, n, CHUNK)]
    return np.concatenate([_piece(image_NxHxWxC[p], rows_NxH[p], columns_NxW[p]) for p in pieces])


def _piece(image_NxHxWxC: np.ndarray, rows_NxH: np.ndarray, columns_NxW: np.ndarray) -> np.ndarray:
    n, height, width, c = image_NxHxWxC.shape
    down_NxHxWC = _weights(rows_NxH) @ image_NxHxWxC.reshape(n, height, width * c).astype(np.float32)
    across_NxWxHC = _weights(columns_NxW) @ _swapped(down_NxHxWC.reshape(n, height, width, c))
    return np.rint(_swapped(across_NxWxHC.reshape(n, width, height, c))).astype(np.uint8).reshape(n, height, width, c)


def _swapped(image_NxHxWxC: np.ndarray) -> np.ndarray:
    """[N, H, W, C] -> [N, W, H * C]."""
    n, height, width, c = image_NxHxWxC.shape
    return image_NxHxWxC.transpose(0, 2, 1, 3).reshape(n, width, height * c)


def _weights(place_NxS: np.ndarray) -> np.ndarray:
    """[N, S, S]: how much of each pixel of an axis is at each place."""
    pixel_S = np.arange(place_NxS.shape[1])
    return np.maximum(0, 1 - np.abs(place_NxS[:, :, None] - pixel_S)).astype(np.float32)
