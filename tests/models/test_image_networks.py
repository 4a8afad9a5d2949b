"""The networks on pictures: what they compute, what must not matter to them, and training against evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kdib.models import PRESETS, build, kernels
from kdib.models.convnet import max_pool, maxout
from kdib.models.presets import reads

SHAPE = (8, 8, 1)
SMALL = {  # a size of every network that compiles quickly
    "mlp": ("mlp_tiny", {"widths": (6, 5)}),
    "mlp with norm": ("mlp_abnar", {"widths": (6, 5)}),
    "cnn": ("cnn_tiny", {"downsampling": "none"}),
    "cnn, pool": ("cnn_tiny", {"downsampling": "pool"}),
    "cnn, stride": ("cnn_tiny", {}),
    "maxout": ("cnn_abnar", {"channels": (8, 6), "units": (8, 3), "pool": (1, 2)}),
    "resnet": ("resnet_8", {"channels": (5, 6)}),
}
NORMED = [name for name in SMALL if name != "mlp"]


def images(n, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


@functools.cache
def network(name, **overrides):
    """The model, and its variables with noise, so that no bias is zero and no statistic what it starts from."""
    preset, changes = SMALL[name]
    model = build(preset, num_classes=3, image_shape=SHAPE, **{**changes, **overrides})

    @jax.jit
    def noisy(key):
        variables = model.init(key, {"image": images(2)})
        draw = lambda x: x + 0.2 * jnp.abs(jax.random.normal(jax.random.key(x.size), x.shape))  # noqa: E731
        return jax.tree.map(draw, variables)

    variables = noisy(jax.random.key(0))
    return model, variables.pop("params"), variables


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def run(model, params, state, image, *, train=False, key=None):
    return model.apply(params, state, {"image": image}, train=train, key=key)


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def normed(layer, statistics, x):
    return (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * layer["scale"] + layer["bias"]


def convolved(layer, x, stride=1, pad=1):
    """One output at a time, as in the textbook."""
    kernel = layer["kernel"]
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((len(x), rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            y[:, i, j] = np.einsum("nijc,ijck->nk", patch, kernel)
    return y + layer.get("bias", 0)


def pooled(x):
    n, height, width, channels = x.shape
    y = np.zeros((n, height // 2, width // 2, channels))
    for i in range(height // 2):
        for j in range(width // 2):
            y[:, i, j] = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2))
    return y


def relu(x):
    return np.maximum(x, 0)


def by_hand_mlp(params, statistics, x, *, norm):
    hidden, x = {}, x.reshape(len(x), -1)
    for i in (1, 2):
        x = relu(dense(params[f"layer{i}"], x))
        if norm:
            x = normed(params[f"norm{i}"], statistics[f"norm{i}"], x)
        hidden[f"hidden{i}"] = x
    return {**hidden, "penultimate": x}


def by_hand_cnn(params, statistics, x, *, downsampling):
    hidden = {}
    for i in (1, 2):
        x = convolved(params[f"conv{i}"], x, 2 if downsampling == "stride" and i == 2 else 1)
        x = relu(normed(params[f"norm{i}"], statistics[f"norm{i}"], x))
        hidden[f"conv{i}"] = x
        x = pooled(x) if downsampling == "pool" and i == 1 else x
    return {**hidden, "pool": x.mean((1, 2)), "penultimate": x.mean((1, 2))}


def by_hand_maxout(params, statistics, x):
    hidden = {}
    for i, group in ((1, 1), (2, 2)):
        x = convolved(params[f"conv{i}"], x, pad=0)
        units = x.shape[-1] // group
        x = np.stack([x[..., unit::units].max(-1) for unit in range(units)], -1)
        x = hidden[f"conv{i}"] = relu(normed(params[f"norm{i}"], statistics[f"norm{i}"], x))
        x = pooled(x) if i == 2 else x
    return {**hidden, "pool": x.mean((1, 2)), "penultimate": x.mean((1, 2))}


def by_hand_resnet(params, statistics, x):
    def layer(params, statistics, name, norm, x, stride=1, pad=1):
        return normed(params[norm], statistics[norm], convolved(params[name], x, stride, pad))

    x = relu(layer(params, statistics, "stem", "stem_norm", x))
    hidden = {"stem": x}
    for name, stride in (("block1", 1), ("block2", 2)):
        own = params[name], statistics[name]
        y = relu(layer(*own, "conv1", "norm1", x, stride))
        y = layer(*own, "conv2", "norm2", y)
        x = hidden[name] = relu(y + (layer(*own, "shortcut", "shortcut_norm", x, 2, 0) if stride == 2 else x))
    return {**hidden, "pool": x.mean((1, 2)), "penultimate": x.mean((1, 2))}


BY_HAND = {
    "mlp": functools.partial(by_hand_mlp, norm=False),
    "mlp with norm": functools.partial(by_hand_mlp, norm=True),
    "cnn": functools.partial(by_hand_cnn, downsampling="none"),
    "cnn, pool": functools.partial(by_hand_cnn, downsampling="pool"),
    "cnn, stride": functools.partial(by_hand_cnn, downsampling="stride"),
    "maxout": by_hand_maxout,
    "resnet": by_hand_resnet,
}


@pytest.mark.parametrize("name", SMALL)
def test_evaluation_equals_plain_numpy(name):
    model, params, state = network(name)
    outputs, after = run(model, params, state, images(3))
    jax.tree.map(np.testing.assert_array_equal, after, state)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, state.get("batch_stats", {})))
    hidden = BY_HAND[name](*exact, images(3) / 255)
    assert set(outputs.hidden) == set(hidden)
    for key, value in hidden.items():
        np.testing.assert_allclose(outputs.hidden[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
    np.testing.assert_allclose(outputs.logits, dense(exact[0]["head"], hidden["penultimate"]), rtol=1e-4, atol=1e-5)
    assert outputs.logits.dtype == jnp.float32


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if reads(preset) == "images"])
def test_shapes_of_presets(preset):
    model = build(preset, num_classes=10, image_shape=(28, 28, 1))
    batch = {"image": jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.uint8)}
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    assert set(variables) <= {"params", "batch_stats"}
    state = {name: leaves for name, leaves in variables.items() if name != "params"}
    outputs, _ = jax.eval_shape(lambda p, s, b: model.apply(p, s, b, train=False), variables["params"], state, batch)
    shapes = {name: leaf.shape[1:] for name, leaf in outputs.hidden.items()}
    assert outputs.logits.shape == (2, 10)
    expected = {
        "cnn_1": {"conv1": (28, 28, 32), "conv4": (28, 28, 256), "pool": (256,)},
        "cnn_small": {"conv1": (28, 28, 16), "conv2": (14, 14, 32), "conv3": (7, 7, 64), "penultimate": (64,)},
        "cnn_abnar": {"conv1": (26, 26, 128), "conv2": (24, 24, 64), "conv3": (10, 10, 16), "penultimate": (16,)},
        "resnet_20": {"stem": (28, 28, 16), "block3": (28, 28, 16), "block4": (14, 14, 32), "block9": (7, 7, 64)},
        "mlp_1": {"hidden1": (2000,), "hidden3": (100,), "penultimate": (100,)},
    }
    assert {name: shapes[name] for name in expected.get(preset, {})} == expected.get(preset, {})


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_bytes_and_fractions_are_the_same_picture(name):
    model, params, state = network(name)
    bytes_ = run(model, params, state, images(3))[0].logits
    fractions = run(model, params, state, images(3).astype(np.float32) / 255)[0].logits
    np.testing.assert_allclose(bytes_, fractions, rtol=1e-5)


@pytest.mark.parametrize("image", [images(2).astype(np.int32), images(2, (8, 8, 3)), images(2, (9, 8, 1))])
def test_other_pictures_are_refused(image):
    model, params, state = network("cnn")
    with pytest.raises(ValueError, match=r"image_shape=\(8, 8, 1\), got|uint8 .* int32"):
        run(model, params, state, image)


# --- What must not matter, and what must ------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [(1, 0), (0, -3), (5, 2)])
def test_circular_padding_without_downsampling_is_invariant_to_circular_shifts(shift):
    model, params, state = network("cnn", padding="circular")
    here, there = images(3), np.roll(images(3), shift, (1, 2))
    one, other = (run(model, params, state, image)[0] for image in (here, there))
    np.testing.assert_allclose(one.logits, other.logits, rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(np.roll(one.hidden["conv2"], shift, (1, 2)), other.hidden["conv2"], rtol=1e-6, atol=2e-6)
    model, params, state = network("cnn")
    assert not np.allclose(*(run(model, params, state, image)[0].logits for image in (here, there)), atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_in_evaluation_the_other_pictures_do_not_matter_and_in_training_norm_mixes_them(name):
    model, params, state = network(name, **({} if name == "resnet" else {"dropout": 0.0}))
    both, first = images(4), np.concatenate([images(2), images(2, seed=1)])
    rows = [run(model, params, state, image)[0].logits[:2] for image in (both, first)]
    np.testing.assert_allclose(*rows, atol=1e-6)
    rows = [run(model, params, state, image, train=True)[0].logits[:2] for image in (both, first)]
    assert np.allclose(*rows, atol=1e-6) == (name not in NORMED)


@pytest.mark.parametrize("name", NORMED)
def test_training_moves_the_running_statistics_by_a_tenth(name):
    model, params, state = network(name)
    _, after = run(model, params, state, images(16), train=True, key=jax.random.key(0))
    before, after = state["batch_stats"], after["batch_stats"]
    assert jax.tree.structure(before) == jax.tree.structure(after)
    x = images(16) / 255
    if name.startswith("cnn"):
        x = convolved(jax.tree.map(np.asarray, params["conv1"]), x)
    elif name == "maxout":
        x = convolved(jax.tree.map(np.asarray, params["conv1"]), x, pad=0)
    elif name == "resnet":
        x = convolved(jax.tree.map(np.asarray, params["stem"]), x)
    else:
        x = relu(dense(jax.tree.map(np.asarray, params["layer1"]), x.reshape(16, -1)))
    norm, axes = "stem_norm" if name == "resnet" else "norm1", tuple(range(x.ndim - 1))
    for statistic, value in (("mean", x.mean(axes)), ("var", x.var(axes))):
        expected = 0.9 * np.asarray(before[norm][statistic]) + 0.1 * value
        np.testing.assert_allclose(after[norm][statistic], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn", "maxout"])
def test_dropout_is_drawn_in_training_only(name):
    model, params, state = network(name, dropout=0.5)
    logits = lambda **options: run(model, params, state, images(4), **options)[0].logits  # noqa: E731
    first, second = jax.random.split(jax.random.key(3))
    assert np.array_equal(logits(train=True, key=first), logits(train=True, key=first))
    assert not np.allclose(logits(train=True, key=first), logits(train=True, key=second))
    assert np.array_equal(logits(key=first), logits())


@pytest.mark.parametrize(("name", "last"), [("mlp", "hidden1"), ("cnn", "pool")])
def test_what_a_loss_may_match_is_before_dropout(name, last):
    model, params, state = network(name, dropout=0.5)
    dropped = run(model, params, state, images(4), train=True, key=jax.random.key(0))[0].hidden
    whole = run(model, params, state, images(4), train=True, key=jax.random.key(1))[0].hidden
    np.testing.assert_array_equal(dropped[last], whole[last])  # nothing was dropped up to here
    last_of_all = {"mlp": "hidden2", "cnn": "pool"}[name]
    np.testing.assert_array_equal(dropped["penultimate"], dropped[last_of_all])


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_rate_zero_draws_nothing(name, monkeypatch):
    model, params, state = network(name)
    monkeypatch.setattr(kernels, "bernoulli", lambda *_: pytest.fail("drew random bits"))
    batch = {"image": images(2)}
    jax.eval_shape(lambda: model.apply(params, state, batch, train=True, key=jax.random.key(0)))


@pytest.mark.parametrize(("preset", "image_shape"), [("cnn_abnar", (8, 8, 1)), ("cnn_1", (4, 4, 1))])
def test_too_small_pictures_are_refused(preset, image_shape):
    changes = {"downsampling": "pool"} if preset == "cnn_1" else {}
    model = build(preset, num_classes=10, image_shape=image_shape, **changes)
    with pytest.raises(ValueError, match=r"images of \d x \d are too small for"):
        jax.eval_shape(model.init, jax.random.key(0), {"image": images(1, image_shape)})


# --- Pieces -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (2, 7, 5, 1)])
def test_max_pool_equals_reduce_window(shape):
    x = jnp.asarray(np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape), jnp.float32)
    window = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")  # noqa: E731
    np.testing.assert_array_equal(max_pool(x, 2), window(x))
    ours, theirs = (jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(x) for f in (lambda x: max_pool(x, 2), window))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    forward = jax.jvp(lambda x: max_pool(x, 2), (x,), (jnp.sin(x),))  # what is differentiated is another form
    np.testing.assert_allclose(forward[0], window(x))
    np.testing.assert_allclose(forward[1].sum(), (jnp.sin(window(x))).sum(), rtol=1e-5)


def test_equal_largest_values_share_the_gradient_of_pooling():
    x = jnp.array([[1.0, 3.0], [3.0, 3.0]])[None, :, :, None]
    gradient = jax.grad(lambda x: 8 * max_pool(x, 2).sum())(x)[0, :, :, 0]
    assert gradient.tolist() == [[0, 2], [2, 4]]


def test_maxout_takes_the_largest_of_every_unit():
    assert maxout(jnp.array([[1.0, 5.0, -2.0, -3.0, 0.0, 7.0]]), 3).tolist() == [[1.0, 5.0, 7.0]]
    assert maxout(jnp.array([[1.0, 5.0, -2.0, -3.0, 0.0, 7.0]]), 2).tolist() == [[1.0, 7.0]]


@pytest.mark.parametrize("name", ["mlp with norm", "cnn, stride"])
def test_stacked_runs_train_inside_a_loop_as_each_alone(name):
    model, _, _ = network(name)
    keys = jax.random.split(jax.random.key(1), 2)
    batch = {"image": jnp.asarray(images(4))}
    variables = jax.jit(jax.vmap(lambda key: model.init(key, batch)))(keys)

    def train(variables, key):
        def loss(params, state, key):
            outputs, state = model.apply(params, state, batch, train=True, key=key)
            return jnp.mean(outputs.logits**2), state

        def step(n, variables):
            state = {name: value for name, value in variables.items() if name != "params"}
            grads, state = jax.grad(loss, has_aux=True)(variables["params"], state, jax.random.fold_in(key, n))
            return {"params": jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], grads), **state}

        return lax.fori_loop(0, 3, step, variables)

    together = jax.jit(jax.vmap(train))(variables, keys)
    alone = jax.jit(train)(jax.tree.map(lambda leaf: leaf[1], variables), keys[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, atol=2e-5), together, alone)
    assert not np.allclose(alone["params"]["head"]["kernel"], variables["params"]["head"]["kernel"][1], atol=1e-5)
