"""Convolution as matrix products, for training steps inside a compiled loop and under vmap."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

FEW_CHANNELS = 4  # up to here one product over all the shifted copies is faster than one a row of the filter


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x_NxHxWxC: jax.Array, w_IxJxCxK: jax.Array, stride: int = 1, pad: int = 0) -> jax.Array:
    """The cross-correlation [N, H', W', K] of pictures with filters, as in PyTorch's conv2d, channels last.

    `pad` zeros are put on every side; H' = (H + 2 pad - I) // stride + 1, and W' likewise.

    XLA:CPU has fast code for a convolution, but not for its derivatives inside a loop, nor under a vmap over filters:
    there a step takes more than ten times as long. Here the picture's copies, shifted along the width, lie side by side
    on the channel axis, and the filter's rows are matrices that multiply them: batched products are all that is left.
    The derivatives are written by hand, in the same form: that of the picture is the correlation of the output's with
    the flipped filter, that of a row of the filter one product over all positions. They keep the picture and not its
    copies. It works in reverse mode and forward over reverse (Hessian-vector products); `jax.jvp` of the function
    itself is refused by JAX.
    """
    return _correlate(_padded(x_NxHxWxC, pad), w_IxJxCxK, stride)


def _forward(x_NxHxWxC, w_IxJxCxK, stride, pad):
    return convolve(x_NxHxWxC, w_IxJxCxK, stride, pad), (x_NxHxWxC, w_IxJxCxK)


def _backward(stride, pad, saved, dy_NxHxWxK):
    x_NxHxWxC, w_IxJxCxK = saved
    flipped_IxJxKxC = w_IxJxCxK[::-1, ::-1].swapaxes(2, 3)
    spread = _spread(dy_NxHxWxK, x_NxHxWxC.shape, w_IxJxCxK.shape, stride, pad)
    dx_NxHxWxC = _correlate(spread, flipped_IxJxKxC, 1)
    return dx_NxHxWxC, _filter_gradient(_padded(x_NxHxWxC, pad), dy_NxHxWxK, w_IxJxCxK.shape, stride)


convolve.defvjp(_forward, _backward)


def _padded(x_NxHxWxC: jax.Array, pad: int) -> jax.Array:
    return jnp.pad(x_NxHxWxC, ((0, 0), (pad, pad), (pad, pad), (0, 0)))


def _correlate(x_NxHxWxC: jax.Array, w_IxJxCxK: jax.Array, stride: int) -> jax.Array:
    """The correlation without padding."""
    *_, channels, features = w_IxJxCxK.shape
    pieces = _pieces(x_NxHxWxC, w_IxJxCxK.shape, stride)
    w_PxDxK = w_IxJxCxK.reshape(len(pieces), -1, features)
    return functools.reduce(jnp.add, [piece @ w for piece, w in zip(pieces, w_PxDxK, strict=True)])


def _filter_gradient(x_NxHxWxC: jax.Array, dy_NxHxWxK: jax.Array, shape: tuple[int, ...], stride: int) -> jax.Array:
    """With the output's gradient as the left factor: XLA:CPU copies that one, and here it is one for all rows."""
    dy_KxM = dy_NxHxWxK.reshape(-1, shape[-1]).T
    pieces = _pieces(x_NxHxWxC, shape, stride)
    return jnp.stack([(dy_KxM @ piece.reshape(-1, piece.shape[-1])).T for piece in pieces]).reshape(shape)


def _pieces(x_NxHxWxC: jax.Array, shape: tuple[int, ...], stride: int) -> list[jax.Array]:
    """What the rows of a filter of `shape` are multiplied with, [N, H', W', J * C] each; of few channels all in one."""
    rows, columns, channels, _ = shape
    side_by_side = jnp.concatenate([_every(x_NxHxWxC, 2, j, columns, stride) for j in range(columns)], axis=-1)
    pieces = [_every(side_by_side, 1, i, rows, stride) for i in range(rows)]
    return [jnp.concatenate(pieces, axis=-1)] if channels <= FEW_CHANNELS else pieces


def _every(x: jax.Array, axis: int, first: int, size: int, stride: int) -> jax.Array:
    """What tap `first` of `size` sees along an axis."""
    return lax.slice_in_dim(x, first, x.shape[axis] - size + first + 1, stride, axis)


def _spread(dy_NxHxWxK, x_shape, w_shape, stride: int, pad: int) -> jax.Array:
    """The output's gradient with zeros between and around, so that correlating it gives the shape of the picture."""
    edges = []
    for axis in (1, 2):
        taps, low = w_shape[axis - 1], w_shape[axis - 1] - 1 - pad
        extent = (dy_NxHxWxK.shape[axis] - 1) * stride + 1
        edges.append((low, x_shape[axis] + taps - 1 - low - extent, stride - 1))
    return lax.pad(dy_NxHxWxK, jnp.zeros((), dy_NxHxWxK.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
