"""kdib.properties.basins.activations: planted permutations are found in every family; padding does not count."""

import numpy as np
import pytest
from permutable import NETWORKS, TEXT, assert_same, inputs, model_of, network, outputs, planted, spec, tiny

from kdib.properties.basins import activation_matching, permutations, unit_activations


@pytest.mark.parametrize("name", NETWORKS)
def test_a_planted_permutation_is_found(name):
    moved, expected = planted(name)
    a, b = (unit_activations(model_of(name), variables, inputs(name)) for variables in (network(name), moved))
    found = activation_matching(spec(name), moved, a, b)
    widths = {group: a.get(group, a["penultimate"]).shape[-1] // len(order) for group, order in expected.items()}
    for group, order in expected.items():
        values = a.get(group, a["penultimate"]).reshape(-1, len(order), widths[group])
        alive = np.ptp(values, axis=0).any(axis=1)  # units that never answer are alike
        np.testing.assert_array_equal(found[group][alive], order[alive])
        assert alive.sum() > len(order) / 2
    assert {group for group, width in widths.items() if width > 1} == {g for g in expected if g.endswith("heads")}


@pytest.mark.parametrize("name", ["transformer", "transformer, causal", "transformer, language", "universal", "lstm"])
def test_padding_is_left_out(name):
    found = unit_activations(model_of(name), network(name), TEXT)
    other = {**TEXT, "tokens": np.where(np.arange(5)[None] < TEXT["length"][:, None], TEXT["tokens"], 6)}
    assert (other["tokens"] != TEXT["tokens"]).any()
    for group, values in unit_activations(model_of(name), network(name), other).items():
        np.testing.assert_allclose(values, found[group], atol=1e-6)
    words, read = TEXT["length"].sum(), len(TEXT["length"])
    if name == "universal":  # its block is applied twice; the second time at one position
        assert found["block/units"].shape == (words + read, 32)
    if name == "transformer":  # a CLS before the words
        assert [len(found[f"block{i}/units"]) for i in (0, 1)] == [words + read, read]


def test_flattened_pictures_and_a_penultimate_layer_without_other_name():
    for name, flat in (("cnn", "conv1"), ("mlp", "hidden1")):
        a, b = (outputs(name, variables).hidden for variables in (network(name), planted(name)[0]))
        whole = activation_matching(spec(name), network(name), a, b)
        cut = [{**h, flat: h[flat].reshape(len(h[flat]), -1)} for h in (a, b)]
        if name == "mlp":
            cut = [{key: value for key, value in h.items() if key != "hidden3"} for h in cut]
        assert_same(activation_matching(spec(name), network(name), *cut), whole)


def test_correlation_ignores_scale_and_offset_and_units_that_never_answer():
    rng = np.random.default_rng(0)
    a_MxN, order = rng.normal(size=(50, 9)).astype(np.float32), np.array([3, 1, 0, 2, 4, 8, 7, 5, 6])
    b_MxN = (1000 + a_MxN * np.arange(1, 10, dtype=np.float32)[None])[:, order]
    for x_MxN, unit in ((a_MxN, 4), (b_MxN, 4)):
        x_MxN[:, unit] = 0.1
    wide = permutations.spec_of(tiny("mlp_tiny", 0, image_shape=(2, 2, 1), widths=(9,)))
    variables = tiny("mlp_tiny", 0, image_shape=(2, 2, 1), widths=(9,))
    found = activation_matching(wide, variables, {"hidden1": a_MxN}, {"hidden1": b_MxN})
    assert_same(found, {"hidden1": np.argsort(order)})


def test_units_without_activations_are_refused():
    hidden = outputs("resnet", network("resnet")).hidden
    with pytest.raises(ValueError, match=r"no activations of block1/inner among .*: see unit_activations"):
        activation_matching(spec("resnet"), network("resnet"), hidden, hidden)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones((4, 6)), np.ones((4, 6)), r"expected finite activations \[..., 9\] of hidden1, got \(4, 6\)"),
        (np.full((4, 9), np.inf), np.ones((4, 9)), r"expected finite activations"),
        (np.ones((4, 9)), np.ones((5, 9)), r"expected the same inputs, got hidden1 of \(4, 9\) and \(5, 9\)"),
    ],
)
def test_activations_of_other_shapes_are_refused(a, b, message):
    variables = tiny("mlp_tiny", 0, image_shape=(2, 2, 1), widths=(9,))
    with pytest.raises(ValueError, match=message):
        activation_matching(permutations.spec_of(variables), variables, {"hidden1": a}, {"hidden1": b})
