"""Schedules of weights and learning rates: limits, and parity with those of Keras."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib import losses
from kdib.losses import combine, from_config, terms

LOGITS = jnp.linspace(-1.0, 1.0, 24).reshape(8, 3)
CONTEXT = {"student": {"logits": LOGITS}, "teacher": {"logits": LOGITS[::-1]}}


def weighted(spec, step):
    return combine(terms(spec, CONTEXT, step=step), spec, step=step)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_schedules_run_from_initial_to_final_between_start_and_stop(name):
    schedule = functools.partial(losses.SCHEDULES[name], start=10, stop=30, initial=0.5, final=2.0)
    values = np.asarray(jax.vmap(schedule)(jnp.arange(50)))
    np.testing.assert_allclose(values[:11], 0.5)
    np.testing.assert_allclose(values[30:], 2.0)
    np.testing.assert_allclose(values[20], 1.25, rtol=1e-6)
    assert np.all(np.diff(values[10:31]) > 0)
    quarter = {"linear": 0.25, "cosine": (1 - np.cos(np.pi / 4)) / 2}[name]
    np.testing.assert_allclose(values[15], 0.5 + 1.5 * quarter, rtol=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_schedule_whose_start_is_its_stop_jumps(name):
    schedule = functools.partial(losses.SCHEDULES[name], start=5, stop=5, initial=0.0, final=1.0)
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.arange(3, 8)), [0, 0, 1, 1, 1])


def test_constant_is_one_for_any_step(strict_dtypes):
    for step in (0, 10**6, jnp.int32(7), jnp.float32(2.5)):
        assert losses.constant(step) == 1
        assert losses.constant(step).dtype == jnp.float32


def test_exponential_is_keras_exponential_decay_without_its_staircase():
    values = jax.vmap(functools.partial(losses.exponential, rate=0.96, transition_steps=10_000))(
        jnp.arange(0, 50_000, 7)
    )
    np.testing.assert_allclose(values, 0.96 ** (np.arange(0, 50_000, 7) / 10_000), rtol=1e-5)
    later = functools.partial(losses.exponential, rate=0.5, transition_steps=10, start=30)
    np.testing.assert_allclose(jax.vmap(later)(jnp.asarray([0, 29, 30, 40, 45])), [1, 1, 1, 0.5, 0.5**1.5], rtol=1e-6)


@pytest.mark.parametrize(("first", "t_mul", "m_mul"), [(10_000, 5, 0.96), (1_000, 2, 0.9), (100, 1, 0.5), (7, 1.5, 1)])
def test_cosine_restarts_are_those_of_keras_at_every_step(first, t_mul, m_mul):
    steps = np.unique(
        [*range(0, 40 * first, max(first // 50, 1)), *(first * k - j for k in range(1, 40) for j in (0, 1))]
    )
    start, length, cycle = 0.0, float(first), 0
    expected = np.empty(len(steps))
    for i, step in enumerate(steps):  # cycle after cycle, where Keras has a quotient of logarithms
        while step >= start + length:
            start, length, cycle = start + length, length * t_mul, cycle + 1
        expected[i] = m_mul**cycle * (1 + np.cos(np.pi * (step - start) / length)) / 2
    knobs = {"first_decay_steps": first, "t_mul": t_mul, "m_mul": m_mul}
    actual = jax.jit(jax.vmap(lambda step, knobs: losses.cosine_restarts(step, **knobs), in_axes=(0, None)))(
        steps, knobs
    )
    np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_hold_step_and_step_at_jump_at_the_step_they_name():
    steps = jnp.arange(8)
    np.testing.assert_array_equal(jax.vmap(functools.partial(losses.hold, until=3))(steps), [1, 1, 1, 0, 0, 0, 0, 0])
    late = functools.partial(losses.hold, until=2, initial=0.0, final=0.5)
    np.testing.assert_array_equal(jax.vmap(late)(steps[:4]), [0, 0, 0.5, 0.5])
    staircase = functools.partial(losses.step, every=3, factor=0.5)
    np.testing.assert_array_equal(jax.vmap(staircase)(steps), [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25])
    listed = functools.partial(losses.step_at, boundaries=(2, 6), factor=0.5)
    np.testing.assert_array_equal(jax.vmap(listed)(steps), [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25])


KNOBS = {
    "cosine_restarts": [{"first_decay_steps": 10, "t_mul": t, "m_mul": m} for t, m in ((1, 0.5), (2, 0.5), (3, 0.9))],
    "exponential": [{"rate": rate, "transition_steps": n} for rate, n in ((0.9, 10), (0.5, 10), (0.5, 7))],
    "hold": [{"until": n, "final": final} for n, final in ((10, 0.1), (20, 0.2), (30, 0.3))],
    "step": [{"every": n, "factor": factor} for n, factor in ((10, 0.9), (10, 0.5), (7, 0.5))],
    "step_at": [{"boundaries": n, "factor": factor} for n, factor in (((3, 9), 0.9), ((3, 30), 0.9), ((5, 9), 0.5))],
}


@pytest.mark.parametrize("name", KNOBS)
def test_the_knobs_of_a_schedule_sweep_and_do_not_trace_again(name, strict_dtypes):
    chex.clear_trace_counter()
    value = jax.jit(chex.assert_max_traces(weighted, n=1))
    kl = {"fn": "softened_kl", "weight": 1.0}
    specs = [from_config({"kl": {**kl, "schedule": {"name": name, **knobs}}}) for knobs in KNOBS[name]]
    apart = [float(value(spec, jnp.int32(25))) for spec in specs]
    assert len(set(apart)) > 1
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *specs)
    together = jax.vmap(lambda spec: weighted(spec, jnp.int32(25)))(stacked)
    np.testing.assert_allclose(together, apart, rtol=1e-6)
    grads = jax.grad(lambda spec: weighted(spec, jnp.int32(25)))(specs[0])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))
