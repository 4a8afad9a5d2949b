"""The operations that dominate training time: products over rows, an LSTM layer, dropout."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# --- Products ----------------------------------------------------------------------------------------------------


def over_rows(x_xD: jax.Array, w_DxF: jax.Array, dimension_numbers=None, precision=None) -> jax.Array:
    """x @ w, [..., D] -> [..., F], as one matrix product. It can be passed to nn.Dense as `dot_general`.

    The derivative of x @ w sums over all leading axes of x. With more than one leading axis, XLA:CPU copies a factor in
    transposed order and multiplies slowly. With x reshaped to rows it does neither.
    """
    del dimension_numbers  # nn.Dense contracts the last axis of x with the first of w
    y_NxF = jnp.matmul(x_xD.reshape(-1, x_xD.shape[-1]), w_DxF, precision=precision)
    return y_NxF.reshape(*x_xD.shape[:-1], w_DxF.shape[-1])


# --- An LSTM layer ----------------------------------------------------------------------------------------------


def lstm_gates(z_BxG: jax.Array) -> jax.Array:
    """Activated gates [B, 4H] in the order i, f, g, o: sigmoid, sigmoid, tanh, sigmoid, computed by a single tanh."""
    width = z_BxG.shape[-1] // 4
    scale_G = jnp.repeat(jnp.array([0.5, 0.5, 1.0, 0.5], z_BxG.dtype), width)
    return scale_G[None] * jnp.tanh(scale_G[None] * z_BxG) + (1 - scale_G)[None]


@jax.custom_vjp
def lstm_layer(input_DxG: jax.Array, recurrent_HxG: jax.Array, bias_G: jax.Array, x_TxBxD: jax.Array, keep_BxH):
    """All hidden states [T, B, H] of an LSTM layer that starts from zero.

    c_t = f * c_{t-1} + i * g and h_t = o * tanh(c_t), where i, f, g, o (G = 4H) are the gates of
    x_t @ input + (keep * h_{t-1}) @ recurrent + bias. `keep_BxH` is the recurrent dropout mask; it is the same at every
    step and has no gradient. Ones mean no dropout.

    Each step multiplies input and state in one product, forwards and backwards. On a CPU this wider product saves more
    time than projecting all inputs at once. The derivative is written by hand: automatic differentiation accumulates
    the weights' gradient step by step inside the loop, but one product after the loop suffices. Reverse mode and
    forward over reverse (Hessian-vector products) work; JAX rejects `jax.jvp` of the layer itself.

    Reference: Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000) and the mask of Gal &
    Ghahramani (2016).
    """
    return _layer_forward(input_DxG, recurrent_HxG, bias_G, x_TxBxD, keep_BxH)[0]


def _layer_forward(input_DxG, recurrent_HxG, bias_G, x_TxBxD, keep_BxH):
    w_CxG = jnp.concatenate([input_DxG, recurrent_HxG])  # C = D + H

    def step(t, state):
        h, c, *written = state
        gates = lstm_gates(jnp.concatenate([_at(x_TxBxD, t), keep_BxH * h], axis=-1) @ w_CxG + bias_G[None])
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = f * c + i * g
        h = o * jnp.tanh(c)
        return h, c, *(_put(states, new, t) for states, new in zip(written, (h, c, gates), strict=True))

    # The loops overwrite these arrays. Zeros, as in a scan, would be one constant that is copied for every loop.
    sizes, steps, zero_BxH = (*keep_BxH.shape[1:] * 2, bias_G.size), len(x_TxBxD), jnp.zeros_like(keep_BxH)
    unwritten = [jnp.broadcast_to(bias_G[i], (steps, len(keep_BxH), size)) for i, size in enumerate(sizes)]
    _, _, h_TxBxH, c_TxBxH, gates_TxBxG = lax.fori_loop(0, steps, step, (zero_BxH, zero_BxH, *unwritten))
    return h_TxBxH, (w_CxG, x_TxBxD, keep_BxH, h_TxBxH, c_TxBxH, gates_TxBxG)


def _layer_backward(saved, dh_TxBxH):
    w_CxG, x_TxBxD, keep_BxH, h_TxBxH, c_TxBxH, gates_TxBxG = saved
    w_GxC, (steps, _, size) = w_CxG.T, x_TxBxD.shape
    # Factors that do not depend on the later steps are computed for all steps at once, outside the loop.
    i, f, g, o = jnp.split(gates_TxBxG, 4, axis=-1)
    tanh_c = jnp.tanh(c_TxBxH)
    factors = [g * i * (1 - i), _before(c_TxBxH) * f * (1 - f), i * (1 - g**2), tanh_c * o * (1 - o)]
    factor_TxBxG, into_c_TxBxH = jnp.concatenate(factors, axis=-1), o * (1 - tanh_c**2)

    def step(n, state):
        dh_later, dc, dh_TxBxH, dc_TxBxH, dx_TxBxD = state  # steps not yet visited hold dh of the outputs and into_c
        t = steps - 1 - n
        dh = _at(dh_TxBxH, t) + dh_later
        dc = dc + dh * _at(dc_TxBxH, t)
        dz = jnp.concatenate([dc, dc, dc, dh], axis=-1) * _at(factor_TxBxG, t)
        dx, dh_before = jnp.split(dz @ w_GxC, [size], axis=-1)
        written = _put(dh_TxBxH, dh, t), _put(dc_TxBxH, dc, t), _put(dx_TxBxD, dx, t)
        return keep_BxH * dh_before, dc * _at(f, t), *written

    zero_BxH, unwritten = jnp.zeros_like(keep_BxH), jnp.broadcast_to(w_CxG[0, 0], x_TxBxD.shape)
    start = (zero_BxH, zero_BxH, dh_TxBxH, into_c_TxBxH, unwritten)
    _, _, dh, dc, dx_TxBxD = lax.fori_loop(0, steps, step, start)
    dz_TxBxG = jnp.concatenate([dc, dc, dc, dh], axis=-1) * factor_TxBxG  # cheaper to recompute than to store
    seen_TxBxC = jnp.concatenate([x_TxBxD, keep_BxH[None] * _before(h_TxBxH)], axis=-1)
    # As rows, because an einsum contracts its letters in alphabetical order, b before t, and copies both factors.
    seen_NxC, dz_NxG = (a.reshape(-1, a.shape[-1]) for a in (seen_TxBxC, dz_TxBxG))
    dinput_DxG, drecurrent_HxG = jnp.split(seen_NxC.T @ dz_NxG, [size])
    return dinput_DxG, drecurrent_HxG, dz_NxG.sum(0), dx_TxBxD, jnp.zeros_like(keep_BxH)


def _at(states_TxBxH, t):
    return lax.dynamic_index_in_dim(states_TxBxH, t, keepdims=False)


def _put(states_TxBxH, new_BxH, t):
    return lax.dynamic_update_index_in_dim(states_TxBxH, new_BxH, t, 0)


def _before(states_TxBxH):
    """The state before each step."""
    return jnp.concatenate([jnp.zeros_like(states_TxBxH[:1]), states_TxBxH[:-1]])


lstm_layer.defvjp(_layer_forward, _layer_backward)


# --- Dropout ---------------------------------------------------------------------------------------------------


class Dropout(nn.Module):
    """Zero each value with probability `rate` and divide the others by 1 - rate; `shared` axes share a mask.

    In evaluation and at rate 0 no random bits are drawn. Reference: Srivastava et al. (2014).
    """

    rate: float
    shared: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Apply dropout to x of any shape if `train` is True."""
        if train is not True or self.rate == 0:
            return x
        shape = tuple(1 if axis in self.shared else size for axis, size in enumerate(x.shape))
        keep = jnp.broadcast_to(bernoulli(self.make_rng("dropout"), 1 - self.rate, shape), x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0)


def bernoulli(key: jax.Array, probability: float, shape: tuple[int, ...]) -> jax.Array:
    """Booleans that are True with `probability`, from a hash of (key, element).

    With jax.random's threefry, a training step of a small Transformer takes about 1.3 times as long on a CPU. Two
    rounds of multiply, xor and shift on the element's index cost almost nothing and are random enough for dropout: the
    tests measure the rate and the correlations between neighbours and between keys. jax.random draws the two seeds.

    Reference: the mixer `lowbias32` of C. Wellons, Prospecting for Hash Functions (2018).
    """
    seeds = jax.random.bits(key, (2,), jnp.uint32)
    count = math.prod(shape)
    bits = mix(mix(lax.iota(jnp.uint32, count) ^ seeds[0]) ^ seeds[1])
    return (bits < jnp.uint32(probability * 2**32)).reshape(shape)


def mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 in which flipping an input bit flips each output bit about half of the time."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
