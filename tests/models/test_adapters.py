"""What every way of writing a network must keep, on the same network in flax.linen and in flax.nnx."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from miniature import tiny

from kdib import fit as fits
from kdib import study
from kdib.fit import Job, Plan, Stopped
from kdib.losses import from_config
from kdib.models.base import Outputs, from_linen, nothing, split
from kdib.models.nnx_adapter import from_nnx
from kdib.optimizer import make_optimizer, with_learning_rate
from kdib.population import Population, draw_order, healthy, train_chunk
from kdib.records import Records, Row, RunSpec
from kdib.snapshots import SnapshotIndex
from kdib.step import Architecture, init_state, predict
from kdib.trees import fingerprint

D, K, N, SIZE = 4, 2, 32, 8
RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (N, D)).astype(np.float32)
DATA = {
    "x": jnp.asarray(X),
    "label": jnp.asarray((X[:, 0] > 3).astype(np.int32)),
    "id": jnp.arange(N, dtype=jnp.int32),
}


class LinenNet(nn.Module):
    width: int
    rate: float

    @nn.compact
    def __call__(self, batch, *, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")(batch["x"])
        for _ in range(2):
            x = nn.tanh(nn.Dropout(self.rate)(nn.Dense(self.width)(x), deterministic=not train))
        return Outputs(nn.Dense(K, name="head")(x), {"penultimate": x})


class NnxNet(nnx.Module):
    def __init__(self, width, rate, *, rngs):
        self.norm = nnx.BatchNorm(D, momentum=0.5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(size, width, rngs=rngs) for size in (D, width)])
        self.dropouts = nnx.List([nnx.Dropout(rate, rngs=rngs) for _ in self.layers])
        self.head = nnx.Linear(width, K, rngs=rngs)

    def __call__(self, batch):
        x = self.norm(batch["x"])
        for layer, dropout in zip(self.layers, self.dropouts, strict=True):
            x = nnx.tanh(dropout(layer(x)))
        return Outputs(self.head(x), {"penultimate": x})


@functools.cache
def linen_net(width=8, rate=0.5):
    return from_linen(LinenNet(width, rate))


def nnx_net(width=8, rate=0.5):
    return from_nnx(NnxNet, width=width, rate=rate)


@pytest.fixture(params=[linen_net, nnx_net], ids=["linen", "nnx"])
def net(request):
    return request.param


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def run(model, params, state, batch=DATA, *, train, key=None):
    return model.apply(params, state, batch, train=train, key=key)


def started(model, seed=0):
    return split(model.init(jax.random.key(seed), DATA))


def statistics(model_state, name="mean"):
    """The running means, or "var", wherever an adapter keeps them."""
    return next(iter(model_state.values()))["norm"][name]


def test_state_moves_in_training_only(net):
    params, state = started(net())
    _, trained = run(net(), params, state, train=True, key=jax.random.key(1))
    _, evaluated = net().apply(params, state, DATA, train=False)
    assert evaluated is state
    assert jax.tree.structure(trained) == jax.tree.structure(state) and len(state) == 1
    np.testing.assert_allclose(statistics(trained), X.mean(0) / 2, rtol=1e-5)
    np.testing.assert_allclose(statistics(trained, "var"), (1 + X.var(0)) / 2, rtol=1e-4)


def test_statistics_are_collected_without_dropout():
    """As basins.batchnorm asks: the state moves as in training, the answers are those of a network without dropout."""
    params, state = started(nnx_net(rate=0.5))
    outputs, collected = run(nnx_net(rate=0.5), params, state, train="statistics")
    without, trained = run(nnx_net(rate=0.0), params, state, train=True)
    np.testing.assert_allclose(outputs.logits, without.logits, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), collected, trained)
    assert statistics(collected).any()


def test_dropout_without_a_key_is_an_error(net):
    with pytest.raises(Exception, match="dropout"):
        net().apply(*started(net()), DATA, train=True)


def test_no_dropout_needs_no_key(net):
    net().apply(*started(net(rate=0.0)), DATA, train=False)
    run(net(rate=0.0), *started(net(rate=0.0)), train=True)


def test_training_draws_from_the_key_and_evaluation_does_not(net):
    params, state = started(net())
    logits = lambda **options: run(net(), params, state, **options)[0].logits  # noqa: E731
    first, second = jax.random.split(jax.random.key(3))
    assert np.array_equal(logits(train=True, key=first), logits(train=True, key=first))
    assert not np.allclose(logits(train=True, key=first), logits(train=True, key=second))
    assert np.array_equal(logits(train=False, key=first), logits(train=False, key=second))
    assert np.array_equal(logits(train=False, key=first), logits(train=False))


def test_batch_statistics_are_used_in_evaluation_only(net):
    params, state = started(net(rate=0.0))
    one = {name: values[:1] for name, values in DATA.items()}
    logits = lambda batch, train: run(net(rate=0.0), params, state, batch, train=train)[0].logits  # noqa: E731
    np.testing.assert_allclose(logits(DATA, False)[:1], logits(one, False), atol=1e-5)
    assert not np.allclose(logits(DATA, True)[:1], logits(one, True), atol=1e-3)


def test_init_is_a_pure_function_under_jit_eval_shape_and_vmap(net):
    eager, key = net().init(jax.random.key(5), DATA), jax.random.key(5)
    jax.tree.map(np.testing.assert_array_equal, eager, jax.jit(net().init)(key, DATA))
    assert jax.tree.map(jnp.shape, eager) == jax.tree.map(jnp.shape, jax.eval_shape(net().init, key, DATA))
    keys = jax.random.split(jax.random.key(0), 3)
    stacked = jax.vmap(lambda key: net().init(key, DATA))(keys)
    other = net().init(keys[2], DATA)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[2], y, atol=1e-6), stacked, other)
    assert not np.array_equal(stacked["params"]["head"]["kernel"][0], stacked["params"]["head"]["kernel"][1])


def test_variables_survive_a_snapshot(net, tmp_path):
    variables = net().init(jax.random.key(0), DATA)
    with SnapshotIndex(tmp_path / "snapshots") as index:
        index.save(0, variables, metrics={}, meta={})
        loaded = index.load(0)
    assert fingerprint(loaded) == fingerprint(variables)
    before, after = (predict(v, DATA, model=net()).logits for v in (variables, loaded))
    np.testing.assert_array_equal(before, after)


def test_equal_networks_share_one_compilation(net):
    traces = []

    def forward(model, variables):
        traces.append(1)
        return predict(variables, DATA, model=model).logits

    jitted = jax.jit(forward, static_argnums=0)
    for _ in range(2):
        jitted(net(width=8), net().init(jax.random.key(0), DATA))
    assert len(traces) == 1


# ---------------------------------------------------------------------------------------------- in training

SGD = make_optimizer("sgd", steps=100, warmup_steps=0, schedule={"name": "constant"}, weight_decay=0.0, clip_norm=1e9)
KD = {"kl": {"fn": "softened_kl", "weight": 1.0}}


def test_a_student_learns_from_a_teacher_of_the_other_kind(net):
    teach = linen_net if net is nnx_net else nnx_net
    teacher = jax.tree.map(lambda x: 2 * x, teach(width=16).init(jax.random.key(9), DATA))
    arch = Architecture(net(rate=0.1), teach(width=16), (), SGD)
    keys = [(jax.random.key(seed), jax.random.key(seed + 100)) for seed in range(2)]
    states = [init_state(*pair, DATA, teacher, arch=arch) for pair in keys]
    states = [state._replace(opt_state=with_learning_rate(state.opt_state, 0.3)) for state in states]
    stack = functools.partial(jax.tree.map, lambda *x: jnp.stack(x))
    population, losses = Population(stack(*states), healthy(2)), []
    for first in range(0, 80, 4):
        population, (metrics, _) = train_chunk(
            population,
            stack(teacher, teacher),
            stack(from_config(KD), from_config(KD)),
            DATA,
            draw_order(population.state.key, jnp.int32(first), DATA, batch_size=SIZE),
            jnp.int32(first),
            jnp.int32(first + 4),
            arch=arch,
        )
        losses.append(metrics["kl"].sum / metrics["kl"].count)
    assert np.all(population.health.step < 0)
    assert np.all(np.mean(losses[-5:], 0) < 0.75 * losses[0])
    np.testing.assert_allclose(statistics(population.state.model_state["model"])[0], X.mean(0), atol=1.5)


class Quiet:
    """A Progress and a Logbook in one that asks for a stop after a step."""

    def __init__(self, stop_after):
        self.stop_after, self.stop_requested = stop_after, False

    def reached(self, step):
        self.stop_requested = step >= self.stop_after

    def start_group(self, *_):
        pass

    note = write = start_group


def test_a_resumed_run_equals_an_undisturbed_one(net, tmp_path):
    from kdib.config import Train

    knobs = {"warmup_steps": 0, "schedule": {"name": "cosine"}, "weight_decay": 0.0, "clip_norm": 1.0}
    cadence = {"chunk": 2, "group_size": 2, "save_every": 4, "snapshots": {"name": "every", "n": 8}}
    recipe = Train(steps=8, batch_size=SIZE, optimizer="adam", learning_rate=0.05, **knobs, **cadence)
    arch = Architecture(net(), nothing(), (), make_optimizer("adam", steps=8, **knobs))
    loss = from_config({"ce": {"fn": "cross_entropy", "weight": 1.0}})
    jobs = [Job(RunSpec("alone", seed, seed, seed, None), ({"params": {}},), loss, 0.05) for seed in (0, 1)]

    def train(folder, stop_after):
        plan = Plan(folder, arch, recipe, jax.random.key(0), DATA, (0, 8), (), lambda variables: {}, {})
        quiet = Quiet(stop_after)
        fits.train(jobs, plan, quiet, quiet)

    def last(folder):
        with SnapshotIndex(folder / "alone/seed1" / "snapshots", read_only=True) as index:
            return index.fingerprint(8)

    train(tmp_path / "whole", 9)
    with pytest.raises(Stopped):
        train(tmp_path / "cut", 2)
    train(tmp_path / "cut", 9)
    assert last(tmp_path / "cut") == last(tmp_path / "whole")


# -------------------------------------------------------------------------------------------- nnx's own


class Restless(nnx.Module):
    """Draws whatever the mode, from a stream that two layers share, with one layer's weights in two places."""

    def __init__(self, *, rngs):
        self.rngs, self.first = rngs, nnx.Linear(D, D, rngs=rngs)
        self.again = self.first

    def __call__(self, batch):
        x = self.again(self.first(batch["x"])) + jax.random.normal(self.rngs.params(), (1, 1))
        return Outputs(x + jax.random.normal(self.rngs.params(), (1, 1)), {})


def test_nothing_draws_in_evaluation_and_shared_parts_stay_shared():
    model = from_nnx(Restless)
    variables = model.init(jax.random.key(0), DATA)
    assert set(variables) == {"params"} and set(variables["params"]) == {"again"}
    model.apply(*split(variables), DATA, train=True, key=jax.random.key(0))
    with pytest.raises(ValueError, match="in evaluation nothing may draw"):
        model.apply(*split(variables), DATA, train=False, key=jax.random.key(0))


class Recurrent(nnx.Module):
    """Of flax's own parts, which ask for a key to start from zeros."""

    def __init__(self, cell, *, rngs):
        self.rnn = nnx.RNN(cell(1, SIZE, rngs=rngs))
        self.head, self.dropout = nnx.Linear(SIZE, K, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, batch):
        return Outputs(self.head(self.dropout(self.rnn(batch["x"][..., None])[:, -1])), {})


@pytest.mark.parametrize("cell", [nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell, nnx.SimpleCell])
def test_recurrent_networks_answer_in_evaluation(cell):
    model = from_nnx(Recurrent, cell=cell)
    params, state = started(model)
    answers = [run(model, params, state, train=False, key=jax.random.key(seed))[0].logits for seed in (0, 1)]
    np.testing.assert_array_equal(*answers)
    trained = [run(model, params, state, train=True, key=jax.random.key(seed))[0].logits for seed in (0, 1)]
    assert not np.array_equal(*trained)


class Layered(nnx.Module):
    """Layers made by nnx.vmap hold a key each."""

    def __init__(self, *, rngs):
        make = nnx.vmap(lambda rngs: nnx.Dropout(0.5, rngs=rngs))
        self.dropouts = make(nnx.Rngs(jax.random.split(rngs(), 3)))

    def __call__(self, batch):
        drop = nnx.vmap(lambda dropout: dropout(batch["x"]), in_axes=0)
        return Outputs(drop(self.dropouts), {})


def test_stacked_layers_draw_apart():
    model = from_nnx(Layered)
    outputs, _ = model.apply(*split(model.init(jax.random.key(0), DATA)), DATA, train=True, key=jax.random.key(0))
    assert not np.array_equal(outputs.logits[0], outputs.logits[1])


NNX_WORDS = """
import jax.numpy as jnp
from flax import nnx
from kdib.models.base import Outputs


class NnxWords(nnx.Module):
    def __init__(self, vocab_size, num_classes, width=8, *, rngs):
        self.embed, self.head = nnx.Embed(vocab_size, width, rngs=rngs), nnx.Linear(width, num_classes, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, batch):
        own_NxL = jnp.arange(batch["tokens"].shape[1])[None] < batch["length"][:, None]
        mean_NxD = (self.embed(batch["tokens"]) * own_NxL[..., None]).sum(1) / batch["length"][:, None]
        return Outputs(self.head(self.dropout(mean_NxD)), {"penultimate": mean_NxD})
"""


def test_a_network_of_ones_own_in_flax_nnx_learns_from_a_teacher_of_flax_linen(tmp_path, monkeypatch):
    (tmp_path / "words.py").write_text(NNX_WORDS)
    monkeypatch.setattr(study.report, "write", lambda workdir: None)  # takes long, and has tests
    config = tiny(seeds=1)
    config["models"]["transformer"] = {"preset": f"{tmp_path}/words.py:NnxWords", "width": 4}
    config["fits"] = {name: config["fits"][name] for name in ("teacher", "alone", "distilled")}
    config["fits"]["distilled"]["answers"] = "live"
    config["roles"]["self"] = "alone"
    config["train"]["learning_rate"] = 0.1
    workdir = tmp_path / "run"
    study.run(config, workdir)
    metrics = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    first, *_, last = (line["value"] for line in metrics if (line["fit"], line["metric"]) == ("distilled", "kl"))
    assert last < 0.75 * first
    rows, _ = Records(workdir / "rows.jsonl", Row).read()
    assert {row.subject.split("/")[0] for row in rows} == {"teacher", "alone", "distilled"}
