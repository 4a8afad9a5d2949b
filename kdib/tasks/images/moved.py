"""Translated and scaled test images, which probe the inductive bias of an architecture.

A separable resampling is one bilinear weight matrix per axis, so a whole set takes two matrix products.
"""

import numpy as np

REACH = 3  # pixels on each axis, as in translate of MNIST-C
SCALE = 0.7  # as in scale of MNIST-C
CHUNK = 1024  # images at a time


def shifted(image_NxHxWxC: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Move every image by random whole pixels within REACH; also return the offsets (dy, dx), int [N, 2]."""
    offset_Nx2 = np.random.default_rng([seed, 1]).integers(-REACH, REACH + 1, (len(image_NxHxWxC), 2))
    return moved(image_NxHxWxC, offset_Nx2), offset_Nx2


def translated(image_NxHxWxC: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Move every image by REACH pixels on each axis, to a random side; also return the offsets (dy, dx), int [N, 2].

    Reference: MNIST-C's translate (Mu & Gilmer 2019).
    """
    offset_Nx2 = np.random.default_rng([seed, 2]).choice((-REACH, REACH), (len(image_NxHxWxC), 2))
    return moved(image_NxHxWxC, offset_Nx2), offset_Nx2


def scaled(image_NxHxWxC: np.ndarray, factor: float = SCALE) -> np.ndarray:
    """Scale every image by `factor` about its centre. Reference: MNIST-C's scale (Mu & Gilmer 2019)."""
    n, height, width, _ = image_NxHxWxC.shape
    places = [(np.arange(side) - (side - 1) / 2) / factor + (side - 1) / 2 for side in (height, width)]
    return _sampled(image_NxHxWxC, *(np.broadcast_to(place, (n, len(place))) for place in places))


def moved(image_NxHxWxC: np.ndarray, offset_Nx2: np.ndarray) -> np.ndarray:
    """Move images by (dy, dx) pixels, +dy down and +dx right, filling with zeros."""
    _, height, width, _ = image_NxHxWxC.shape
    rows_NxH, columns_NxW = (
        np.arange(side)[None, :] - offset_Nx2[:, axis, None] for axis, side in enumerate((height, width))
    )
    return _sampled(image_NxHxWxC, rows_NxH, columns_NxW)


def _sampled(image_NxHxWxC: np.ndarray, rows_NxH: np.ndarray, columns_NxW: np.ndarray) -> np.ndarray:
    """uint8: pixel (i, j) is the bilinear sample of the image at (rows[i], columns[j]); outside the image it is 0."""
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
    """[N, S, S]: the weight of each pixel of an axis at each sampled place."""
    pixel_S = np.arange(place_NxS.shape[1])
    return np.maximum(0, 1 - np.abs(place_NxS[:, :, None] - pixel_S)).astype(np.float32)
