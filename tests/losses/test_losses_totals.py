"""The total of leveled distillation: the formula, its corners, and one compilation over all that is swept."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib import losses

N, K, D = 6, 4, 3
RNG = np.random.default_rng(0)
STUDENT, TEACHER = ({"logits": RNG.normal(size=(N, K)), "hidden": RNG.normal(size=(N, D))} for _ in range(2))
LABELS = RNG.integers(K, size=N)
CONTEXT = {
    **{
        who: {"logits": jnp.float32(x["logits"]), "hidden": {"penultimate": jnp.float32(x["hidden"])}}
        for who, x in {"student": STUDENT, "teacher": TEACHER}.items()
    },
    "batch": {"label": jnp.asarray(LABELS)},
}


def total(alpha, temperature, s_kl, s_fm):
    spec = losses.leveled(alpha, temperature, s_kl, s_fm)
    return losses.combine(losses.terms(spec, CONTEXT, step=0), spec, step=0)


def by_hand(alpha, tau, s_kl, s_fm):
    def log_softmax(x):
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    ce = -log_softmax(STUDENT["logits"])[np.arange(N), LABELS].mean()
    q, p = log_softmax(STUDENT["logits"] / tau), log_softmax(TEACHER["logits"] / tau)
    kl = (np.exp(p) * (p - q)).sum(1).mean()
    fm = np.abs(STUDENT["hidden"] - TEACHER["hidden"]).sum(1).mean()
    return alpha * ce + (1 - alpha) * (s_kl * tau**2 * kl + s_fm * fm)


SETTINGS = [
    (0.1, 4.0, 1.0, 0.01),
    (0.5, 1.0, 2.0, 0.0),
    (0.9, 8.0, 0.0, 0.5),
    (0.0, 2.0, 1.0, 1.0),
    (1.0, 3.0, 5.0, 5.0),
]


def test_the_total_is_the_formula_in_one_trace():
    chex.clear_trace_counter()
    value = jax.jit(chex.assert_max_traces(total, n=1))
    for settings in SETTINGS:
        actual = value(*map(jnp.float32, settings))
        np.testing.assert_allclose(actual, by_hand(*settings), rtol=1e-5)


def test_a_spec_as_an_argument_does_not_trace_again():
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def value(spec):
        return losses.combine(losses.terms(spec, CONTEXT, step=0), spec, step=0)

    specs = [losses.leveled(*settings) for settings in SETTINGS]
    np.testing.assert_allclose([value(spec) for spec in specs], [by_hand(*s) for s in SETTINGS], rtol=1e-5)


def test_a_sweep_over_all_four_is_the_loop():
    swept = jax.jit(jax.vmap(total))(*jnp.asarray(SETTINGS, jnp.float32).T)
    np.testing.assert_allclose(swept, [by_hand(*settings) for settings in SETTINGS], rtol=1e-5)


def test_gradients_reach_all_four():
    settings = SETTINGS[0]
    grads = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(*settings)
    for position in range(4):
        grad, step = grads[position], 1e-4 * np.eye(4)[position]
        slope = (by_hand(*(settings + step)) - by_hand(*(settings - step))) / 2e-4
        np.testing.assert_allclose(grad, slope, rtol=1e-3, atol=1e-5)


def test_none_leaves_a_term_out():
    assert sorted(losses.leveled(0.5, 1.0, None, 1.0)) == ["ce", "fm"]
    assert sorted(losses.leveled(0.5, 1.0, 1.0, None)) == ["ce", "kl"]
    assert sorted(losses.leveled(0.5, 1.0, None, None)) == ["ce"]


def test_what_shapes_the_program_reaches_its_term():
    layers = ("student.hidden.hidden2", "teacher.hidden.pool")
    options = {"direction": "reverse", "reduce": "mean", "projector": "linear"}
    spec = losses.leveled(0.5, 1.0, 1.0, 1.0, features=layers, **options)
    assert spec["fm"].inputs == ("fm.logits", "teacher.hidden.pool")
    assert dict(spec["fm"].options) == {"reduce": "mean"}
    assert dict(spec["kl"].options) == {"axis": -1, "direction": "reverse"}


def test_a_number_that_is_no_scalar_is_refused():
    with pytest.raises(ValueError, match=r"loss term 'ce': weight must be a scalar, got shape \(2,\)"):
        losses.leveled(jnp.ones(2), 1.0, 1.0, 1.0)


@pytest.mark.parametrize("alpha", [2.0, -0.1])
def test_an_alpha_that_drives_away_from_the_teacher_is_refused(alpha):
    with pytest.raises(ValueError, match=rf"alpha must be a number from 0 to 1, got {alpha}"):
        losses.leveled(alpha, 4.0, 1.0, None)
