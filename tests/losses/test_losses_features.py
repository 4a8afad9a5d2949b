"""What is particular to losses on hidden activations: what they do not see, dead features, shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib import losses

N, D, E = 6, 5, 3
KEYS = jax.random.split(jax.random.key(0), 3)
STUDENT, TEACHER = jax.random.normal(KEYS[0], (N, D)), jax.random.normal(KEYS[1], (N, E))


def test_similarity_preserving_sees_neither_length_nor_basis():
    expected = losses.similarity_preserving(STUDENT, TEACHER)
    turned = jnp.matmul(TEACHER, jnp.linalg.qr(jax.random.normal(KEYS[2], (E, E)))[0], precision="highest")
    lengths = jnp.exp(jax.random.normal(KEYS[2], (N, 1)))
    np.testing.assert_allclose(losses.similarity_preserving(STUDENT * lengths, turned), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses.similarity_preserving(turned, TEACHER), 0, atol=1e-6)


def test_similarity_preserving_orders_its_values_as_the_examples():
    order = jnp.asarray([3, 1, 5, 0, 2, 4])
    shuffled = losses.similarity_preserving(STUDENT[order], TEACHER[order])
    np.testing.assert_allclose(shuffled, losses.similarity_preserving(STUDENT, TEACHER)[order], rtol=1e-5)


def test_similarity_preserving_flattens_what_follows_the_examples():
    maps = jax.random.normal(KEYS[2], (N, 2, 3, 4))
    expected = losses.similarity_preserving(maps.reshape(N, -1), TEACHER)
    np.testing.assert_allclose(losses.similarity_preserving(maps, TEACHER), expected, rtol=1e-6)


def test_micro_batches_of_a_relation_are_another_loss():
    halves = [losses.similarity_preserving(STUDENT[i : i + 3], TEACHER[i : i + 3]).mean() for i in (0, 3)]
    assert abs(np.mean(halves) - losses.similarity_preserving(STUDENT, TEACHER).mean()) > 1e-2


@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_dead_features_give_one_and_no_gradient(side):
    student = STUDENT.at[2].set(0) if side != "teacher" else STUDENT
    teacher = TEACHER.at[2].set(0) if side != "student" else TEACHER
    values = losses.similarity_preserving(student, teacher)
    grad = jax.grad(lambda x: losses.similarity_preserving(x, teacher).sum())(student)
    assert np.all(np.isfinite(values)) and np.all(np.isfinite(grad))
    assert values[2] == 1
    if side != "teacher":
        np.testing.assert_array_equal(grad[2], 0)


@pytest.mark.parametrize("teacher", [(N - 1, E), (N,)])
def test_shapes_that_do_not_fit_are_both_shown(teacher):
    with pytest.raises(ValueError, match=rf"\({N}, {D}\) and \({teacher[0]},"):
        losses.similarity_preserving(STUDENT, jnp.zeros(teacher))
    with pytest.raises(ValueError, match=r"\(6,\), got \(6, 1\)"):
        losses.similarity_preserving(STUDENT, TEACHER, where=jnp.ones((N, 1), bool))
