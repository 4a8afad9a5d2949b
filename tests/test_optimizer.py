"""The recipe's optimiser: learning rates step by step, the regularisers, parity with optax, names and knobs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdib.optimizer import make_optimizer, with_learning_rate

RECIPE = {
    "steps": 50,
    "warmup_steps": 0,
    "schedule": {"name": "constant"},
    "weight_decay": 0.0,
    "clip_norm": 1e9,
}


def rates(n, **changes):
    """The learning rate of the first n steps: what plain descent takes off where the gradient is 1."""
    tx = make_optimizer("sgd", **{**RECIPE, **changes})
    state = with_learning_rate(tx.init({"w": jnp.zeros(1)}), 1.0)

    def body(state, _):
        updates, state = tx.update({"w": jnp.ones(1)}, state, {"w": jnp.zeros(1)})
        return state, -updates["w"][0]

    return np.asarray(jax.lax.scan(body, state, length=n)[1])


def cosine(fraction):
    return (1 + np.cos(np.pi * np.asarray(fraction))) / 2


T = np.arange(40)
SCHEDULES = {
    "constant": ({}, np.ones(40)),
    "cosine": ({}, cosine(T / 50)),
    "cosine that ends earlier": (
        {"name": "cosine", "stop": 20, "final": 0.1},
        0.1 + 0.9 * cosine(np.minimum(T / 20, 1)),
    ),
    "linear": ({}, 1 - T / 50),
    "exponential": ({"rate": 0.96, "transition_steps": 10}, 0.96 ** (T / 10)),
    "cosine_restarts": (
        {"first_decay_steps": 5, "t_mul": 3.0, "m_mul": 0.9},  # cycles of 5, 15, 45 from 0, 5, 20
        np.concatenate([cosine(T[:5] / 5), 0.9 * cosine(T[:15] / 15), 0.81 * cosine(T[:20] / 45)]),
    ),
    "hold": ({"until": 7, "final": 0.1}, np.where(T < 7, 1, 0.1)),
    "step": ({"every": 10, "factor": 0.7}, 0.7 ** (T // 10)),
    "step_at": ({"boundaries": [4, 30], "factor": 0.1}, np.where(T < 4, 1, np.where(T < 30, 0.1, 0.01))),
}


@pytest.mark.parametrize(("name", "knobs", "expected"), [(n, *row) for n, row in SCHEDULES.items()], ids=SCHEDULES)
def test_the_learning_rate_is_the_closed_form_and_counts_from_the_end_of_the_warm_up(name, knobs, expected):
    schedule = {"name": name, **knobs}
    np.testing.assert_allclose(rates(40, schedule=schedule), expected, rtol=1e-5, atol=1e-6)
    warm = rates(44, schedule=schedule, steps=54, warmup_steps=4)
    np.testing.assert_allclose(warm, [0, 0.25, 0.5, 0.75, *expected], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("warmup_steps", [0, 5])
def test_the_plain_cosine_keeps_the_bits_of_optax(warmup_steps):
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps, 50)
    actual = rates(50, schedule={"name": "cosine"}, warmup_steps=warmup_steps)
    np.testing.assert_array_equal(actual, jax.jit(jax.vmap(schedule))(jnp.arange(50)))


def run(tx, grads, params, learning_rate=None):
    state = tx.init(params)
    state = state if learning_rate is None else with_learning_rate(state, learning_rate)
    for grad in grads:
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params


GRADS = [{"w": jnp.full((3, 2), 0.3 * (i - 2))} for i in range(8)]
PARAMS = {"w": jnp.ones((3, 2))}


def test_adamw_is_optax_adamw():
    changes = {"warmup_steps": 5, "schedule": {"name": "cosine"}, "weight_decay": 0.1}
    ours = make_optimizer("adamw", **{**RECIPE, **changes})
    theirs = optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 0.01, 5, 50), weight_decay=0.1)
    np.testing.assert_allclose(run(ours, GRADS, PARAMS, 0.01)["w"], run(theirs, GRADS, PARAMS)["w"], rtol=1e-6)


def test_radam_is_optax_radam():
    theirs = run(optax.radam(0.01), GRADS, PARAMS)["w"]
    np.testing.assert_allclose(run(make_optimizer("radam", **RECIPE), GRADS, PARAMS, 0.01)["w"], theirs, rtol=1e-6)
    adam = run(make_optimizer("adam", **RECIPE), GRADS, PARAMS, 0.01)["w"]
    assert np.max(np.abs(adam - theirs)) > 1e-3


WEIGHTS = {"kernel": jnp.asarray([[0.5, -2.0], [0.0, 1.0]]), "bias": jnp.asarray([3.0, -3.0])}
FLAT = jax.tree.map(jnp.zeros_like, WEIGHTS)


def test_regularisers_are_the_gradient_of_their_terms_on_kernels_only():
    after = run(make_optimizer("sgd", **RECIPE, l1=0.1, l2=0.2), [FLAT], WEIGHTS, learning_rate=0.5)
    kernel = np.asarray(WEIGHTS["kernel"])
    np.testing.assert_allclose(after["kernel"], kernel - 0.5 * (0.1 * np.sign(kernel) + 2 * 0.2 * kernel), rtol=1e-6)
    np.testing.assert_array_equal(after["bias"], WEIGHTS["bias"])
    term = jax.grad(lambda params: 0.2 * jnp.sum(params["kernel"] ** 2))(WEIGHTS)
    in_the_loss = run(make_optimizer("adam", **RECIPE), [term], WEIGHTS, learning_rate=0.5)
    by_the_optimizer = run(make_optimizer("adam", **RECIPE, l2=0.2), [FLAT], WEIGHTS, learning_rate=0.5)
    np.testing.assert_allclose(by_the_optimizer["kernel"], in_the_loss["kernel"], rtol=1e-6)


def test_regularisers_are_clipped_with_the_gradient():
    tx = make_optimizer("sgd", **{**RECIPE, "clip_norm": 1.0}, l2=100.0)
    after = run(tx, [FLAT], WEIGHTS, learning_rate=1.0)
    np.testing.assert_allclose(jnp.linalg.norm(after["kernel"] - WEIGHTS["kernel"]), 1.0, rtol=1e-5)


BAD = {
    "optimiser": ({"name": "lion"}, r"train\.optimizer='lion' is unknown; known: adamw, adam, radam, sgd"),
    "decay": ({"name": "radam", "weight_decay": 0.1}, "no effect with radam"),
    "schedule": ({"schedule": {"name": "steps"}}, r"train\.schedule\.name='steps' is unknown; known: constant, cosine"),
    "nameless": ({"schedule": {"rate": 0.9}}, r"train\.schedule\.name='' is unknown; known: constant, cosine"),
    "knob": ({"schedule": {"name": "hold", "unti": 3}}, r"'hold': .*'unti.*; its knobs: until, initial, final"),
    "cosine's knob": ({"schedule": {"name": "cosine", "alpha": 0.1}}, "'cosine': .*'alpha'; its knobs: stop, start"),
    "constant's knob": ({"schedule": {"name": "constant", "at": 1}}, "'constant': .*'at'; its knobs: none"),
    "need": ({"schedule": {"name": "exponential", "rate": 0.9}}, "missing .*'transition_steps'; its knobs: rate"),
    "words": ({"schedule": {"name": "step", "every": "day", "factor": 1}}, "'step': .*its knobs: every, factor"),
    "a list": ({"schedule": {"name": "hold", "until": [3, 4]}}, "'hold': .*shape.*its knobs: until"),
    "sign": ({"l1": -1e-5}, r"train\.l1 must be a number >= 0, got -1e-05"),
    "clipped to nothing": ({"clip_norm": 0.0}, r"train\.clip_norm must be a number > 0, got 0\.0"),
    "warm-up beyond the end": (
        {"warmup_steps": 100},
        r"train\.warmup_steps=100 must be from 0 to less than its \d+ steps",
    ),
    "steps of its own": ({"schedule": {"name": "cosine", "steps": 9}}, r"'cosine': .*'steps'; its knobs: stop, start"),
    "a stair of no width": (
        {"schedule": {"name": "step", "every": 0, "factor": 0.5}},
        "'step': every must be a number > 0",
    ),
    "backwards": ({"schedule": {"name": "linear", "start": 50, "stop": 10}}, r"start=50 must not be after stop=10"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_what_does_not_exist_or_would_have_no_effect_is_named(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_optimizer(**{"name": "adamw", **RECIPE, **change})
    assert "\n" not in str(caught.value)


def test_equal_recipes_share_one_transformation():
    listed = {"name": "step_at", "boundaries": [4, 30], "factor": 0.1}
    turned = {"factor": 0.1, "boundaries": (4, 30), "name": "step_at"}
    first, second, third = (
        make_optimizer("adam", **{**RECIPE, "schedule": s}) for s in (listed, turned, {"name": "cosine"})
    )
    assert first is second and first is not third
