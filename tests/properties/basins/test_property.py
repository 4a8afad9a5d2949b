"""kdib.properties.basins.property: which pairs are measured, their rows, and how often a network is compiled."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib import models
from kdib.models.base import Model, Outputs, split
from kdib.properties.basins import PROPERTY, barrier
from kdib.properties.basins import property as module
from kdib.properties.basins.property import N_PAIRS, chosen, followed
from kdib.records import Subject
from kdib.tasks.base import Dataset

RNG = np.random.default_rng(0)

ANCHORED = ("alone",)


def subject(fit, seed, step=9):
    return Subject(f"{fit}/seed{seed}@{step}", fit, seed, f"seed{seed}", step, "f")


def names(pairs):
    return [f"{a.fit[0]}{a.seed}-{b.fit[0]}{b.seed}" for a, b in pairs]


def test_pairs_are_neighbours_within_a_fit_with_one_more_and_equal_seeds_between_two():
    everyone = [subject(fit, seed) for fit in ("alone", "distilled") for seed in range(3)]
    pairs = chosen(list(itertools.combinations(everyone, 2)), ANCHORED)
    assert names(pairs) == ["a0-a1", "a0-a2", "a1-a2", "d0-d1", "d0-d2", "d1-d2", "a0-d0", "a1-d1", "a2-d2"]


def test_every_run_is_in_a_pair_of_its_fit_and_their_number_is_linear_in_the_seeds():
    everyone = [subject("alone", seed) for seed in range(N_PAIRS + 3)]
    pairs = chosen(list(itertools.combinations(everyone, 2)), ANCHORED)
    assert len(pairs) == N_PAIRS + 1
    assert {s.seed for pair in pairs for s in pair} == set(range(N_PAIRS + 1))
    across = [(subject("alone", s), subject("self", s)) for s in range(N_PAIRS + 3)]
    assert len(chosen(across, ANCHORED)) == N_PAIRS


def test_two_fits_of_which_none_is_an_anchor_are_not_compared():
    everyone = [subject(fit, 0) for fit in ("self", "smoothed", "alone")]
    assert names(chosen(list(itertools.combinations(everyone, 2)), ANCHORED)) == ["s0-a0", "s0-a0"]


def test_more_seeds_keep_the_pairs_of_fewer():
    few, many = (list(itertools.combinations([subject("alone", s) for s in range(n)], 2)) for n in (3, 5))
    assert set(chosen(few, ANCHORED)) <= set(chosen(many, ANCHORED))
    later = [pair for pair in many if pair not in few]  # what a study with two more seeds is handed
    assert set(chosen(few, ANCHORED)) | set(chosen(later, ANCHORED)) == set(chosen(many, ANCHORED))


def linear(counter=None):
    """Logits linear in two numbers a picture; the first weight goes through a square, so that paths are curved."""

    def apply(params, model_state, batch, *, train, key):
        if counter is not None:
            counter.append(1)
        return Outputs(batch["x"] @ (params["w"] ** 2 - 1), {}), model_state

    return Model(init=lambda key, batch: {}, apply=apply)


def inputs(n, seed=0):
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(n, 2)).astype("f"), "label": rng.integers(0, 3, n).astype(np.int32)}


def evidence_of(nets, pairs, snapshots=lambda s: (s,), n_test=20):
    return types.SimpleNamespace(
        sets={"test": Dataset(inputs(n_test), {}), "ood": Dataset(inputs(5, 1), {})},
        train=Dataset(inputs(30, 2), {}),
        pairs=pairs,
        network=lambda s: nets[s.id],
        snapshots=snapshots,
        fits={"teacher": "cnn", "alone": "alone", "distilled": "distilled"},
    )


def in_numpy(w, data):
    logits = data["x"].astype("d") @ (w.astype("d") ** 2 - 1)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), data["label"]]
    return losses.mean(), (logits.argmax(1) != data["label"]).mean()


@pytest.fixture(scope="module")
def measured():
    model, everyone = linear(), [subject(fit, seed) for fit in ("alone", "distilled") for seed in range(2)]
    earlier = [subject("alone", 0, step) for step in (0, 3, 9)]
    nets = {s.id: (model, {"params": {"w": RNG.normal(size=(2, 3)).astype("f")}}) for s in [*earlier, *everyone]}
    evidence = evidence_of(nets, list(itertools.combinations(everyone, 2)), lambda s: tuple(earlier))
    return nets, evidence, list(PROPERTY.measure([], evidence))


def test_rows_are_numpys(measured):
    nets, evidence, rows = measured
    keys = {row.key for row in rows}
    assert len(keys) == len(rows) == 4 * (9 + 2 * 21) + 2 * 2 * 21
    values = {(row.subject, row.other, row.metric, row.group, row.coords): row.value for row in rows}
    alphas = np.linspace(0, 1, 21)
    for a, b in chosen(evidence.pairs, ANCHORED):
        path = [(1 - x) * nets[a.id][1]["params"]["w"] + x * nets[b.id][1]["params"]["w"] for x in alphas]
        (loss, error), (train, train_error) = (
            np.array([in_numpy(w, data.inputs) for w in path]).T for data in (evidence.sets["test"], evidence.train)
        )
        along = {"": loss, "error_": error, "train_": train, "train_error_": train_error}
        for metric, of in along.items():
            found = [values[a.id, b.id, f"{metric}barrier{end}", "", ()] for end in ("", "_mean")]
            assert found == pytest.approx(barrier(of, alphas), abs=1e-5), metric
        for metric, of in (("loss", loss), ("error", error)):
            found = [values[a.id, b.id, metric, "interpolation", (("alpha", round(x, 4)),)] for x in alphas]
            np.testing.assert_allclose(found, of, atol=1e-5)
    assert {row.split for row in rows} == {"test"}
    # No permutations are known of this network.
    assert {(row.value, row.n) for row in rows if row.metric == "aligned_barrier"} == {(None, 0)}
    assert {row.n for row in rows if row.metric.startswith("train_")} == {30}


def test_the_primary_is_there_and_kind_and_pairs_are_declared(measured):
    _, _, rows = measured
    primary = PROPERTY.primary
    assert any((row.metric, row.group, row.coords) == (primary.metric, primary.group, ()) for row in rows)
    assert (PROPERTY.kind, PROPERTY.pairs, PROPERTY.higher_is_better) == ("pairwise", "architecture", False)


def test_snapshots_are_measured_to_the_end_of_their_run_and_have_no_barrier(measured):
    _, _, rows = measured
    of_snapshots = [row for row in rows if row.subject in ("alone/seed0@0", "alone/seed0@3")]
    assert {row.other for row in of_snapshots} == {"alone/seed0@9"}
    assert {(row.metric, row.group) for row in of_snapshots} == {("loss", "interpolation"), ("error", "interpolation")}
    pairs = [module.Pair(subject("distilled", 0), subject("distilled", 1))]
    assert followed(pairs, types.SimpleNamespace(fits={"alone": "alone"})) == []  # its run is in none of them


def test_many_snapshots_are_thinned():
    run = tuple(subject("alone", 0, step) for step in range(40))
    evidence = types.SimpleNamespace(fits={"alone": "alone"}, snapshots=lambda s: run)
    found = followed([module.Pair(run[-1], subject("alone", 1, 39))], evidence)
    assert len(found) == module.N_SNAPSHOTS and found[0].a.step == 0 and found[-1].a.step == 38


def test_a_network_is_compiled_once_for_all_pairs():
    traces = []
    model, everyone = linear(traces), [subject("alone", seed) for seed in range(4)]
    nets = {s.id: (model, {"params": {"w": np.full((2, 3), s.seed, "f")}}) for s in everyone}
    pairs = list(itertools.combinations(everyone, 2))
    list(PROPERTY.measure([], evidence_of(nets, pairs[:1])))
    once = len(traces)
    list(PROPERTY.measure([], evidence_of(nets, pairs)))
    assert len(traces) == once > 0


def test_networks_of_two_architectures_and_losses_that_are_not_finite_are_refused():
    everyone = [subject("alone", 0), subject("alone", 1)]
    nets = {s.id: (linear(), {"params": {"w": np.ones((2, 3), "f")}}) for s in everyone}
    with pytest.raises(ValueError, match="one architecture"):
        list(PROPERTY.measure([], evidence_of(nets, [tuple(everyone)])))
    model = linear()
    nets = {s.id: (model, {"params": {"w": np.full((2, 3), 1e20, "f")}}) for s in everyone}
    with pytest.raises(FloatingPointError, match="not finite"):
        list(PROPERTY.measure([], evidence_of(nets, [tuple(everyone)])))
    with pytest.raises(ValueError, match="training examples"):
        list(PROPERTY.measure([], types.SimpleNamespace(train=None, pairs=[tuple(everyone)], fits={})))


def test_batch_statistics_are_those_of_the_point(monkeypatch):
    """A network scaled ahead of its normalisation is the same function; with one end's statistics it would not be."""
    monkeypatch.setattr(module, "N_POINTS", 5)
    model = models.build("mlp_abnar", num_classes=3, image_shape=(4, 4, 1), widths=(6,))
    pictures = {"image": RNG.random((20, 4, 4, 1)).astype("f"), "label": RNG.integers(0, 3, 20).astype(np.int32)}
    variables = model.init(jax.random.key(0), pictures)
    params, _ = split(variables)
    params["head"] = jax.tree.map(lambda leaf: 10 * leaf, params["head"])
    scaled = params | {"layer1": jax.tree.map(lambda leaf: 20 * jnp.asarray(leaf), params["layer1"])}
    everyone = [subject("alone", 0), subject("alone", 1)]
    nets = dict(
        zip([s.id for s in everyone], [(model, variables | {"params": p}) for p in (params, scaled)], strict=True)
    )
    evidence = evidence_of(nets, [tuple(everyone)])
    data = Dataset(pictures, {})
    evidence.sets, evidence.train = {"test": data}, data
    rows = {row.metric: row.value for row in PROPERTY.measure([], evidence) if not row.group}
    # What is left is the epsilon of the normalisation.
    assert abs(rows["barrier"]) < 2e-2 and abs(rows["train_barrier"]) < 2e-2


def test_a_network_with_the_names_of_an_mlp_and_other_connections_is_not_aligned(monkeypatch):
    """A skip connection ties the units of two layers; permuting each layer by itself would make another network."""
    monkeypatch.setattr(module, "N_POINTS", 3)

    def apply(params, model_state, batch, *, train, key):
        x = batch["image"].reshape(len(batch["image"]), -1)
        for name in ("layer1", "layer2"):
            x = x + jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"][None])
        return Outputs(x @ params["head"]["kernel"] + params["head"]["bias"][None], {}), model_state

    def params():
        sizes = {"layer1": (16, 16), "layer2": (16, 16), "head": (16, 3)}
        return {
            name: {"kernel": RNG.normal(size=s).astype("f"), "bias": np.zeros(s[1], "f")} for name, s in sizes.items()
        }

    model = Model(init=lambda key, batch: {}, apply=apply)
    everyone = [subject("alone", 0), subject("alone", 1)]
    evidence = evidence_of({s.id: (model, {"params": params()}) for s in everyone}, [tuple(everyone)])
    pictures = {"image": RNG.random((20, 4, 4, 1)).astype("f"), "label": RNG.integers(0, 3, 20).astype(np.int32)}
    evidence.sets, evidence.train = {"test": Dataset(pictures, {})}, Dataset(pictures, {})
    rows = {row.metric: (row.value, row.n) for row in PROPERTY.measure([], evidence) if not row.group}
    assert rows["aligned_barrier"] == (None, 0) and "aligned_repaired_barrier" not in rows


def test_units_in_another_order_are_aligned(monkeypatch):
    """A permuted copy of one network: the barrier between them is one of numbering, and alignment takes all of it."""
    monkeypatch.setattr(module, "N_POINTS", 5)
    model = models.build("mlp_tiny", num_classes=3, image_shape=(4, 4, 1), dropout=0.0)
    pictures = {"image": RNG.random((20, 4, 4, 1)).astype("f"), "label": RNG.integers(0, 3, 20).astype(np.int32)}
    params = model.init(jax.random.key(0), pictures)["params"]
    head = {"kernel": 20 * params["head"]["kernel"], "bias": params["head"]["bias"]}
    order = np.roll(np.arange(16), 3)
    layer = {"kernel": params["layer1"]["kernel"][:, order], "bias": params["layer1"]["bias"][order]}
    other = {"layer1": layer, "head": head | {"kernel": head["kernel"][order]}}
    everyone = [subject("alone", 0), subject("alone", 1)]
    nets = {s.id: (model, {"params": p}) for s, p in zip(everyone, (params | {"head": head}, other), strict=True)}
    evidence, data = evidence_of(nets, [tuple(everyone)]), Dataset(pictures, {})
    evidence.sets, evidence.train = {"test": data}, data
    rows = {row.metric: row.value for row in PROPERTY.measure([], evidence) if not row.group}
    assert abs(rows["barrier"]) > 0.05  # the answers are not those of the network, better or worse
    assert abs(rows["aligned_barrier"]) < 1e-5 and abs(rows["aligned_repaired_barrier"]) < 1e-4
