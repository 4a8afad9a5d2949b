"""Convolution as matrix products, for training steps inside a compiled loop and under vmap."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

FEW_CHANNELS = 4  # up to here one product over all shifted copies takes the place of one a filter's row


@functools.partial(jax.checkpoint, static_argnums=(2, 3))
def convolve(x_NxHxWxC: jax.Array, w_IxJxCxK: jax.Array, stride: int = 1, pad: int = 0) -> jax.Array:
    """The cross-correlation [N, H', W', K] of pictures with filters, as in PyTorch's conv2d, channels last.

    `pad` zeros are put on every side; H' = (H + 2 pad - I) // stride + 1, and W' likewise.

    XLA:CPU has fast code for a convolution, but not for its derivatives inside a loop: there a step takes more than ten
    times as long. Here the picture's copies, shifted along the width, lie side by side on the channel axis, and every
    row of the filter is a matrix that multiplies them, so that slices and products are all that is left to derive.
    The copies are made again for the derivative (`jax.checkpoint`): kept, they would be nine times the picture.
    """
    x_NxHxWxC = jnp.pad(x_NxHxWxC, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns, channels, features = w_IxJxCxK.shape
    copies = jnp.concatenate([_seen(x_NxHxWxC, 2, j, columns, stride) for j in range(columns)], axis=-1)
    pieces = [_seen(copies, 1, i, rows, stride) for i in range(rows)]
    if channels <= FEW_CHANNELS:
        pieces = [jnp.concatenate(pieces, axis=-1)]
    w_PxDxK = w_IxJxCxK.reshape(len(pieces), -1, features)
    return functools.reduce(jnp.add, [piece @ w for piece, w in zip(pieces, w_PxDxK, strict=True)])


def _seen(x: jax.Array, axis: int, tap: int, taps: int, stride: int) -> jax.Array:
    """What one of the filter's taps along an axis is multiplied with."""
    return lax.slice_in_dim(x, tap, x.shape[axis] - taps + tap + 1, stride, axis)
