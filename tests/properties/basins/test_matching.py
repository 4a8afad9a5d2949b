"""kdib.properties.basins.matching: planted permutations are found, exhaustive search finds nothing better."""

import itertools

import jax
import numpy as np
import pytest
from permutable import FAMILIES, NETWORKS, drawn, network, noisy, outputs, spec

from kdib.models import build
from kdib.properties.basins import matching, permutations

KEY = jax.random.key(3)


def planted(name, seed=0):
    """A permuted network, and the permutation that takes it back."""
    permutation = permutations.random(spec(name), network(name), jax.random.key(seed))
    return permutations.apply(spec(name), permutation, network(name)), permutations.inverse(permutation)


def assert_same(found, expected):
    assert set(found) == set(expected)
    for group, order in expected.items():
        np.testing.assert_array_equal(found[group], order, err_msg=group)


def distance(a, b):
    return np.sqrt(sum(np.sum((x - y) ** 2) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)))


def both(name, seed_b=1):
    return matching.weights(spec(name), network(name)["params"], network(name, seed_b)["params"])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_planted_permutation_is_found(name):
    moved, expected = planted(name)
    found = matching.weight_matching(spec(name), network(name)["params"], moved["params"], KEY)
    assert_same(found, expected)
    matched = permutations.apply(spec(name), found, moved)
    assert distance(matched, network(name)) == 0 < distance(moved, network(name))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("seed", [1, 2])
def test_it_is_found_under_noise(name, seed):
    moved, expected = planted(name, seed)
    near = noisy(moved, 0.2, seed + 10)
    found = matching.weight_matching(spec(name), network(name)["params"], near["params"], KEY)
    assert_same(found, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_step_brings_the_networks_closer(name):
    a, b = both(name)
    start = permutations.random(spec(name), network(name), jax.random.key(5))
    found, values = matching.descend(spec(name), a, b, start, np.random.default_rng(0))
    assert len(values) > 2 and (np.diff(values) > 0).all()
    moved = permutations.apply(spec(name), found, network(name, 1))["params"]
    squared = sum(np.vdot(leaf, leaf) for side in (a, b) for leaf in side.values()) - 2 * values[-1]
    np.testing.assert_allclose(distance(moved, network(name)["params"]) ** 2, squared, rtol=1e-5)
    again, more = matching.descend(spec(name), a, b, found, np.random.default_rng(1))
    assert len(more) == 1 and again == found  # it has stopped where no group improves on it


def test_one_hidden_layer_is_solved_exactly():
    a, b = (_tiny("mlp_tiny", seed, image_shape=(2, 2, 1), widths=(6,)) for seed in (0, 1))
    assert _better(a, b, "hidden1", 6, restarts=1) == 0


@pytest.mark.parametrize("seed", range(6))
def test_a_small_lstm_is_solved_as_by_exhaustive_search(seed):
    sizes = {"vocab_size": 5, "max_length": 4, "hidden_size": 5, "embedding_size": 3}
    a, b = (_tiny("lstm_tiny", 2 * seed + i, **sizes) for i in (0, 1))
    assert _better(a, b, "block0", 5, restarts=4) <= 1  # of 120
    assert _better(a, b, "block0", 5, restarts=16) == 0


def test_the_gain_of_an_exchange_is_exact_and_exchanges_stop_where_none_helps():
    sizes = {"vocab_size": 5, "max_length": 4, "hidden_size": 12, "embedding_size": 3, "layers": 2}
    first, second = (_tiny("lstm_tiny", seed, **sizes) for seed in (0, 1))
    lstm = permutations.spec_of(first)
    a, b = matching.weights(lstm, first["params"], second["params"])
    order = permutations.random(lstm, first, KEY)
    value = lambda p: matching.similarity(lstm, a, b, p)  # noqa: E731
    for group, places in matching._touched(lstm, a).items():
        gains_NxN = matching._gains(*matching._standing(lstm, a, b, order, group, places))
        at_rest = {**order, group: matching._exchanged(lstm, a, b, order, group, places)}
        assert value(at_rest) > value(order) + gains_NxN.max() + 1e-6  # more than one was made
        for i, j in itertools.combinations(range(12), 2):
            gain = value(_exchange(order, group, i, j)) - value(order)
            np.testing.assert_allclose(gains_NxN[i, j], gain, atol=1e-9)
            assert value(_exchange(at_rest, group, i, j)) <= value(at_rest) + 1e-9


def _exchange(permutation, group, i, j):
    order = permutation[group].copy()
    order[[i, j]] = order[[j, i]]
    return {**permutation, group: order}


def _tiny(preset, seed, **sizes):
    image = {"image": np.zeros((1, 2, 2, 1), np.uint8)}
    text = {"tokens": np.zeros((1, 4), np.int32), "length": np.ones(1, np.int32)}
    return drawn(build(preset, num_classes=2, **sizes), image if "image_shape" in sizes else text, seed)


def _better(a, b, group, n, restarts):
    """How many of all orders are more similar than the one found."""
    tiny = permutations.spec_of(a)
    weights = matching.weights(tiny, a["params"], b["params"])
    value = lambda order: matching.similarity(tiny, *weights, {group: np.array(order)})  # noqa: E731
    found = value(matching.weight_matching(tiny, a["params"], b["params"], KEY, restarts=restarts)[group])
    return sum(value(order) > found + 1e-9 for order in itertools.permutations(range(n)))


def test_the_first_start_leaves_a_local_optimum_that_the_published_one_stays_in():
    name = "lstm"
    moved, expected = planted(name)
    trap = jax.tree.map(lambda x, y: x + 0.8 * y, moved, network(name))["params"]  # as if both had shared a start
    a, b = matching.weights(spec(name), network(name)["params"], trap)
    stays = permutations.identity(spec(name), network(name))
    stuck, _ = matching.descend(spec(name), a, b, stays, np.random.default_rng(0))
    assert_same(stuck, stays)
    assert_same(matching.weight_matching(spec(name), network(name)["params"], trap, KEY, restarts=1), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_best_descent_is_kept(name):
    a, b = both(name)
    params = network(name)["params"], network(name, 1)["params"]
    value = lambda p: matching.similarity(spec(name), a, b, p)  # noqa: E731
    one, many = (matching.weight_matching(spec(name), *params, KEY, restarts=n) for n in (1, 6))
    assert value(permutations.identity(spec(name), network(name))) < value(one) <= value(many)
    assert_same(matching.weight_matching(spec(name), *params, KEY, restarts=6), many)


def test_a_network_stays_where_it_is():
    params = network("mlp")["params"]
    assert_same(
        matching.weight_matching(spec("mlp"), params, params, KEY), permutations.identity(spec("mlp"), network("mlp"))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": {"kernel": np.ones((8, 4)), "bias": np.ones(4)}}, r"params/head/\w+ \[.*3\] and \[.*4\]"),
        ({"extra": np.ones(2)}, r"params/extra None and \[2\]"),
        ({"head": {"kernel": np.full((8, 3), np.nan), "bias": np.ones(3)}}, r"nan or inf in params/head/kernel"),
    ],
)
def test_networks_that_do_not_fit_are_refused(change, message):
    params = network("mlp")["params"]
    with pytest.raises(ValueError, match=message):
        matching.weight_matching(spec("mlp"), params, {**params, **change}, KEY)


def test_no_restart_is_refused():
    params = network("mlp")["params"]
    with pytest.raises(ValueError, match="expected restarts >= 1, got 0"):
        matching.weight_matching(spec("mlp"), params, params, KEY, restarts=0)


# --- By activations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "mlp, norm", "cnn", "lstm", "lstm, language"])
def test_activations_find_a_planted_permutation(name):
    moved, expected = planted(name)
    a, b = (outputs(name, variables).hidden for variables in (network(name), moved))
    alive = {
        group: np.ptp(np.asarray(a[group]).reshape(-1, len(order)), axis=0) > 0 for group, order in expected.items()
    }
    found = matching.activation_matching(spec(name), moved, a, b)
    for group, order in expected.items():  # units that never answer are alike
        np.testing.assert_array_equal(found[group][alive[group]], order[alive[group]])
        assert alive[group].sum() > len(order) / 2


def test_flattened_pictures_and_a_penultimate_layer_without_other_name():
    for name, flat in (("cnn", "conv1"), ("mlp", "hidden1")):
        a, b = (outputs(name, variables).hidden for variables in (network(name), planted(name)[0]))
        whole = matching.activation_matching(spec(name), network(name), a, b)
        cut = [{**h, flat: h[flat].reshape(len(h[flat]), -1)} for h in (a, b)]
        if name == "mlp":
            cut = [{key: value for key, value in h.items() if key != "hidden3"} for h in cut]
        assert_same(matching.activation_matching(spec(name), network(name), *cut), whole)


def test_correlation_ignores_scale_and_offset_and_units_that_never_answer():
    rng = np.random.default_rng(0)
    a_MxN, order = rng.normal(size=(50, 9)).astype(np.float32), np.array([3, 1, 0, 2, 4, 8, 7, 5, 6])
    b_MxN = (1000 + a_MxN * np.arange(1, 10, dtype=np.float32)[None])[:, order]
    for x_MxN, unit in ((a_MxN, 4), (b_MxN, 4)):
        x_MxN[:, unit] = 0.1
    wide = permutations.spec_of(_tiny("mlp_tiny", 0, image_shape=(2, 2, 1), widths=(9,)))
    variables = _tiny("mlp_tiny", 0, image_shape=(2, 2, 1), widths=(9,))
    found = matching.activation_matching(wide, variables, {"hidden1": a_MxN}, {"hidden1": b_MxN})
    assert_same(found, {"hidden1": np.argsort(order)})


@pytest.mark.parametrize(("name", "group"), [("resnet", "block1/inner"), ("transformer", "block0/heads")])
def test_units_without_activations_are_refused(name, group):
    hidden = outputs(name, network(name)).hidden
    with pytest.raises(ValueError, match=rf"no activations of {group} among .*: match this {name} by its weights"):
        matching.activation_matching(spec(name), network(name), hidden, hidden)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones((4, 6)), np.ones((4, 6)), r"expected finite activations \[..., 9\] of hidden1, got \(4, 6\)"),
        (np.full((4, 9), np.inf), np.ones((4, 9)), r"expected finite activations"),
        (np.ones((4, 9)), np.ones((5, 9)), r"expected the same inputs, got hidden1 of \(4, 9\) and \(5, 9\)"),
    ],
)
def test_activations_of_other_shapes_are_refused(a, b, message):
    variables = _tiny("mlp_tiny", 0, image_shape=(2, 2, 1), widths=(9,))
    with pytest.raises(ValueError, match=message):
        matching.activation_matching(permutations.spec_of(variables), variables, {"hidden1": a}, {"hidden1": b})
