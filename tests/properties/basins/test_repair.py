"""kdib.properties.basins.repair: the moments are the target's, and the variance that averaging loses is back."""

import functools

import jax
import numpy as np
import pytest
from permutable import network

from kdib.models import build
from kdib.properties.basins.repair import Moments, moments, repair

SHAPE = (6, 6, 1)
BATCH = {"image": np.random.default_rng(0).integers(0, 256, (200, *SHAPE)).astype(np.uint8)}
MODEL = build("mlp_tiny", num_classes=3, image_shape=SHAPE, widths=(64, 64, 64, 64))
LAYERS = [f"layer{i}" for i in (1, 2, 3, 4)]


@functools.cache
def params(seed):
    """A random network with biases."""
    drawn = MODEL.init(jax.random.key(seed), BATCH)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.asarray(x) + 0.05 * rng.normal(size=x.shape).astype(np.float32), drawn)


def mixed(a, b, alpha=0.5):
    return jax.tree.map(lambda x, y: (1 - alpha) * x + alpha * y, a, b)


def target(alpha=0.5):
    return mixed(*(moments(params(seed), BATCH) for seed in (0, 1)), alpha)


def answers(params):
    return MODEL.apply(params, {}, BATCH, train=False)[0]


def test_moments_are_those_of_the_network_itself():
    hidden = {"hidden0": BATCH["image"].reshape(200, -1) / np.float32(255), **answers(params(0)).hidden}
    for i, name in enumerate(LAYERS):
        z_BxN = np.asarray(hidden[f"hidden{i}"]) @ params(0)[name]["kernel"] + params(0)[name]["bias"]
        found = moments(params(0), BATCH)[name]
        np.testing.assert_allclose(found.mean_N, z_BxN.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(found.std_N, z_BxN.std(axis=0), atol=1e-5)


@pytest.mark.parametrize("alpha", [0.2, 0.5])
def test_after_repair_the_moments_are_the_target(alpha):
    between = mixed(params(0), params(1), alpha)
    repaired = jax.jit(repair)(between, target(alpha), BATCH)
    found = moments(repaired, BATCH)
    for name in LAYERS:
        expected = target(alpha)[name]
        np.testing.assert_allclose(found[name].mean_N, expected.mean_N, atol=1e-4)
        np.testing.assert_allclose(found[name].std_N, expected.std_N, atol=1e-4)
        assert np.abs(moments(between, BATCH)[name].std_N - expected.std_N).max() > 0.1
    jax.tree.map(np.testing.assert_array_equal, repaired["head"], between["head"])


def test_averaged_networks_lose_variance_layer_by_layer_and_get_it_back():
    def ratios(params):
        return [float(np.mean(moments(params, BATCH)[name].std_N / target()[name].std_N)) for name in LAYERS]

    between = mixed(params(0), params(1))
    collapsed = ratios(between)
    assert (np.diff(collapsed) < 0).all() and collapsed[0] < 0.8 and collapsed[-1] < 0.35
    np.testing.assert_allclose(ratios(repair(between, target(), BATCH)), 1, atol=1e-4)
    spread = [answers(p).logits.std(axis=0).mean() for p in (params(0), params(1), between)]
    back = answers(repair(between, target(), BATCH)).logits.std(axis=0).mean()
    assert spread[2] < 0.3 * min(spread[:2]) and back > 1.8 * spread[2]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_ends_of_a_path_stay(alpha):
    repaired = repair(mixed(params(0), params(1), alpha), target(alpha), BATCH)
    np.testing.assert_allclose(answers(repaired).logits, answers(params(int(alpha))).logits, atol=1e-4)


def test_a_whole_path_in_one_program():
    ends = [{"params": params(seed), "target": moments(params(seed), BATCH)} for seed in (0, 1)]
    alphas_A = np.array([0.25, 0.75], np.float32)
    point = lambda alpha: repair(**mixed(*ends, alpha), batch=BATCH)  # noqa: E731
    together = jax.jit(jax.vmap(point))(alphas_A)
    for i, alpha in enumerate(alphas_A):
        alone = repair(mixed(params(0), params(1), alpha), target(alpha), BATCH)
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y, atol=1e-4), together, alone)


def test_a_unit_that_does_not_vary_gets_its_mean_only():
    first = {"kernel": params(0)["layer1"]["kernel"].copy(), "bias": params(0)["layer1"]["bias"]}
    first["kernel"][:, 3] = 0
    repaired = repair({**params(0), "layer1": first}, target(), BATCH)
    found = moments(repaired, BATCH)["layer1"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(repaired))
    np.testing.assert_allclose(found.mean_N, target()["layer1"].mean_N, atol=1e-4)
    assert found.std_N[3] == 0 and np.delete(found.std_N, 3).min() > 0.1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlp, norm", r"without normalization, got \['norm1', 'norm2'\]: recompute its statistics"),
        ("cnn", "recompute its statistics"),
        ("resnet", "recompute its statistics"),
        ("lstm", r"REPAIR covers MLPs \(layer1, layer2, ..., head\), got embedding, head, layer0, layer1"),
    ],
)
def test_other_networks_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        moments(network(name)["params"], BATCH)


def test_a_target_of_other_layers_is_refused():
    with pytest.raises(ValueError, match="expected a target of layer1, layer2, layer3, layer4, got layer1"):
        repair(params(0), {"layer1": Moments(*moments(params(0), BATCH)["layer1"])}, BATCH)
