"""Means that merge: sums and counts under masks."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdib.losses import Mean


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.floats(-100, 100, width=32), st.booleans()), min_size=12, max_size=12))
def test_merged_means_are_the_mean_of_what_the_mask_lets_in(rows):
    values = np.asarray([value if kept else np.nan for value, kept in rows], np.float32)
    kept = np.asarray([kept for _, kept in rows])
    merged = Mean.of(values[:6], kept[:6]) + Mean.of(values[6:], kept[6:])
    assert float(merged.count) == kept.sum()
    expected = values[kept].mean() if kept.any() else np.nan
    np.testing.assert_allclose(merged.value, expected, rtol=1e-4, atol=1e-4)


def test_mean_of_nothing_is_nan():
    assert np.isnan(Mean.of(jnp.ones(3), jnp.zeros(3, bool)).value)


def test_mean_is_float32_and_a_pytree():
    mean = Mean.of(jnp.full((1000,), 1.01, jnp.bfloat16), jnp.ones(1000, jnp.int32))
    chex.assert_trees_all_equal_dtypes(mean, Mean(jnp.float32(0), jnp.float32(0)))
    np.testing.assert_allclose(mean.value, float(jnp.bfloat16(1.01)), rtol=1e-6)
    stacked = jax.vmap(Mean.of)(jnp.arange(6.0).reshape(2, 3))
    np.testing.assert_allclose(stacked.value, [1.0, 4.0])


def test_mean_shows_both_shapes():
    with pytest.raises(ValueError, match=r"\(3, 2\), got \(3,\)"):
        Mean.of(jnp.ones((3, 2)), jnp.ones(3, bool))
