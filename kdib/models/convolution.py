"""Convolution in two forms: XLA's own, and matrix products for training inside a compiled loop and under vmap."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from kdib.models.kernels import over_rows

FEW_CHANNELS = 4  # up to here one product over all shifted copies takes the place of one a filter's row


def convolve(x_NxHxWxC: jax.Array, w_IxJxCxK: jax.Array, stride: int = 1, pad: int = 0) -> jax.Array:
    """The cross-correlation [N, H', W', K] of pictures with filters, as in PyTorch's conv2d, channels last.

    `pad` zeros are put on every side; H' = (H + 2 pad - I) // stride + 1, and W' likewise.

    XLA:CPU has fast code for a convolution, and a network that only answers uses it. It has none for the derivatives
    inside a loop, where a step takes more than ten times as long, nor for a `vmap` with filters of each run's own: what
    is differentiated, or has such filters, is made of products. As of `lstm_layer`, there is no `jax.jvp` of it but in
    a reverse pass.
    """
    return _convolve(x_NxHxWxC, w_IxJxCxK, stride, pad)


def _answer(x_NxHxWxC, w_IxJxCxK, stride: int, pad: int):
    return _by_xla(stride, pad)(x_NxHxWxC, w_IxJxCxK)


def _forward(x_NxHxWxC, w_IxJxCxK, stride: int, pad: int):
    return _by_products(x_NxHxWxC, w_IxJxCxK, stride, pad), (x_NxHxWxC, w_IxJxCxK)


def _backward(stride: int, pad: int, saved, dy_NxHxWxK):
    # Behind the barrier the copies are made again: shared with those of the forward pass they would be kept until here.
    saved, dy_NxHxWxK = lax.optimization_barrier((saved, dy_NxHxWxK))
    return jax.vjp(lambda x, w: _by_products(x, w, stride, pad), *saved)[1](dy_NxHxWxK)


_convolve = jax.custom_vjp(_answer, nondiff_argnums=(2, 3))
_convolve.defvjp(_forward, _backward)


@functools.cache
def _by_xla(stride: int, pad: int):
    @jax.custom_batching.custom_vmap
    def correlate(x_NxHxWxC, w_IxJxCxK):
        axes = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x_NxHxWxC, w_IxJxCxK, (stride,) * 2, ((pad, pad),) * 2, dimension_numbers=axes)

    @correlate.def_vmap
    def correlate_each(axis_size, batched, x, w):
        if not batched[1]:
            y = correlate(x.reshape(-1, *x.shape[2:]), w)
            return y.reshape(axis_size, -1, *y.shape[1:]), True
        axes = (0 if batched[0] else None, 0)
        return jax.vmap(lambda x, w: _by_products(x, w, stride, pad), axes)(x, w), True

    return correlate


def _by_products(x_NxHxWxC, w_IxJxCxK, stride: int, pad: int):
    """The picture's copies, shifted along the width, lie side by side on the channel axis, and every row of the filter
    is a matrix that multiplies them, so that slices and products are all that is left to derive.
    """
    x_NxHxWxC = jnp.pad(x_NxHxWxC, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns, channels, features = w_IxJxCxK.shape
    copies = jnp.concatenate([_seen(x_NxHxWxC, 2, j, columns, stride) for j in range(columns)], axis=-1)
    pieces = [_seen(copies, 1, i, rows, stride) for i in range(rows)]
    if channels <= FEW_CHANNELS:
        pieces = [jnp.concatenate(pieces, axis=-1)]
    w_PxDxK = w_IxJxCxK.reshape(len(pieces), -1, features)
    return functools.reduce(jnp.add, [over_rows(piece, w) for piece, w in zip(pieces, w_PxDxK, strict=True)])


def _seen(x: jax.Array, axis: int, tap: int, taps: int, stride: int) -> jax.Array:
    """What one of the filter's taps along an axis is multiplied with."""
    return lax.slice_in_dim(x, tap, x.shape[axis] - taps + tap + 1, stride, axis)
