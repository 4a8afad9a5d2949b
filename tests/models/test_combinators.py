"""Several models that teach as one, and a student trained together with its teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib import config
from kdib.models.base import Model, Outputs, split
from kdib.models.combinators import RULES, ensemble
from kdib.step import predict

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
