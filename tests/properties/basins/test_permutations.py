"""kdib.properties.basins.permutations: the function stays, the parameters move, and what is not covered is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from permutable import HEADS, NETWORKS, PICTURES, TEXT, network, outputs, spec

from kdib.models import build
from kdib.properties.basins import permutations

SEEDS = st.integers(0, 2**31 - 1)


def ordered(name, seed=0):
    return permutations.random(spec(name), network(name), jax.random.key(seed))


def same(p, q):
    return set(p) == set(q) and all(np.array_equal(p[group], q[group]) for group in p)


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_the_function_stays_and_the_parameters_move(name, seed):
    permutation = ordered(name, seed)
    moved = permutations.apply(spec(name), permutation, network(name))
    before, after = (outputs(name, variables).logits for variables in (network(name), moved))
    assert np.ptp(before) > 0.1
    np.testing.assert_allclose(after, before, atol=1e-5)
    now, axes = permutations.leaves(moved), spec(name).axes
    for path, leaf in permutations.leaves(network(name)).items():
        groups = {axis.group for axis in axes[path] if axis}
        moves = any(not np.array_equal(permutation[group], np.arange(len(permutation[group]))) for group in groups)
        assert np.array_equal(leaf, now[path]) != moves, path


@pytest.mark.parametrize("name", NETWORKS)
def test_a_leaf_left_behind_changes_the_function(name):
    """So the test above would see it. A key's bias adds the same to all scores of a query, which softmax drops."""
    moved = permutations.apply(spec(name), ordered(name), network(name))
    old, now = (permutations.leaves(variables) for variables in (network(name), moved))
    tree, before = jax.tree.structure(moved), outputs(name, network(name)).logits
    for path in now:
        if any(spec(name).axes[path]) and not path.endswith("key/bias"):
            torn = jax.tree.unflatten(tree, [old[p] if p == path else leaf for p, leaf in now.items()])
            assert np.abs(outputs(name, torn).logits - before).max() > 1e-4, path


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("mlp", {"hidden1": 9, "hidden2": 7, "hidden3": 8}),
        ("cnn", {"conv1": 6, "conv2": 7}),
        ("resnet", {"stem": 5, "block3": 6, **{f"block{i}/inner": 5 + (i > 2) for i in (1, 2, 3, 4)}}),
        ("lstm", {"block0": 6, "block1": 6}),
        (
            "transformer",
            {"block0/attention/heads": 4, "block0/units": 32, "block1/attention/heads": 4, "block1/units": 32},
        ),
        ("universal", {"block/attention/heads": 4, "block/units": 32}),
    ],
)
def test_the_groups(name, sizes):
    assert permutations.sizes(spec(name), network(name)) == sizes


def test_four_gates_alike():
    name, order = "lstm", np.array([2, 0, 1, 5, 4, 3])
    permutation = {**permutations.identity(spec(name), network(name)), "block0": order}
    moved, old = permutations.apply(spec(name), permutation, network(name))["params"], network(name)["params"]
    expected = old["layer0"]["recurrent"].reshape(6, 4, 6)[order][:, :, order].reshape(6, 24)
    np.testing.assert_array_equal(moved["layer0"]["recurrent"], expected)
    np.testing.assert_array_equal(moved["layer1"]["input"], old["layer1"]["input"][order])
    np.testing.assert_array_equal(moved["layer1"]["recurrent"], old["layer1"]["recurrent"])


def test_whole_heads():
    name, order = "transformer", np.array([2, 0, 1, 3])
    permutation = {**permutations.identity(spec(name), network(name)), "block1/attention/heads": order}
    moved, old = (v["params"]["block1"]["attention"] for v in (_applied(name, permutation), network(name)))
    columns = [4, 5, 0, 1, 2, 3, 6, 7]  # two directions a head
    for part in ("query", "key", "value"):
        np.testing.assert_array_equal(moved[part]["kernel"], old[part]["kernel"][:, columns])
    np.testing.assert_array_equal(moved["out"]["kernel"], old["out"]["kernel"][columns])
    np.testing.assert_array_equal(moved["out"]["bias"], old["out"]["bias"])


def _applied(name, permutation):
    return permutations.apply(spec(name), permutation, network(name))


@settings(max_examples=10, deadline=None)
@given(first=SEEDS, second=SEEDS)
def test_the_laws_of_a_group(first, second):
    name = "resnet"
    p, q, one = ordered(name, first), ordered(name, second), permutations.identity(spec(name), network(name))
    assert same(permutations.compose(permutations.inverse(p), p), one)
    assert same(permutations.compose(p, one), p) and same(permutations.compose(one, p), p)
    twice = permutations.apply(spec(name), q, _applied(name, p))
    jax.tree.map(np.testing.assert_array_equal, _applied(name, permutations.compose(q, p)), twice)
    back = permutations.apply(spec(name), permutations.inverse(p), _applied(name, p))
    jax.tree.map(np.testing.assert_array_equal, back, network(name))


def test_random_orders_differ_by_group_and_key():
    first, second = ordered("lstm", 1), ordered("lstm", 2)
    assert not np.array_equal(first["block0"], first["block1"]) and not same(first, second)
    assert same(first, ordered("lstm", 1))


def test_traced_and_stacked_arrays_are_permuted_as_numpy_is():
    name, permutation = "cnn", ordered("cnn")
    stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), network(name))
    moved = jax.jit(jax.vmap(lambda variables: permutations.apply(spec(name), permutation, variables)))(stacked)
    plain = _applied(name, permutation)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], 2 * b, rtol=1e-6), moved, plain)


# --- What is refused --------------------------------------------------------------------------------------------


def shapes(preset, batch, **sizes):
    return jax.eval_shape(build(preset, **sizes).init, jax.random.key(0), batch)


def test_maxout_is_refused():
    sizes = {"image_shape": (6, 6, 1), "num_classes": 3, "channels": (6, 4), "units": (6, 2), "pool": (1, 1)}
    with pytest.raises(ValueError, match=r"norm2/\w+ has 2 .* conv2|conv2/\w+ has 4 .* as by maxout, are not covered"):
        permutations.spec_of(shapes("cnn_abnar", PICTURES, **sizes))


@pytest.mark.parametrize("heads", [None, 0, 3])
def test_the_heads_of_a_transformer_must_be_told(heads):
    with pytest.raises(ValueError, match=rf"a divisor of the Transformer's width 8, got heads={heads}"):
        permutations.spec_of(network("transformer"), heads=heads)


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"layer1": {"kernel": np.ones((2, 3)), "gain": np.ones(3)}}, "mlp has no leaf params/layer1/gain"),
        ({"head": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}}, "it has no hidden layers"),
        (({"params": {}}, np.ones(3)), r"\w+ has no leaf params/1"),
    ],
)
def test_unknown_networks_are_refused(params, found):
    with pytest.raises(ValueError, match=rf"{found}; known: mlp, cnn, resnet, lstm, transformer"):
        permutations.spec_of({"params": params})


def test_another_network_is_refused():
    with pytest.raises(ValueError, match=r"is no leaf of this lstm: make the spec of this network"):
        permutations.identity(spec("lstm"), network("transformer"))
    with pytest.raises(ValueError, match=r"norm1/\w+ .* is no leaf of this mlp"):
        permutations.identity(spec("mlp"), network("mlp, norm"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block1": np.array([0, 1, 2, 3, 4, 4])}, "expected an order of the 6 units of block1, each once"),
        ({"block1": np.arange(5)}, "expected an order of the 6 units of block1, each once"),
        ({"block2": np.arange(6)}, r"expected an order of the groups block\d, block\d, got block0, block1, block2"),
    ],
)
def test_what_is_no_order_is_refused(change, message):
    identity = {group: np.arange(6) for group in ("block0", "block1")}
    with pytest.raises(ValueError, match=message):
        permutations.apply(spec("lstm"), {**identity, **change}, network("lstm"))


def test_layers_are_in_the_order_of_their_numbers():
    widths = tuple(range(3, 14))  # layer10 stands before layer2 in a tree
    variables = shapes("mlp_tiny", PICTURES, image_shape=(6, 6, 1), num_classes=3, widths=widths)
    found = permutations.spec_of(variables)
    assert found.axes["params/layer2/kernel"][0].group == "hidden1"
    assert found.axes["params/layer10/kernel"][0].group == "hidden9"
    assert found.axes["params/head/kernel"][0].group == "hidden11"
    assert permutations.sizes(found, variables) == {f"hidden{i}": i + 2 for i in range(1, 12)}


def test_the_embedding_of_a_text_network_stays():
    for name in ("lstm, language", "transformer, language"):
        assert spec(name).axes["params/embedding/embedding"] == (None, None)
    assert TEXT["tokens"].max() < 7 and HEADS == 4
