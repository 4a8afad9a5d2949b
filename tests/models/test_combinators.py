"""Several models that teach as one, and a student trained together with its teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib import config
from kdib.losses import from_config
from kdib.models.base import Model, Outputs, nothing, split
from kdib.models.combinators import PARTS, RULES, ensemble, pair
from kdib.optimizer import make_optimizer, with_learning_rate
from kdib.step import Architecture, init_state, predict, train_step

N, D, K = 24, 3, 2
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
DATA = {"x": jnp.asarray(X), "label": jnp.asarray((X[:, 0] > 0).astype(np.int32)), "id": jnp.arange(N)}


def linear(factor) -> Model:
    def apply(params, model_state, batch, *, train, key):
        del train, key
        return Outputs(factor * batch["x"] @ params["w"], {"x": batch["x"]}), model_state

    return Model(lambda key, batch: {"params": {"w": jax.random.normal(key, (D, K))}}, apply)


ONE, TWO = linear(1.0), linear(2.0)


@pytest.mark.parametrize("rule", RULES)
def test_an_ensemble_is_the_closed_form_of_its_members(rule):
    variables = ensemble((ONE, TWO), rule).init(jax.random.key(0), DATA)
    weights = [np.asarray(member["params"]["w"], np.float64) for member in variables["params"]]
    assert not np.array_equal(*weights)
    logits = np.stack([X @ weights[0], 2 * X @ weights[1]])
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = {"mean_probability": np.log(probs.mean(0)), "mean_logit": logits.mean(0)}[rule]
    got = jax.jit(predict, static_argnames="model")(variables, DATA, model=ensemble((ONE, TWO), rule))
    np.testing.assert_allclose(got.logits, expected, atol=2e-5)


def test_one_member_teaches_as_it_would_alone():
    variables = ensemble((ONE,), "mean_logit").init(jax.random.key(0), DATA)
    alone = predict(variables["params"][0], DATA, model=ONE).logits
    np.testing.assert_array_equal(predict(variables, DATA, model=ensemble((ONE,), "mean_logit")).logits, alone)
    together = predict(variables, DATA, model=ensemble((ONE,), "mean_probability")).logits
    np.testing.assert_allclose(jax.nn.softmax(together), jax.nn.softmax(alone), atol=1e-6)


def test_one_model_serves_any_number_of_members():
    variables = ensemble((ONE, ONE), "mean_logit").init(jax.random.key(0), DATA)
    logits = [predict(variables, DATA, model=ensemble(models, "mean_logit")).logits for models in ((ONE, ONE), (ONE,))]
    np.testing.assert_array_equal(*logits)


def test_a_mean_of_probabilities_is_finite_where_they_underflow():
    logits_ExBxK = jnp.array([[[0.0, -300.0]], [[0.0, -400.0]]])
    np.testing.assert_allclose(RULES["mean_probability"](logits_ExBxK), [[0.0, -300.0 - np.log(2)]], rtol=1e-6)


def test_what_an_ensemble_refuses():
    assert ensemble((ONE, TWO), "mean_logit") is ensemble((ONE, TWO), "mean_logit")
    with pytest.raises(ValueError, match=r"rule='median' .* known: mean_probability, mean_logit"):
        ensemble((ONE,), "median")
    with pytest.raises(ValueError, match="at least one model"):
        ensemble((), "mean_logit")
    model = ensemble((ONE, TWO), "mean_logit")
    params, state = split(model.init(jax.random.key(0), DATA))
    with pytest.raises(ValueError, match="not trained"):
        model.apply(params, state, DATA, train=True, key=None)
    with pytest.raises(ValueError, match="variables of 2 models, got 1"):
        model.apply(params[:1], state, DATA, train=False)


def test_a_config_knows_the_rules():
    assert config.CHOICES["ensemble"] == ("", *RULES)


# -------------------------------------------------------------------------------------------------- pairs


def noisy() -> Model:
    """Dropout, and a state that counts the calls in training."""

    def init(key, batch):
        return {"params": {"w": jax.random.normal(key, (D, K))}, "calls": {"n": jnp.zeros(())}}

    def apply(params, model_state, batch, *, train, key):
        x = batch["x"]
        if train:
            x = jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0)
            model_state = {"calls": {"n": model_state["calls"]["n"] + 1}}
        return Outputs(x @ params["w"], {}), model_state

    return Model(init, apply)


NOISY = noisy()
KD = {"fn": "softened_kl", "weight": 9.0, "inputs": ("student.logits", "student.hidden.teacher_logits")}
TEACHER_CE = {"fn": "cross_entropy", "weight": 1.0, "inputs": ("student.hidden.teacher_train_logits", "batch.label")}
KNOBS = {
    name: {"steps": 20, "warmup_steps": 0, "schedule": {"name": "constant"}, "weight_decay": decay, "clip_norm": 0.05}
    for name, decay in {"adamw": 0.1, "sgd": 0.0}.items()
}


def trained(model, loss, init_key, *, parts, name):
    """The parameters after 20 steps of a network that starts from `init_key`."""
    arch = Architecture(model, nothing(), (), make_optimizer(name, **KNOBS[name], parts=parts))
    state = init_state(init_key, jax.random.key(7), DATA, {"params": {}}, arch=arch)
    state = state._replace(opt_state=with_learning_rate(state.opt_state, 0.1))
    step = jax.jit(lambda state: train_step(state, DATA, {"params": {}}, from_config(loss), arch=arch)[0])
    for _ in range(20):
        state = step(state)
    return state.params["model"]


@pytest.mark.parametrize(("term", "moved", "still"), [(KD, "student", "teacher"), (TEACHER_CE, "teacher", "student")])
def test_each_term_of_a_pair_trains_one_of_the_two(term, moved, still):
    model = pair(NOISY, NOISY)
    params, state = split(model.init(jax.random.key(0), DATA))
    path = term["inputs"][0 if moved == "teacher" else 1].split(".")[-1]

    def total(params):
        outputs, _ = model.apply(params, state, DATA, train=True, key=jax.random.key(1))
        asked = outputs.hidden[path] if moved == "teacher" else outputs.logits * outputs.hidden[path]
        return jnp.sum(asked**2)  # stops no gradient itself, as the losses do

    grads = jax.grad(total)(params)
    assert np.all(grads[moved]["w"] != 0) and not np.any(grads[still]["w"])


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_pairs_teacher_trains_as_it_would_alone(name):
    together = pair(ONE, TWO)
    key = jax.random.key(0)
    start = together.init(key, DATA)["params"]
    alone_model = TWO._replace(init=lambda key, batch: {"params": start["teacher"]})
    alone = trained(alone_model, {"ce": {"fn": "cross_entropy", "weight": 1.0}}, key, parts=(), name=name)
    both = trained(together, {"kd": KD, "teacher_ce": TEACHER_CE}, key, parts=PARTS, name=name)
    only = trained(together, {"kd": KD | {"weight": None}, "teacher_ce": TEACHER_CE}, key, parts=(), name=name)
    coupled = trained(together, {"kd": KD, "teacher_ce": TEACHER_CE}, key, parts=(), name=name)
    for teacher in (both["teacher"], only["teacher"]):
        np.testing.assert_allclose(teacher["w"], alone["w"], atol=1e-6)
    assert np.max(np.abs(coupled["teacher"]["w"] - alone["w"])) > 1e-3  # what one norm for both would do
    assert not np.allclose(both["student"]["w"], start["student"]["w"], atol=1e-2)


def test_a_pairs_student_starts_and_draws_as_it_would_alone_and_the_teacher_otherwise():
    model, key = pair(NOISY, NOISY), jax.random.key(3)
    variables, alone = model.init(key, DATA), NOISY.init(key, DATA)
    np.testing.assert_array_equal(variables["params"]["student"]["w"], alone["params"]["w"])
    params, state = split(variables)
    same = dict.fromkeys(PARTS, params["student"])
    outputs, moved = model.apply(same, state, DATA, train=True, key=key)
    expected, _ = NOISY.apply(*split(alone), DATA, train=True, key=key)
    np.testing.assert_array_equal(outputs.logits, expected.logits)
    assert not np.allclose(outputs.hidden["teacher_train_logits"], outputs.logits)
    assert [int(moved[part]["calls"]["n"]) for part in PARTS] == [1, 1]


def test_a_pairs_targets_are_both_in_evaluation_mode():
    model = pair(NOISY, NOISY)
    params, state = split(model.init(jax.random.key(0), DATA))

    def targets(params):
        hidden = model.apply(params, state, DATA, train=True, key=jax.random.key(1))[0].hidden
        return {part: hidden[f"{part}_logits"] for part in PARTS}

    for part, logits in targets(params).items():
        np.testing.assert_array_equal(logits, DATA["x"] @ params[part]["w"])
    grads = jax.grad(lambda params: sum(jnp.sum(logits) for logits in targets(params).values()))(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_a_pair_answers_in_evaluation_mode_as_in_training_but_for_what_only_a_loss_asks():
    model = pair(ONE, NOISY)
    params, state = split(model.init(jax.random.key(0), DATA))
    expected = DATA["x"] @ params["teacher"]["w"]
    for train in (True, False):
        outputs, after = model.apply(params, state, DATA, train=train, key=jax.random.key(1))
        np.testing.assert_array_equal(outputs.hidden["teacher_logits"], expected)
        assert {"teacher_train_logits", "student_logits"} & outputs.hidden.keys() == (
            {"teacher_train_logits", "student_logits"} if train else set()
        )
        assert set(after) == {"teacher"}  # ONE has no state, and none is invented for it
    assert pair(ONE, NOISY) is model
