"""Convolution in two forms: that of XLA, and matrix products for training inside a compiled loop and under vmap."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from kdib.models.kernels import over_rows

FEW_CHANNELS = 4  # up to this number, one product over all shifted copies replaces one product per filter row


def convolve(x_NxHxWxC: jax.Array, w_IxJxCxK: jax.Array, stride: int = 1, pad: int = 0) -> jax.Array:
    """The cross-correlation [N, H', W', K] of images with filters, as in PyTorch's conv2d but with channels last.

    `pad` zeros are added on every side; H' = (H + 2 pad - I) // stride + 1, and likewise W'.

    XLA:CPU has fast code for the forward pass of a convolution, which inference uses. It has no fast code for the
    derivatives inside a loop, where a step takes more than ten times as long, or for `vmap` over different filters.
    Differentiation and `vmap` over filters therefore use matrix products. As for `lstm_layer`, `jax.jvp` works only
    over a reverse pass.
    """
    return _convolve(x_NxHxWxC, w_IxJxCxK, stride, pad)


def _answer(x_NxHxWxC, w_IxJxCxK, stride: int, pad: int):
    return _by_xla(stride, pad)(x_NxHxWxC, w_IxJxCxK)


def _forward(x_NxHxWxC, w_IxJxCxK, stride: int, pad: int):
    return _by_products(x_NxHxWxC, w_IxJxCxK, stride, pad), (x_NxHxWxC, w_IxJxCxK)


def _backward(stride: int, pad: int, saved, dy_NxHxWxK):
    # The barrier forces the shifted copies to be recomputed. Shared with the forward pass, they would stay in memory.
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
    """The cross-correlation by slices and matrix products, which are fast to differentiate.

    Copies of the image, shifted along the width, are concatenated on the channel axis. Each row of the filter is a
    matrix that multiplies them.
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
    """The values that one tap of the filter multiplies along an axis."""
    return lax.slice_in_dim(x, tap, x.shape[axis] - taps + tap + 1, stride, axis)
