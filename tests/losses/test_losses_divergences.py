"""What is particular to one loss on logits: parity with optax, limits, bad labels, unknown directions."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdib import losses
from kdib.losses.divergences import Direction

KEYS = jax.random.split(jax.random.key(0), 2)
STUDENT, TEACHER = (2 * jax.random.normal(key, (7, 4)) for key in KEYS)
LABELS = jnp.asarray([0, 1, 2, 3, 3, 2, 1])


def test_cross_entropy_is_optax():
    expected = optax.softmax_cross_entropy_with_integer_labels(STUDENT, LABELS)
    np.testing.assert_allclose(losses.cross_entropy(STUDENT, LABELS), expected, rtol=1e-6)
    where = jnp.asarray([[True, True, True, True], [True, True, False, True]])[jnp.asarray([0, 1, 0, 1, 1, 0, 0])]
    expected = optax.softmax_cross_entropy_with_integer_labels(STUDENT, LABELS, where=where)
    np.testing.assert_allclose(losses.cross_entropy(STUDENT, LABELS, where=where), expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_softened_kl_is_optax_times_the_squared_temperature(temperature):
    log_p, log_q = jax.nn.log_softmax(TEACHER / temperature), jax.nn.log_softmax(STUDENT / temperature)
    forward = temperature**2 * optax.losses.kl_divergence_with_log_targets(log_q, log_p)
    reverse = temperature**2 * optax.losses.kl_divergence_with_log_targets(log_p, log_q)
    actual = losses.softened_kl(STUDENT, TEACHER, temperature=temperature)
    np.testing.assert_allclose(actual, forward, rtol=1e-5)
    actual = losses.softened_kl(STUDENT, TEACHER, temperature=temperature, direction="reverse")
    np.testing.assert_allclose(actual, reverse, rtol=1e-5)


def test_label_smoothing_is_optax():
    targets = optax.smooth_labels(jax.nn.one_hot(LABELS, 4), 0.3)
    expected = optax.softmax_cross_entropy(STUDENT, targets)
    np.testing.assert_allclose(losses.label_smoothing(STUDENT, LABELS, epsilon=0.3), expected, rtol=1e-6)
    none = losses.label_smoothing(STUDENT, LABELS, epsilon=0.0)
    np.testing.assert_allclose(none, losses.cross_entropy(STUDENT, LABELS), rtol=1e-6)


def test_soft_cross_entropy_is_optax_and_has_no_factor_of_the_temperature():
    expected = optax.softmax_cross_entropy(STUDENT / 3, jax.nn.softmax(TEACHER / 3))
    np.testing.assert_allclose(losses.soft_cross_entropy(STUDENT, TEACHER, temperature=3.0), expected, rtol=1e-6)


def test_cross_entropy_less_entropy_is_the_kl():
    entropy = losses.soft_cross_entropy(TEACHER, TEACHER, temperature=2.0)
    gap = losses.soft_cross_entropy(STUDENT, TEACHER, temperature=2.0) - entropy
    np.testing.assert_allclose(4 * gap, losses.softened_kl(STUDENT, TEACHER, temperature=2.0), rtol=1e-4)


def test_hard_label_is_optax_with_the_teachers_choice_and_the_limit_of_a_cold_teacher():
    expected = optax.softmax_cross_entropy_with_integer_labels(STUDENT, TEACHER.argmax(-1))
    np.testing.assert_allclose(losses.hard_label(STUDENT, TEACHER), expected, rtol=1e-6)
    np.testing.assert_allclose(losses.hard_label(STUDENT, TEACHER), losses.soft_cross_entropy(STUDENT, 1e4 * TEACHER))
    equal = jnp.asarray([[0.0, 1.0, 1.0, 0.0]])
    np.testing.assert_allclose(
        losses.hard_label(STUDENT[:1], equal), losses.cross_entropy(STUDENT[:1], jnp.asarray([1]))
    )


def test_top_k_kl_is_optax_on_what_the_teacher_keeps():
    kept = jnp.where(jnp.sort(TEACHER, axis=-1)[:, 2:3] <= TEACHER, TEACHER, -jnp.inf)  # the greatest 2 of 4
    p, log_q = jax.nn.softmax(kept / 3), jax.nn.log_softmax(STUDENT / 3)
    expected = 9 * optax.losses.kl_divergence(log_q, p)
    np.testing.assert_allclose(losses.top_k_kl(STUDENT, TEACHER, k=2, temperature=3.0), expected, rtol=1e-5)
    everything = losses.top_k_kl(STUDENT, TEACHER, k=4, temperature=3.0)
    np.testing.assert_allclose(everything, losses.softened_kl(STUDENT, TEACHER, temperature=3.0), rtol=1e-5)


def test_top_k_kl_moves_the_mass_of_the_tail_to_the_head():
    mass = jnp.sort(jax.nn.softmax(TEACHER / 2), axis=-1)[:, 2:].sum(-1)
    np.testing.assert_allclose(losses.top_k_kl(TEACHER, TEACHER, k=2, temperature=2.0), -4 * jnp.log(mass), rtol=1e-5)
    grad = jax.grad(lambda s: losses.top_k_kl(s, TEACHER, k=2).sum())(TEACHER)  # a perfect student is pushed away
    q, top = jax.nn.softmax(TEACHER), jnp.sort(TEACHER, axis=-1)[:, 2:3] <= TEACHER
    mass = jnp.sum(q, axis=-1, where=top, keepdims=True)
    np.testing.assert_allclose(grad, jnp.where(top, q - q / mass, q), rtol=1e-4, atol=1e-6)


def test_top_k_kl_keeps_k_of_equal_classes_and_among_those_that_the_mask_leaves_in():
    flat = jnp.zeros((1, 4))
    np.testing.assert_allclose(losses.top_k_kl(flat, flat, k=3), np.log(4 / 3), rtol=1e-6)
    two = jnp.asarray([[True, False, True, False]])
    np.testing.assert_allclose(losses.top_k_kl(flat, flat, k=3, where=two), 0, atol=1e-6)


@pytest.mark.parametrize("k", [0, 5])
def test_top_k_kl_refuses_more_classes_than_there_are(k):
    with pytest.raises(ValueError, match=rf"k must be in \[1, 4\], the number of classes, got {k}"):
        losses.top_k_kl(STUDENT, TEACHER, k=k)


def test_entropy_penalty_is_minus_the_entropy_and_makes_a_student_less_sure():
    entropy = optax.softmax_cross_entropy(STUDENT, jax.nn.softmax(STUDENT))
    np.testing.assert_allclose(losses.entropy_penalty(STUDENT), -entropy, rtol=1e-5)
    np.testing.assert_allclose(losses.entropy_penalty(jnp.zeros((1, 4))), -np.log(4), rtol=1e-6)
    step = STUDENT - 0.1 * jax.grad(lambda logits: losses.entropy_penalty(logits).sum())(STUDENT)
    assert np.all(np.asarray(jax.nn.softmax(step).max(-1) < jax.nn.softmax(STUDENT).max(-1)))


def test_jensen_shannon_is_symmetric_and_at_most_log_two():
    there = losses.softened_kl(STUDENT, TEACHER, direction="jensen_shannon")
    back = losses.softened_kl(TEACHER, STUDENT, direction="jensen_shannon")
    np.testing.assert_allclose(there, back, rtol=1e-5)
    apart = jnp.asarray([[0.0, -jnp.inf]]), jnp.asarray([[-jnp.inf, 0.0]])
    np.testing.assert_allclose(losses.softened_kl(*apart, direction="jensen_shannon"), np.log(2), rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_gradient_keeps_its_scale_over_temperatures(temperature):
    grad = jax.grad(lambda s: losses.softened_kl(s, TEACHER, temperature=temperature).sum())(STUDENT)
    q, p = jax.nn.softmax(STUDENT / temperature), jax.nn.softmax(TEACHER / temperature)
    np.testing.assert_allclose(grad, temperature * (q - p), rtol=1e-4, atol=1e-5)


def test_probability_mass_on_an_impossible_class_is_dear_but_finite():
    impossible = jnp.asarray([[-jnp.inf, 0.0]])
    assert 1e29 < losses.cross_entropy(impossible, jnp.asarray([0]))[0] < jnp.inf
    assert 1e29 < losses.softened_kl(impossible, jnp.zeros((1, 2)))[0] < jnp.inf


def test_nan_logits_are_not_hidden():
    logits = STUDENT.at[0, 0].set(jnp.nan)
    assert np.isnan(losses.cross_entropy(logits, LABELS)[0])
    assert np.isnan(losses.entropy_penalty(logits)[0])
    for loss in (losses.softened_kl, losses.hard_label, functools.partial(losses.top_k_kl, k=2)):
        for values in (loss(logits, TEACHER), loss(TEACHER, logits)):
            assert np.isnan(values[0])
            assert np.all(np.isfinite(values[1:]))


@pytest.mark.parametrize("label", [-1, -4, 4, 100])
def test_a_label_outside_gives_nan(label):
    labels = LABELS.at[0].set(label)
    for values in (
        losses.cross_entropy(STUDENT, labels),
        losses.label_smoothing(STUDENT, labels, epsilon=0.1),
    ):
        assert np.isnan(values[0])
        assert np.all(np.isfinite(values[1:]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_labels_may_be_any_integers(dtype):
    logits = jnp.zeros((2, 300)).at[:, 3].set(9.0)
    assert np.all(np.asarray(losses.cross_entropy(logits, np.asarray([3, 3], dtype))) < 0.1)


def test_labels_must_be_integers():
    with pytest.raises(TypeError, match=r"integers, got float32.*soft_cross_entropy"):
        losses.cross_entropy(STUDENT, jnp.zeros(7))


def test_unknown_direction_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown direction 'sideways'; known: forward, reverse, jensen_shannon"):
        losses.softened_kl(STUDENT, TEACHER, direction="sideways")
    for direction in get_args(Direction):
        losses.softened_kl(STUDENT, TEACHER, direction=direction)


def test_student_and_teacher_of_different_classes_show_both_shapes():
    with pytest.raises(ValueError, match=r"\(7, 4\) and \(7, 0\)"):
        losses.softened_kl(STUDENT, jnp.zeros((7, 0)))


@pytest.mark.parametrize("temperature", [0.0, -2, "4", float("nan")])
def test_a_temperature_that_means_nothing_is_refused(temperature):
    with pytest.raises(ValueError, match=r"temperature must be a number > 0, got"):
        losses.softened_kl(jnp.zeros((2, 3)), jnp.zeros((2, 3)), temperature=temperature)
