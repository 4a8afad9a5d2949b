"""A small network of every family whose units may be permuted, and what it answers."""

import functools

import jax
import numpy as np

from kdib.models import build
from kdib.properties.basins import permutations

TOKENS = np.random.default_rng(0).integers(0, 7, (6, 5)).astype(np.int32)
TEXT = {"tokens": TOKENS, "length": np.array([5, 3, 1, 4, 5, 2], np.int32)}
PICTURES = {"image": np.random.default_rng(1).integers(0, 256, (12, 6, 6, 1)).astype(np.uint8)}
WORDS = {"vocab_size": 7, "max_length": 6, "num_classes": 3}
IMAGES = {"image_shape": (6, 6, 1), "num_classes": 3}
HEADS = 4

NETWORKS = {
    "mlp": ("mlp_tiny", {**IMAGES, "widths": (9, 7, 8)}),
    "mlp, norm": ("mlp_abnar", {**IMAGES, "widths": (9, 7)}),
    "cnn": ("cnn_tiny", {**IMAGES, "channels": (6, 7)}),
    "resnet": ("resnet_8", {**IMAGES, "channels": (5, 6), "blocks": 2}),
    "lstm": ("lstm_tiny", {**WORDS, "hidden_size": 6, "embedding_size": 5, "layers": 2}),
    "lstm, language": ("lstm_tiny", {**WORDS, "hidden_size": 6, "embedding_size": 5, "num_classes": None}),
    "transformer": ("transformer_tiny", {**WORDS, "width": 8, "heads": HEADS, "layers": 2}),
    "transformer, causal": ("transformer_seq_tiny", {**WORDS, "width": 8, "heads": HEADS, "layers": 2}),
    "transformer, language": ("transformer_seq_tiny", {**WORDS, "width": 8, "heads": HEADS, "num_classes": None}),
    "universal": ("ut_seq_tiny", {**WORDS, "width": 8, "heads": HEADS}),
}
FAMILIES = ("mlp", "cnn", "resnet", "lstm", "transformer")


def model_of(name):
    preset, sizes = NETWORKS[name]
    return build(preset, **sizes)


def inputs(name):
    return PICTURES if "image_shape" in NETWORKS[name][1] else TEXT


@functools.cache
def network(name, seed=0):
    """Random variables: no bias is zero, no attention flat, no statistic what it starts from."""
    return drawn(model_of(name), inputs(name), seed)


def drawn(model, batch, seed):
    """Variables of a model, without compiling what makes initial values."""
    rng = np.random.default_rng(seed)

    def draw(x):
        noise = rng.normal(size=x.shape)
        noise = noise * (2 / np.prod(x.shape[:-1])) ** 0.5 if len(x.shape) > 1 else 0.5 + 0.3 * np.abs(noise)
        return noise.astype(np.float32)

    return jax.tree.map(draw, jax.eval_shape(model.init, jax.random.key(0), batch))


def noisy(variables, scale, seed):
    """With noise of `scale` times the spread of each leaf."""
    rng = np.random.default_rng([1000, seed])
    return jax.tree.map(lambda x: x + scale * x.std() * rng.normal(size=x.shape).astype(np.float32), variables)


def spec(name):
    return permutations.spec_of(network(name), heads=HEADS)


@functools.partial(jax.jit, static_argnums=0)
def outputs(name, variables):
    state = {collection: value for collection, value in variables.items() if collection != "params"}
    return model_of(name).apply(variables["params"], state, inputs(name), train=False)[0]


def planted(name, seed=0):
    """A permuted network, and the permutation that takes it back."""
    permutation = permutations.random(spec(name), network(name), jax.random.key(seed))
    return permutations.apply(spec(name), permutation, network(name)), permutations.inverse(permutation)


def assert_same(found, expected):
    assert set(found) == set(expected)
    for group, order in expected.items():
        np.testing.assert_array_equal(found[group], order, err_msg=group)


def tiny(preset, seed, **sizes):
    image = {"image": np.zeros((1, 2, 2, 1), np.uint8)}
    text = {"tokens": np.zeros((1, 4), np.int32), "length": np.ones(1, np.int32)}
    return drawn(build(preset, num_classes=2, **sizes), image if "image_shape" in sizes else text, seed)
