"""Trees to store, and what it means that they came back."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class State(NamedTuple):
    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array


def make_params(seed=0):
    kernel_key, bias_key = jax.random.split(jax.random.key(seed))
    kernel_3x4 = jax.random.normal(kernel_key, (3, 4))
    return {"dense": {"kernel": kernel_3x4, "bias": jax.random.normal(bias_key, (4,), jnp.bfloat16)}}


def make_state(seed=0):
    params = {"model": make_params(seed), "heads": {}}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    keys = {"one": jax.random.key(seed), "two": jax.random.split(jax.random.key(seed, impl="rbg"), 2)}
    return State(jnp.int32(7), params, tx.init(params), keys)


def data(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, jax.Array)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(data(a), data(b))
