"""kdib.properties.sharpness: closed forms, the exact Hessian of every kind of network, and rows."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from kdib import models
from kdib.models.base import split
from kdib.properties import sharpness as module
from kdib.properties.basins.interpolation import batched, loss_and_error, sums_of
from kdib.properties.sharpness import PROPERTY, hessian_product, of_network, sharpness
from kdib.records import Subject
from kdib.tasks.base import Dataset

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
WORDS = {"tokens": RNG.integers(0, 7, (6, 8)).astype(np.int32), "length": np.array([8, 3, 5, 2, 8, 4], np.int32)}
PICTURES = {"image": RNG.random((6, 6, 6, 1)).astype("f")}
NETWORKS = {
    "mlp_tiny": ({"image_shape": (6, 6, 1), "widths": (4,)}, PICTURES),
    "cnn_tiny": ({"image_shape": (6, 6, 1), "channels": (2, 3)}, PICTURES),
    "lstm_tiny": ({"vocab_size": 7, "max_length": 8, "embedding_size": 3, "hidden_size": 3}, WORDS),
    "transformer_tiny": ({"vocab_size": 7, "max_length": 8, "width": 4}, WORDS),
}


def network(preset):
    shapes, inputs = NETWORKS[preset]
    model = models.build(preset, num_classes=3, **shapes)
    inputs = {**inputs, "label": np.array([0, 1, 2, 2, 1, 0], np.int32)}
    return model, model.init(jax.random.key(1), inputs), inputs


def test_it_is_the_exact_hessians():
    model, variables, inputs = network("mlp_tiny")
    params, model_state = split(variables)
    flat, unravel = ravel_pytree(params)
    whole = batched(inputs, 6)
    hessian = jax.jit(jax.hessian(lambda p: loss_and_error(model, unravel(p), model_state, whole).loss))(flat)
    found = of_network(variables, batched(inputs, 4), KEY, model=model, n_matvecs=40, n_probes=400)
    eigenvalues = np.linalg.eigvalsh(np.asarray(hessian, "d"))
    assert float(found.top_eigenvalue) == pytest.approx(eigenvalues[-1], rel=1e-3)
    assert float(found.trace) == pytest.approx(eigenvalues.sum(), abs=4 * float(found.trace_se))
    assert found.trace_se < 0.1 * eigenvalues.sum()


# Steps so small that hardly a ReLU changes sides, whose kinks the Hessian does not see.
@pytest.mark.parametrize("preset, step", list(zip(NETWORKS, (2e-5, 2e-5, 2e-4, 2e-4), strict=True)))
def test_every_network_has_products_that_are_differences_of_gradients(preset, step):
    model, variables, inputs = network(preset)
    params, model_state = split(variables)
    flat, unravel = ravel_pytree(params)
    along, moved = jax.random.normal(KEY, (2, *flat.shape))
    flat = flat + 0.05 * moved  # at the initial values, all biases being 0, units without input are at their kink
    batch = {**inputs, "counted": np.ones(6, bool)}

    def loss(flat):
        return sums_of(model.apply(unravel(flat), model_state, batch, train=False)[0].logits, batch).loss.value

    gradient = jax.jit(jax.grad(loss))
    product = jax.jit(lambda flat: hessian_product(loss, flat, along))(flat)
    difference = (gradient(flat + step * along) - gradient(flat - step * along)) / (2 * step)
    assert np.linalg.norm(product) > 0.1
    assert np.linalg.norm(product - difference) < 0.05 * np.linalg.norm(product)


def test_a_quadratic_has_the_eigenvalues_it_was_given():
    like = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    of_a, of_b = jnp.array([-9.0, 1.0, 2.0]), jnp.array([[3.0, 5.0], [0.0, 4.0]])
    loss = lambda p: (of_a * p["a"] ** 2).sum() / 2 + (of_b * p["b"] ** 2).sum() / 2  # noqa: E731
    found = jax.jit(lambda p: sharpness(lambda v: hessian_product(loss, p, v), p, KEY, n_matvecs=7, n_probes=2))(like)
    assert float(found.top_eigenvalue) == pytest.approx(5, rel=1e-5)  # not the largest in size
    assert float(found.trace) == pytest.approx(6, rel=1e-5)  # signs see a diagonal exactly
    assert float(found.trace_se) == pytest.approx(0, abs=1e-5)


def test_lanczos_ends_where_there_is_nothing_left_to_find():
    top = jax.jit(lambda d: sharpness(lambda v: d * v, d, KEY, n_matvecs=20, n_probes=2).top_eigenvalue)
    for diagonal in (np.zeros(50), np.full(50, 7.0), np.arange(50) % 3, -1.0 - np.arange(50) % 2):
        assert float(top(diagonal.astype("f"))) == pytest.approx(diagonal.max(), abs=1e-4)


def test_what_it_cannot_work_on_is_refused():
    with pytest.raises(ValueError, match="n_probes >= 2, got 20 and 1"):
        sharpness(lambda v: v, jnp.zeros(3), KEY, n_probes=1)
    with pytest.raises(ValueError, match="expected float32"):
        sharpness(lambda v: v, jnp.zeros(3, jnp.bfloat16), KEY)


def test_rows_are_of_the_training_set_and_come_from_one_program(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 4)
    model, variables, inputs = network("mlp_tiny")
    traces = []

    def apply(*of, **how):
        traces.append(1)
        return model.apply(*of, **how)

    counting = model._replace(apply=apply)
    subjects = [Subject(f"alone/seed{s}@9", "alone", s, f"seed{s}", 9, str(s)) for s in range(2)]
    nets = {s.id: (counting, jax.tree.map(lambda leaf, s=s: leaf * (1 + s.seed), variables)) for s in subjects}
    evidence = types.SimpleNamespace(
        sets={"test": None}, train=Dataset(inputs, {}), network=lambda subject: nets[subject.id]
    )
    rows = list(PROPERTY.measure(subjects, evidence))
    n_traces = len(traces)
    assert [(row.subject, row.metric) for row in rows] == [
        (s.id, metric) for s in subjects for metric in ("top_eigenvalue", "trace")
    ]
    assert {(row.other, row.split, row.group, row.coords, row.n) for row in rows} == {(None, "test", "", (), 6)}
    expected = of_network(variables, batched(inputs, 4), jax.random.key(module.SEED), model=counting)
    assert rows[0].value == pytest.approx(float(expected.top_eigenvalue), rel=1e-5)
    assert rows[0].value != pytest.approx(rows[2].value)
    again = list(PROPERTY.measure(subjects, evidence))
    assert again == rows and len(traces) == n_traces
    with pytest.raises(ValueError, match="training examples"):
        list(PROPERTY.measure(subjects, types.SimpleNamespace(train=None)))
