"""The convolution kernel against XLA's own, where that is right, and where training uses it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kdib.losses import from_config
from kdib.models import build, convnet
from kdib.models.base import nothing
from kdib.models.convolution import convolve
from kdib.optimizer import make_optimizer
from kdib.population import Population, draw_order, healthy, train_chunk
from kdib.step import Architecture, init_state


def by_xla(x, w, stride=1, pad=0):
    padding, axes = ((pad, pad), (pad, pad)), ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=axes)


def circular(convolution):
    def wrapped(x, w, stride=1, pad=0):
        around = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="wrap")
        return convolution(around, w, stride, 0)

    return wrapped


def drawn(x_shape, w_shape, runs=()):
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.normal(size=(*runs, *shape)), jnp.float32)  # noqa: E731
    return draw(x_shape), 0.2 * draw(w_shape)  # so that sines are of numbers that float32 holds well


SHAPES = {  # picture, filter, stride, pad
    "one channel": ((2, 6, 6, 1), (3, 3, 1, 4), 1, 1),
    "five channels": ((2, 6, 6, 5), (3, 3, 5, 4), 1, 1),
    "odd and uneven": ((2, 7, 5, 3), (3, 3, 3, 2), 1, 1),
    "no padding": ((2, 5, 7, 6), (3, 3, 6, 2), 1, 0),
    "stride, even": ((2, 8, 6, 5), (3, 3, 5, 4), 2, 1),
    "stride, odd": ((2, 7, 5, 6), (3, 3, 6, 3), 2, 1),
    "stride, one channel": ((2, 7, 6, 1), (3, 3, 1, 3), 2, 1),
    "1x1 with stride": ((2, 7, 6, 5), (1, 1, 5, 4), 2, 0),
    "filter as large as the picture": ((2, 3, 3, 5), (3, 3, 5, 2), 1, 0),
    "padding beyond the filter": ((1, 4, 4, 5), (3, 3, 5, 2), 1, 3),
    "uneven filter": ((2, 6, 7, 5), (2, 5, 5, 3), 1, 1),
}


def value_and_gradients(convolution, x, w, stride, pad):
    def loss(x, w):
        y = convolution(x, w, stride, pad)
        return jnp.sum(jnp.sin(y)), y

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, w)


@pytest.mark.parametrize("wrap", [lambda f: f, circular], ids=["zero", "circular"])
@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients_equal_xla(name, wrap):
    x_shape, w_shape, stride, pad = SHAPES[name]
    x, w = drawn(x_shape, w_shape)
    ours, theirs = (value_and_gradients(wrap(f), x, w, stride, pad) for f in (convolve, by_xla))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours, theirs)
    assert ours[1].shape == theirs[1].shape
    only_asked = jax.jit(wrap(convolve), static_argnums=(2, 3))(x, w, stride, pad)  # not differentiated: another form
    np.testing.assert_allclose(only_asked, ours[1], atol=2e-5)


@pytest.mark.parametrize(("axes", "by_xla_itself"), [((0, None), True), ((None, 0), False), ((0, 0), False)])
def test_each_run_of_a_vmap_is_asked_as_alone(axes, by_xla_itself):
    pictures, filters = drawn((2, 6, 5, 5), (3, 3, 5, 4), runs=(3,))
    x, w = (a if axis == 0 else a[0] for a, axis in zip((pictures, filters), axes, strict=True))
    asked = jax.jit(jax.vmap(lambda x, w: convolve(x, w, 2, 1), axes))
    at = lambda a, axis, run: a if axis is None else a[run]  # noqa: E731
    alone = [by_xla(at(x, axes[0], run), at(w, axes[1], run), 2, 1) for run in range(3)]
    np.testing.assert_allclose(asked(x, w), jnp.stack(alone), atol=2e-5)
    # Filters of each run's own would make it a grouped convolution, which XLA:CPU is slow at.
    assert ("stablehlo.convolution" in asked.lower(x, w).as_text()) == by_xla_itself


def test_inside_a_loop_and_under_vmap():
    x, w = drawn((2, 6, 5, 5), (3, 3, 5, 5), runs=(3,))

    def train(convolution, x, w):
        gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(convolution(x, w, 1, 1))), (0, 1))

        def step(_, carry):
            return jax.tree.map(lambda value, g: value - 0.01 * g, carry, gradient(*carry))

        return lax.fori_loop(0, 3, step, (x, w))

    ours = jax.jit(jax.vmap(functools.partial(train, convolve)))(x, w)
    for run in range(3):
        theirs = jax.jit(functools.partial(train, by_xla))(x[run], w[run])
        jax.tree.map(lambda a, b, run=run: np.testing.assert_allclose(a[run], b, atol=2e-5), ours, theirs)


def test_hessian_vector_product():
    x, w = drawn((2, 5, 4, 5), (3, 3, 5, 2))

    @functools.partial(jax.jit, static_argnums=0)
    def product(convolution):
        gradient = jax.grad(lambda pair: jnp.sum(jnp.sin(convolution(*pair, 2, 1))))
        return jax.jvp(gradient, ((x, w),), ((x, w),))[1]

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), product(convolve), product(by_xla))


# --- The fast path ---------------------------------------------------------------------------------------------


def program(preset, steps, size=8, **fields):
    """What JAX hands to XLA for `train_chunk` on a small batch of pictures; `steps` makes it a program of its own."""
    data = {"image": jnp.zeros((8, size, size, 1), jnp.uint8), "label": jnp.zeros(8, jnp.int32), "id": jnp.arange(8)}
    schedule = {"name": "constant"}
    tx = make_optimizer("sgd", steps=steps, warmup_steps=0, schedule=schedule, weight_decay=0.0, clip_norm=1.0)
    arch = Architecture(build(preset, num_classes=3, image_shape=(size, size, 1), **fields), nothing(), (), tx)
    start = lambda key: init_state(key, key, data, {"params": {}}, arch=arch)  # noqa: E731
    one = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), tree)  # noqa: E731
    population = Population(one(jax.eval_shape(start, jax.random.key(0))), jax.eval_shape(lambda: healthy(1)))
    loss, step = one(from_config({"ce": {"fn": "cross_entropy", "weight": 1.0}})), jnp.int32(0)
    order = jax.eval_shape(functools.partial(draw_order, batch_size=4), population.state.key, step, data)
    return train_chunk.lower(population, {"params": {}}, loss, data, order, step, step + 1, arch=arch).as_text()


@pytest.mark.parametrize(
    ("preset", "size", "fields"),
    [
        ("cnn_tiny", 8, {}),
        ("cnn_tiny", 8, {"padding": "circular", "downsampling": "pool"}),
        ("cnn_abnar", 16, {"channels": (8, 8, 8), "units": (4, 8, 2)}),
        ("resnet_8", 8, {}),
    ],
)
def test_a_training_loop_has_no_convolution_for_xla_to_be_slow_at(preset, size, fields):
    text = program(preset, 9, size, **fields)
    assert "stablehlo.while" in text and "stablehlo.dot_general" in text
    assert "convolution" not in text


def test_the_check_sees_a_convolution(monkeypatch):
    monkeypatch.setattr(convnet, "convolve", by_xla)
    assert program("cnn_tiny", steps=10).count("stablehlo.convolution") == 5  # not by the first picture
