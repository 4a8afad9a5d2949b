"""kdib.properties.basins.matching: planted permutations are found, exhaustive search finds nothing better."""

import itertools

import jax
import numpy as np
import pytest
from permutable import FAMILIES, NETWORKS, assert_same, network, noisy, planted, spec, tiny

from kdib.properties.basins import matching, permutations

KEY = jax.random.key(3)


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
    a, b = (tiny("mlp_tiny", seed, image_shape=(2, 2, 1), widths=(6,)) for seed in (0, 1))
    assert _better(a, b, "hidden1", 6, restarts=1) == 0


@pytest.mark.parametrize("seed", range(6))
def test_a_small_lstm_is_solved_as_by_exhaustive_search(seed):
    sizes = {"vocab_size": 5, "max_length": 4, "hidden_size": 5, "embedding_size": 3}
    a, b = (tiny("lstm_tiny", 2 * seed + i, **sizes) for i in (0, 1))
    assert _better(a, b, "block0", 5, restarts=4) <= 1  # of 120
    assert _better(a, b, "block0", 5, restarts=16) == 0


def test_the_gain_of_an_exchange_is_exact_and_exchanges_stop_where_none_helps():
    sizes = {"vocab_size": 5, "max_length": 4, "hidden_size": 12, "embedding_size": 3, "layers": 2}
    first, second = (tiny("lstm_tiny", seed, **sizes) for seed in (0, 1))
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
