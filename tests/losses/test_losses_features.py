"""What is particular to losses that compare one layer with another: what they do not see, sizes of maps, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib import losses

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (jnp.asarray(x, jnp.float32) for x in RNG.normal(size=(2, 6, 5)))
MAPS, OTHERS = (jnp.asarray(x, jnp.float32) for x in RNG.normal(size=(2, 3, 4, 4, 2)))
attention = jax.jit(losses.attention_transfer)


def test_cosine_and_attention_see_no_scale():
    np.testing.assert_allclose(losses.cosine(7 * STUDENT, 1e-25 * TEACHER), losses.cosine(STUDENT, TEACHER), rtol=1e-5)
    np.testing.assert_allclose(losses.cosine(STUDENT, -3 * STUDENT), 2, rtol=1e-6)
    np.testing.assert_allclose(attention(7 * MAPS, -0.01 * OTHERS), attention(MAPS, OTHERS), rtol=1e-5)


def test_cosine_is_half_the_squared_distance_of_the_unit_vectors():
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (STUDENT, TEACHER)]
    expected = losses.hint(*units, normalisation="half_sum")
    np.testing.assert_allclose(losses.cosine(STUDENT, TEACHER), expected, rtol=1e-5)


def test_the_normalisations_differ_by_the_width():
    half, mean = losses.hint(STUDENT, TEACHER, normalisation="half_sum"), losses.hint(STUDENT, TEACHER)
    np.testing.assert_allclose(half, 5 / 2 * mean, rtol=1e-6)
    total, mean = losses.feature_l1(STUDENT, TEACHER), losses.feature_l1(STUDENT, TEACHER, reduce="mean")
    np.testing.assert_allclose(total, 5 * mean, rtol=1e-6)


def test_the_gradients_are_the_sign_and_the_difference():
    sign = jax.grad(lambda x: losses.feature_l1(x, TEACHER).sum())(STUDENT)
    np.testing.assert_array_equal(sign, np.sign(STUDENT - TEACHER))
    difference = jax.grad(lambda x: losses.hint(x, TEACHER, normalisation="half_sum").sum())(STUDENT)
    np.testing.assert_allclose(difference, STUDENT - TEACHER, rtol=1e-6)


def test_attention_needs_no_equal_channels_and_no_order_of_them():
    wider = jnp.concatenate([MAPS, MAPS[..., ::-1]], axis=-1)
    np.testing.assert_allclose(attention(wider, MAPS), 0, atol=1e-7)


@pytest.mark.parametrize("turn", [False, True])
def test_the_larger_map_is_averaged_to_the_smaller(turn):
    """Each axis by its own factor, and each in its own direction."""
    wide = jnp.asarray(RNG.normal(size=(3, 2, 8, 5)), jnp.float32)
    pooled = np.asarray(MAPS).reshape(3, 2, 2, 4, 2).mean(2), np.asarray(wide).reshape(3, 2, 4, 2, 5).mean(3)
    actual = attention(wide, MAPS) if turn else attention(MAPS, wide)
    np.testing.assert_allclose(actual, attention(*map(jnp.asarray, pooled)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 3, 4, 2), (3, 4, 6, 2), (2, 4, 4, 2), (3, 16), (3, 4, 4)])
def test_maps_that_do_not_fit_are_both_shown(shape):
    message = rf"\(3, 4, 4, 2\) and teacher_features \({', '.join(map(str, shape))}\)"
    with pytest.raises(ValueError, match=message):
        losses.attention_transfer(MAPS, jnp.zeros(shape))


@pytest.mark.parametrize("loss", [losses.feature_l1, losses.hint, losses.cosine])
def test_unequal_widths_show_the_remedy_and_other_shapes_do_not(loss):
    with pytest.raises(ValueError, match=r"got \(6, 5\) and \(6, 8\); give the term projector='linear'"):
        loss(STUDENT, jnp.zeros((6, 8)))
    for shapes in [((6, 5), (6, 5, 1)), ((3, 4, 4, 2), (3, 2, 2, 2)), ((6,), (6,))]:
        with pytest.raises(ValueError, match=r"of the same shape, got \([\d, ]*\) and \([\d, ]*\)$"):
            loss(*map(jnp.zeros, shapes))


def test_unknown_settings_list_the_known():
    with pytest.raises(ValueError, match="unknown reduce 'max'; known: sum, mean"):
        losses.feature_l1(STUDENT, TEACHER, reduce="max")
    with pytest.raises(ValueError, match="unknown normalisation 'sum'; known: mean, half_sum"):
        losses.hint(STUDENT, TEACHER, normalisation="sum")
