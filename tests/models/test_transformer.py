import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib.models import build, kernels
from kdib.models import transformer as transformer_module

L, LONGER = 9, 14
TOKENS = 3 + np.arange(4 * L, dtype=np.int32).reshape(4, L)  # all distinct: a row of the table is a position
LENGTH = np.array([9, 6, 1, 4], np.int32)
TOKENS = np.where(np.arange(L)[None, :] < LENGTH[:, None], TOKENS, 0)
BATCH = {"tokens": jnp.asarray(TOKENS), "length": jnp.asarray(LENGTH)}
SIZES = {"vocab_size": 40, "num_classes": 3, "max_length": LONGER, "layers": 2}
PRESETS = ("lstm_tiny", "transformer_tiny", "transformer_seq_tiny", "ut_seq_tiny")
TRANSFORMERS = PRESETS[1:]


@functools.cache
def parameters(preset):
    """Initial values with noise, so that attention is not flat and no bias is zero."""

    @jax.jit
    def draw(key):
        params = build(preset, **SIZES).init(key, BATCH)["params"]
        return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), params)

    return draw(jax.random.key(0))


def network(preset, **overrides):
    return build(preset, **SIZES, **overrides), parameters(preset)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def run(model, params, batch, *, train=False, key=None):
    return model.apply(params, {}, batch, train=train, key=key)[0]


def changed_content(length):
    rubbish = 3 + (TOKENS * 7 + np.arange(L)[None, :]) % 30
    return {**BATCH, "tokens": jnp.where(np.arange(L)[None, :] < length[:, None], TOKENS, rubbish)}


def more_padding(_):
    return {**BATCH, "tokens": jnp.pad(BATCH["tokens"], ((0, 0), (0, LONGER - L)))}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("disturb", [changed_content, more_padding])
def test_padding_changes_neither_outputs_nor_gradients(preset, disturb):
    model, params = network(preset)

    @jax.jit
    def backward(params, batch):
        def loss(params):
            outputs, _ = model.apply(params, {}, batch, train=True)
            return jnp.sum(jnp.sin(outputs.logits)), outputs

        return jax.grad(loss, has_aux=True)(params)

    (gradients, outputs), (other_gradients, other) = backward(params, BATCH), backward(params, disturb(LENGTH))
    np.testing.assert_allclose(outputs.logits, other.logits, atol=1e-5)
    for name, hidden in outputs.hidden.items():
        np.testing.assert_allclose(hidden, other.hidden[name][:, : hidden.shape[1]], atol=1e-5, err_msg=name)
        if hidden.ndim == 3:
            assert not np.any(hidden[np.arange(L)[None, :] >= LENGTH[:, None]])
            assert not np.any(other.hidden[name][:, L:])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=3e-5), gradients, other_gradients)
    assert not np.any(gradients["embedding"]["embedding"][0])
    assert np.any(gradients["embedding"]["embedding"][TOKENS[0]])


def word_gradients(preset, name, t):
    """How hidden `name` at position t of the first sequence (None: it has one position) moves with each word [L]."""
    model, params = network(preset)

    def hidden(table):
        changed = {**params, "embedding": {**params["embedding"], "embedding": table}}
        states = model.apply(changed, {}, BATCH, train=False, key=None)[0].hidden[name][0]
        return jnp.sum(jnp.sin(states if t is None else states[t]))

    return np.abs(jax.jit(jax.grad(hidden))(params["embedding"]["embedding"])[TOKENS[0]]).sum(-1)


@pytest.mark.parametrize("t", [0, 4, 8])
def test_causality_by_gradients(t):
    causal_L = word_gradients("transformer_seq_tiny", "block0", t)
    assert np.all(causal_L[: t + 1] > 0)
    assert np.all(causal_L[t + 1 :] == 0)
    assert np.all(word_gradients("transformer_tiny", "block0", t) > 0)  # the contrast: it sees both sides


@pytest.mark.parametrize("preset", TRANSFORMERS)
def test_what_is_read_sees_every_word(preset):
    assert np.all(word_gradients(preset, "penultimate", None) > 0)


@pytest.mark.parametrize("preset", ["transformer_tiny", "transformer_seq_tiny"])
def test_last_block_where_it_is_read_equals_the_whole_block(preset, monkeypatch):
    model, params = network(preset)

    def logits():
        return jax.jit(lambda: model.apply(params, {}, BATCH, train=False)[0].logits)()

    short = logits()
    position = LENGTH - 1 if preset == "transformer_seq_tiny" else np.zeros(4, int)
    monkeypatch.setattr(transformer_module, "read", lambda x, _: x)
    monkeypatch.setattr(transformer_module.Block, "__call__", whole_then_read(position))
    np.testing.assert_allclose(short, logits(), atol=1e-5)


def whole_then_read(position):
    """Every query of every block; the last block's answer is put first, where the network picks it up."""
    call = transformer_module.Block.__call__

    def block(self, query, context, visible, *, train):
        x = call(self, query, context, visible, train=train)
        return x if self.name == "block0" else x[np.arange(4), position][:, None]

    return block


def test_against_plain_numpy():
    model, params = network("transformer_seq_tiny")
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    b, length, heads = 1, 6, 2

    def norm(x, w):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * w["scale"] + w["bias"]

    linear = lambda x, w: x @ w["kernel"] + w["bias"]  # noqa: E731
    x = p["embedding"]["embedding"][TOKENS[b, :length]] + p["embedding"]["position"][:length]
    for i in range(2):
        w = p[f"block{i}"]
        a, y = w["attention"], norm(x, w["attention_norm"])
        mixed = []
        for head in range(heads):
            part = slice(8 * head, 8 * head + 8)
            q, k, v = (linear(y, a[name])[:, part] for name in ("query", "key", "value"))
            scores = np.where(np.tri(length, dtype=bool), np.exp(q @ k.T / np.sqrt(8)), 0)
            mixed.append(scores / scores.sum(-1, keepdims=True) @ v)
        x = x + linear(np.concatenate(mixed, -1), a["out"])
        y = linear(norm(x, w["mlp_norm"]), w["expand"])
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + linear(y, w["contract"])
    expected = linear(norm(x[-1], p["norm"]), p["head"])
    logits = run(model, params, BATCH).logits
    np.testing.assert_allclose(logits[b], expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("preset", TRANSFORMERS)
def test_rows_without_words_are_finite(preset):
    model, params = network(preset)
    batch = {"tokens": jnp.zeros((2, L), jnp.int32), "length": jnp.array([0, 0], jnp.int32)}
    loss = lambda p: jnp.sum(model.apply(p, {}, batch, train=False, key=None)[0].logits ** 2)  # noqa: E731
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))


@pytest.mark.parametrize("only", ["embedding_dropout", "dropout", "attention_dropout"])
def test_training_draws_every_dropout(only):
    model, params = network("transformer_tiny", **{only: 0.5})
    first, second = (run(model, params, BATCH, train=True, key=jax.random.key(k)).logits for k in (0, 1))
    assert np.array_equal(first, run(model, params, BATCH, train=True, key=jax.random.key(0)).logits)
    assert not np.allclose(first, second)


@pytest.mark.parametrize("preset", TRANSFORMERS)
def test_evaluation_ignores_the_key(preset):
    dropping, params = network(preset, embedding_dropout=0.5, dropout=0.5, attention_dropout=0.5)
    logits = run(dropping, params, BATCH, key=jax.random.key(0)).logits
    assert np.array_equal(logits, run(dropping, params, BATCH).logits)
    np.testing.assert_allclose(logits, run(network(preset)[0], params, BATCH, train=True).logits, atol=1e-5)


@pytest.mark.parametrize("preset", TRANSFORMERS)
def test_rate_zero_draws_nothing(preset, monkeypatch):
    model, params = network(preset)
    monkeypatch.setattr(kernels, "bernoulli", lambda *_: pytest.fail("drew random bits"))
    jax.eval_shape(lambda: model.apply(params, {}, BATCH, train=True))


def test_too_long_is_refused():
    model, params = network("transformer_tiny")
    batch = {**BATCH, "tokens": jnp.zeros((4, LONGER + 1), jnp.int32)}
    with pytest.raises(ValueError, match=f"max_length is {LONGER}, got tokens of length {LONGER + 1}"):
        model.apply(params, {}, batch, train=False, key=None)


def test_initial_values():
    params = build("transformer_small", **{**SIZES, "vocab_size": 500}).init(jax.random.key(0), BATCH)["params"]
    for leaf in (params["embedding"]["embedding"], params["block1"]["expand"]["kernel"]):
        assert abs(np.std(leaf) - 0.05) < 0.002
    assert not np.any(params["block0"]["attention"]["out"]["bias"])


def test_recursion_is_one_block_with_its_weights_repeated():
    universal, params = network("ut_seq_tiny")
    unrolled = build("transformer_seq_tiny", **SIZES)
    repeated = {name: value for name, value in params.items() if name != "block"}
    repeated |= {"block0": params["block"], "block1": params["block"]}
    one, two = run(universal, params, BATCH), run(unrolled, repeated, BATCH)
    np.testing.assert_allclose(one.logits, two.logits, atol=1e-6)
    np.testing.assert_allclose(one.hidden["block0"], two.hidden["block0"], atol=1e-6)


# ---------------------------------------------------------------------------------------------- language models

LANGUAGE = ("lstm_tiny", "transformer_seq_tiny", "ut_seq_tiny")


def language_model(preset):
    model = build(preset, **{**SIZES, "num_classes": None})
    return model, jax.jit(model.init)(jax.random.key(0), BATCH)["params"]


@pytest.mark.parametrize("preset", LANGUAGE)
def test_a_language_model_predicts_from_what_came_before(preset):
    model, params = language_model(preset)

    def logits_at(embedding, t):
        changed = {**params, "embedding": {**params["embedding"], "embedding": embedding}}
        outputs = model.apply(changed, {}, BATCH, train=False)[0]
        return jnp.sin(outputs.hidden["penultimate"][0, t]).sum()

    word_gradients = jax.jit(jax.jacrev(lambda e: jnp.stack([logits_at(e, t) for t in range(L)])))
    gradient_TxVxD = word_gradients(params["embedding"]["embedding"])
    touched_TxL = np.abs(np.asarray(gradient_TxVxD)[:, TOKENS[0]]).sum(-1) > 1e-9
    np.testing.assert_array_equal(touched_TxL, np.tril(np.ones((L, L), bool)))


@pytest.mark.parametrize("preset", LANGUAGE)
def test_a_language_models_output_is_tied_and_ignores_padding(preset):
    model, params = language_model(preset)
    outputs = run(model, params, BATCH)
    state_BxLxD = np.asarray(outputs.hidden["penultimate"])
    if preset == "lstm_tiny":
        projection = jax.tree.map(np.asarray, params["projection"])
        state_BxLxD = state_BxLxD @ projection["kernel"] + projection["bias"]
    np.testing.assert_allclose(outputs.logits, state_BxLxD @ np.asarray(params["embedding"]["embedding"]).T, atol=1e-5)
    assert outputs.logits.shape == (4, L, SIZES["vocab_size"])
    real_BxL = np.arange(L) < LENGTH[:, None]
    longer = run(model, params, more_padding(None)).logits[:, :L]
    rubbish = run(model, params, changed_content(LENGTH)).logits
    for other in (longer, rubbish):
        np.testing.assert_allclose(np.asarray(outputs.logits)[real_BxL], np.asarray(other)[real_BxL], atol=1e-5)
