import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib.models import build, kernels
from kdib.models.kernels import Dropout, bernoulli, lstm_layer, over_rows

VOCAB, L = 40, 9
SIZES = {"vocab_size": VOCAB, "num_classes": 2, "max_length": L}
TOKENS = 3 + np.arange(4 * L, dtype=np.int32).reshape(4, L)  # all distinct: a row of the table is a position
BATCH = {"tokens": jnp.asarray(TOKENS), "length": jnp.array([9, 6, 1, 4], jnp.int32)}


@functools.cache
def lstm(**overrides):
    model = build("lstm_tiny", **SIZES, layers=2, embedding_size=5, hidden_size=6, **overrides)
    params = model.init(jax.random.key(0), BATCH)["params"]
    noise = jax.random.normal(jax.random.key(7), (24,))  # biases that a wrong gate order would show
    params = {**params, "layer0": {**params["layer0"], "bias": params["layer0"]["bias"] + noise}}
    return model, params


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def run(model, params, batch, *, train=False, key=None):
    return model.apply(params, {}, batch, train=train, key=key)[0]


def numpy_lstm(layer, x_LxD, keep_H=1.0):
    """One sequence, one step at a time, as in the textbook."""
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    width = layer["recurrent"].shape[0]
    h, c, states = np.zeros(width), np.zeros(width), []
    for x in x_LxD:
        z = x @ layer["input"] + (keep_H * h) @ layer["recurrent"] + layer["bias"]
        i, f, g, o = (z[k * width : (k + 1) * width] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states)


def test_equals_a_plain_numpy_recurrence():
    model, params = lstm()
    outputs = run(model, params, BATCH)
    weights = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    for b, length in enumerate(np.asarray(BATCH["length"])):
        x = weights["embedding"]["embedding"][TOKENS[b, :length]]
        np.testing.assert_allclose(outputs.hidden["embedding"][b, :length], x, atol=1e-6)
        for i in range(2):
            x = numpy_lstm(weights[f"layer{i}"], x)
            np.testing.assert_allclose(outputs.hidden[f"block{i}"][b, :length], x, atol=1e-6)
            assert not np.any(outputs.hidden[f"block{i}"][b, length:])
        np.testing.assert_allclose(outputs.hidden["penultimate"][b], x[-1], atol=1e-6)
        logits = x[-1] @ weights["head"]["kernel"] + weights["head"]["bias"]
        np.testing.assert_allclose(outputs.logits[b], logits, atol=1e-6)


def plain_layer(inputs, recurrent, bias, x_TxBxD, keep_BxH):
    def step(carry, x):
        h, c = carry
        i, f, g, o = jnp.split(x @ inputs + (keep_BxH * h) @ recurrent + bias[None], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((x_TxBxD.shape[1], recurrent.shape[0]))
    return jax.lax.scan(step, (zeros, zeros), x_TxBxD)[1]


@pytest.fixture
def layer_inputs():
    """Input, recurrent weights, bias and x of an input of 5 and a state of 4; the mask; weights of the outputs."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    keep = jnp.asarray(rng.integers(0, 2, (3, 4)) * 2, jnp.float32)
    return (draw(5, 16), draw(4, 16), draw(16), draw(7, 3, 5)), keep, draw(7, 3, 4)


def test_hand_written_derivative_equals_autodiff(layer_inputs):
    arrays, keep, weights = layer_inputs
    loss = lambda layer: lambda *arrays: jnp.sum(weights * layer(*arrays, keep))  # noqa: E731
    for ours, plain in zip(
        jax.jit(jax.value_and_grad(loss(lstm_layer), (0, 1, 2, 3)))(*arrays),
        jax.jit(jax.value_and_grad(loss(plain_layer), (0, 1, 2, 3)))(*arrays),
        strict=True,
    ):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5, rtol=1e-5), ours, plain)
    np.testing.assert_allclose(lstm_layer(*arrays, keep), plain_layer(*arrays, keep), atol=1e-6)


def test_hessian_vector_product(layer_inputs):
    arrays, keep, weights = layer_inputs

    @functools.partial(jax.jit, static_argnums=0)
    def product(layer):
        gradient = jax.grad(lambda arrays: jnp.sum(weights * layer(*arrays, keep)))
        return jax.jvp(gradient, (arrays,), (arrays,))[1]

    compare = functools.partial(np.testing.assert_allclose, atol=5e-4, rtol=5e-4)
    jax.tree.map(compare, product(lstm_layer), product(plain_layer))


def test_products_over_rows_equal_the_plain_product():
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 3, 5), (5, 7)))
    loss = lambda product: lambda x, w: jnp.sum(jnp.sin(product(x, w)))  # noqa: E731
    np.testing.assert_allclose(over_rows(x, w), x @ w, atol=1e-6)
    ours, expected = (jax.jit(jax.grad(loss(f), (0, 1)))(x, w) for f in (over_rows, jnp.matmul))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, expected)
    assert over_rows(x[:0], w).shape == (0, 3, 7)


@pytest.mark.parametrize("preset", ["lstm_tiny", "transformer_tiny"])
@pytest.mark.parametrize("num_classes", [2, None])
def test_no_derivative_sums_over_two_axes_of_a_product(preset, num_classes):
    """XLA:CPU multiplies slowly there, and copies a factor: see `over_rows`."""
    if num_classes is None:
        preset = preset.replace("transformer", "transformer_seq")
    model = build(preset, vocab_size=VOCAB, num_classes=num_classes, max_length=L, layers=2)
    params = model.init(jax.random.key(0), BATCH)["params"]

    def loss(params):
        return model.apply(params, {}, BATCH, train=False, key=None)[0].logits.sum()

    text = jax.jit(jax.grad(loss)).lower(params).as_text()
    products = re.findall(r"contracting_dims = \[([^\]]*)\] x", text)
    assert len(products) > 5
    assert {dims for dims in products if "," in dims} == set()


def test_causal_by_gradients():
    model, params = lstm()

    def hidden(table, name, t):
        changed = {**params, "embedding": {"embedding": table}}
        return model.apply(changed, {}, BATCH, train=False, key=None)[0].hidden[name][0, t].sum()

    gradient = jax.jit(jax.grad(hidden), static_argnums=1)
    for t in (0, 4, 8):
        norm_L = np.abs(gradient(params["embedding"]["embedding"], "block1", t)[TOKENS[0]]).sum(-1)
        assert np.all(norm_L[: t + 1] > 0)
        assert np.all(norm_L[t + 1 :] == 0)


def test_training_draws_dropout_and_evaluation_does_not():
    model, params = lstm(input_dropout=0.2, dropout=0.3, recurrent_dropout=0.4)
    logits = lambda **options: run(model, params, BATCH, **options).logits  # noqa: E731
    first, second = jax.random.split(jax.random.key(3))
    assert np.array_equal(logits(train=True, key=first), logits(train=True, key=first))
    assert not np.allclose(logits(train=True, key=first), logits(train=True, key=second))
    assert np.array_equal(logits(key=first), logits(key=second))
    assert np.array_equal(logits(key=first), logits())
    undropped = run(lstm()[0], params, BATCH, train=True).logits
    np.testing.assert_allclose(logits(), undropped, atol=1e-6)


@pytest.mark.parametrize("num_classes", [2, None])
def test_hidden_values_are_those_before_dropout(num_classes):
    model = build("lstm_tiny", **SIZES | {"num_classes": num_classes}, layers=2, dropout=0.8)
    hidden = run(model, model.init(jax.random.key(0), BATCH)["params"], BATCH, train=True, key=jax.random.key(1)).hidden
    last = BATCH["length"] - 1
    top = hidden["block1"] if num_classes is None else hidden["block1"][jnp.arange(4), last]
    np.testing.assert_array_equal(hidden["penultimate"], top)
    assert np.all(top[0, 0] != 0) if num_classes is None else np.all(top != 0)


@pytest.mark.parametrize("only", ["input_dropout", "dropout", "recurrent_dropout"])
def test_each_rate_matters(only):
    model, params = lstm(**{only: 0.5})
    logits = [run(model, params, BATCH, train=True, key=jax.random.key(k)).logits for k in (0, 1)]
    one_word = 2  # a sequence of length 1 has no recurrent connection to drop
    assert not np.allclose(logits[0][0], logits[1][0])
    assert np.allclose(logits[0][one_word], logits[1][one_word]) == (only == "recurrent_dropout")


def test_a_language_model_drops_its_projection_too():
    sizes = SIZES | {"num_classes": None, "layers": 1, "embedding_size": 5, "hidden_size": 6}
    model = build("lstm_tiny", **sizes, dropout=0.5)
    params = model.init(jax.random.key(0), BATCH)["params"]
    logits_BxLxV = run(model, params, BATCH, train=True, key=jax.random.key(0)).logits
    real_BxL = np.arange(L) < np.asarray(BATCH["length"])[:, None]
    projected_ExN = np.linalg.lstsq(params["embedding"]["embedding"], logits_BxLxV[real_BxL].T, rcond=None)[0]
    assert 0.3 < (np.abs(projected_ExN) < 1e-5).mean() < 0.7  # what the tied output multiplied


def test_rate_zero_draws_nothing(monkeypatch):
    model, params = lstm()
    monkeypatch.setattr(kernels, "bernoulli", lambda *_: pytest.fail("drew random bits"))
    jax.eval_shape(lambda: model.apply(params, {}, BATCH, train=True, key=jax.random.key(0)))


def test_dropout_masks_are_held_over_time():
    x = jnp.ones((6, 3, 50))
    y = Dropout(0.5, shared=(0,)).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(y)) == {0.0, 2.0}
    assert np.all(y == y[:1])
    assert not np.all(y[0, 0] == y[0, 1])


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.9])
def test_bits_have_the_rate_and_no_correlation(probability):
    n = 1_000_000
    draw = jax.jit(lambda k: bernoulli(k, probability, (n,)))
    keys = [jax.random.key(0), jax.random.key(1), *jax.random.split(jax.random.key(0), 2)]
    x_RxN = np.stack([np.asarray(draw(k), np.float64) for k in keys])
    error = 5 / np.sqrt(n)  # five standard errors of a correlation
    np.testing.assert_allclose(x_RxN.mean(1), probability, atol=5 * np.sqrt(probability * (1 - probability) / n))
    centred = (x_RxN - probability) / np.sqrt(probability * (1 - probability))
    between_keys = centred @ centred.T / n
    assert np.abs(between_keys - np.diag(np.diag(between_keys))).max() < error
    for lag in (1, 2, 3, 32, 64, 1024, 2112, 65536):
        assert abs(np.mean(centred[0, lag:] * centred[0, :-lag])) < 1.1 * error
    rows = centred[0].reshape(1000, 1000)
    assert abs(rows.mean(0).var() * 1000 - 1) < 0.25
    assert abs(rows.mean(1).var() * 1000 - 1) < 0.25
