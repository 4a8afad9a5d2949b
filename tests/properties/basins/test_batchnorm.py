"""kdib.properties.basins.batchnorm: against numpy, one batch of everything, dropout, and the fault it is there for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib import models
from kdib.models.base import Model, Outputs, split
from kdib.properties.basins.batchnorm import momenta, recalibrated
from kdib.properties.basins.interpolation import barrier, batched, interpolation_path, loss_and_error

IMAGES = np.random.default_rng(0).random((24, 6, 6, 1)).astype("f") * np.linspace(0.5, 2, 24)[:, None, None, None]
INPUTS = {"image": IMAGES.astype("f"), "label": np.arange(24, dtype=np.int32) % 3}


@functools.cache
def network(preset, **changes):
    model = models.build(preset, num_classes=3, image_shape=(6, 6, 1), **changes)
    return model, model.init(jax.random.key(0), {name: column[:2] for name, column in INPUTS.items()})


@functools.partial(jax.jit, static_argnames=("model", "train"))
def logits(model, params, model_state, *, train=False):
    return model.apply(params, model_state, INPUTS, train=train)[0].logits


def small_mlp(**changes):
    return network("mlp_abnar", widths=(8, 5), **changes)


def collected(model, variables, size):
    params, model_state = split(variables)
    batches = {n: v for n, v in batched(INPUTS, size).items() if n != "counted"}
    shares = momenta(model, params, model_state, {n: v[0] for n, v in batches.items()})
    return jax.jit(lambda p: recalibrated(model, p, model_state, batches, shares))(params)["batch_stats"]


def test_the_first_normalisation_has_the_statistics_of_all_examples():
    model, variables = small_mlp(dropout=0.0)
    layer = variables["params"]["layer1"]
    hidden = np.maximum(IMAGES.reshape(24, -1) @ np.asarray(layer["kernel"], "d") + np.asarray(layer["bias"]), 0)
    for size in (24, 6):
        norm = collected(model, variables, size)["norm1"]
        np.testing.assert_allclose(norm["mean"], hidden.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(norm["var"], hidden.var(axis=0), rtol=1e-4, atol=1e-6)


def test_one_batch_of_everything_answers_as_training_does():
    """In evaluation, with the statistics of a batch, the logits are those of training on that batch."""
    for model, variables in (small_mlp(dropout=0.0), network("cnn_tiny")):
        params, _ = split(variables)
        statistics = {"batch_stats": collected(model, variables, 24)}
        trained = logits(model, params, split(variables)[1], train=True)
        np.testing.assert_allclose(logits(model, params, statistics), trained, atol=2e-5)
        assert np.abs(logits(model, *split(variables)) - trained).max() > 0.1  # it had something to do


def test_dropout_is_off_while_statistics_are_collected():
    without, with_dropout = small_mlp(dropout=0.0), small_mlp(dropout=0.5)
    for a, b in zip(*(jax.tree.leaves(collected(*of, 24)) for of in (without, with_dropout)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_momentum_is_found():
    model, variables = small_mlp(dropout=0.0)
    for share in jax.tree.leaves(momenta(model, *split(variables), INPUTS)):
        assert float(share) == pytest.approx(0.9, abs=1e-6)


def test_a_network_without_statistics_has_its_state_back():
    model, variables = network("mlp_tiny")
    assert split(variables)[1] == {}
    assert momenta(model, variables["params"], {}, INPUTS) == {}
    assert recalibrated(model, variables["params"], {}, {}, {}) == {}


def test_a_state_of_another_kind_is_refused():
    def apply(params, model_state, batch, *, train, key):
        return Outputs(batch["label"], {}), jax.tree.map(lambda leaf: leaf * leaf, model_state)

    model = Model(init=lambda key, batch: {}, apply=apply)
    for state, message in (
        ({"bank": jnp.zeros(3)}, r"pairs of .*at model_state\['bank'\]"),
        ({"norm": {"mean": jnp.zeros(3), "scale": jnp.zeros(3)}}, r"pairs of .*at model_state\['norm'\]"),
        ({"norm": {"mean": jnp.zeros(3), "var": jnp.zeros(3)}}, r"running average at model_state\['norm'\]\['mean'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            momenta(model, {}, state, INPUTS)


def rescaled(variables, factor, bias):
    """The same function: what is normalised may be scaled and shifted, if its statistics are too."""
    params, state = variables["params"], variables["batch_stats"]
    conv = {"kernel": params["conv1"]["kernel"] * factor, "bias": params["conv1"]["bias"] * factor + bias}
    moved = {"mean": state["norm1"]["mean"] * factor + bias, "var": state["norm1"]["var"] * factor**2}
    return {"params": params | {"conv1": conv}, "batch_stats": state | {"norm1": moved}}


def test_planted_fault_two_copies_of_one_function_have_a_barrier_unless_recalibrated():
    model, variables = network("cnn_tiny")
    variables = {"params": variables["params"], "batch_stats": collected(model, variables, 24)}
    # The network is surest of its own answers, so that whatever changes them shows in the loss.
    answers = logits(model, *split(variables)).argmax(-1)
    params = variables["params"] | {"head": jax.tree.map(lambda leaf: 100 * leaf, variables["params"]["head"])}
    variables = {"params": params, "batch_stats": variables["batch_stats"]}
    inputs = INPUTS | {"label": np.asarray(answers, np.int32)}
    other = rescaled(variables, 10.0, -3.0)
    np.testing.assert_allclose(logits(model, *split(other)), logits(model, *split(variables)), atol=5e-3)

    batches, state = batched(inputs, 24), split(variables)[1]
    shares = momenta(model, params, state, INPUTS)
    alphas = np.linspace(0, 1, 5)

    def losses(params, *, again):
        # The running average that stands between the two would be a line too; what stays behind is one end's.
        statistics = recalibrated(model, params, state, batches, shares) if again else state
        return loss_and_error(model, params, statistics, batches).loss

    stale, fresh = (
        interpolation_path(functools.partial(losses, again=again), params, other["params"], alphas)
        for again in (False, True)
    )
    np.testing.assert_allclose(fresh, fresh[0], rtol=1e-2, atol=1e-3)  # one function all along the line
    assert barrier(fresh, alphas).above_chord < 1e-3
    assert float(stale.max()) > float(fresh.max()) + 1
