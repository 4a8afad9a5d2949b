import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib.models.base import Outputs, from_linen

BATCH = {"x": jnp.asarray(np.random.default_rng(0).normal(3, 2, (16, 4)), jnp.float32)}


class Normed(nn.Module):
    @nn.compact
    def __call__(self, batch, *, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(batch["x"])
        return Outputs(nn.Dropout(0.5)(x, deterministic=not train), {})


def test_state_moves_in_training_only():
    model = from_linen(Normed())
    variables = model.init(jax.random.key(0), BATCH)
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    _, trained = model.apply(params, state, BATCH, train=True, key=jax.random.key(1))
    _, evaluated = model.apply(params, state, BATCH, train=False)
    assert evaluated is state
    assert set(trained) == {"batch_stats"}
    np.testing.assert_allclose(trained["batch_stats"]["BatchNorm_0"]["mean"], BATCH["x"].mean(0) / 2, rtol=1e-5)


def test_dropout_without_a_key_is_an_error():
    model = from_linen(Normed())
    variables = model.init(jax.random.key(0), BATCH)
    with pytest.raises(Exception, match="dropout"):
        model.apply(variables["params"], {"batch_stats": variables["batch_stats"]}, BATCH, train=True)
