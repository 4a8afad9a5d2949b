"""The training step and its population form, on a linear model small enough to check by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib.losses import from_config
from kdib.models.base import Model, Outputs, nothing, table
from kdib.optimizer import make_optimizer, with_learning_rate
from kdib.population import (
    Population,
    _view_key,
    bucketed_order,
    checked_names,
    draw_order,
    epoch_order,
    healthy,
    train_chunk,
)
from kdib.step import Architecture, _is_correct, init_state, train_step
from kdib.tasks.base import cut

N, D, K, BATCH = 24, 3, 2, 4


def linear() -> Model:
    def apply(params, model_state, batch, *, train, key):
        del train, key
        return Outputs(batch["x"] @ params["w"], {"x": batch["x"]}), model_state

    return Model(lambda key, batch: {"params": {"w": jax.random.normal(key, (D, K))}}, apply)


LINEAR = linear()
SGD = make_optimizer("sgd", steps=100, warmup_steps=0, schedule={"name": "constant"}, weight_decay=0.0, clip_norm=1e9)
LABELS = {"ce": {"fn": "cross_entropy", "weight": 1.0}}
KD = {"kl": {"fn": "softened_kl", "weight": 1.0}}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)).astype(np.float32)
    label = (x[:, 0] > 0).astype(np.int32)
    return {"x": jnp.asarray(x), "label": jnp.asarray(label), "id": jnp.arange(N, dtype=jnp.int32)}


def start(data, arch, seed=0, teacher_variables=None, learning_rate=0.1):
    keys = jax.random.key(seed), jax.random.key(seed + 100)
    state = init_state(*keys, data, teacher_variables or {"params": {}}, arch=arch)
    return state._replace(opt_state=with_learning_rate(state.opt_state, learning_rate))


def population_of(states):
    return Population(jax.tree.map(lambda *x: jnp.stack(x), *states), healthy(len(states)))


def stacked(tree, n):
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * n), tree)


def chunk(population, data, arch, loss, first, last, teacher_variables=None, edges=()):
    n, epoch = len(population.health.step), jnp.int32(first // (len(data["label"]) // BATCH))
    return train_chunk(
        population,
        stacked(teacher_variables or {"params": {}}, n),
        stacked(from_config(loss), n),
        data,
        draw_order(population.state.key, epoch, data, batch_size=BATCH, edges=edges),
        jnp.int32(first),
        jnp.int32(last),
        arch=arch,
        edges=edges,
    )


def test_one_step_of_sgd_is_the_closed_form(data):
    arch = Architecture(LINEAR, nothing(), (), SGD)
    state = start(data, arch)
    new, metrics = train_step(state, data, {"params": {}}, from_config(LABELS), arch=arch)
    w, x = np.asarray(state.params["model"]["w"]), np.asarray(data["x"])
    logits = x @ w
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    gradient = x.T @ (probs - np.eye(K)[np.asarray(data["label"])]) / N
    np.testing.assert_allclose(new.params["model"]["w"], w - 0.1 * gradient, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"].value, np.linalg.norm(gradient), rtol=2e-5)
    np.testing.assert_allclose(metrics["accuracy"].value, (logits.argmax(-1) == data["label"]).mean())
    assert int(new.step) == 1


def test_accuracy_is_argmax_with_ties_and_without_numbers():
    logits = np.random.default_rng(0).integers(0, 3, (50, 4, 5)).astype(np.float32)  # few values: ties in most rows
    logits[0, :, 2] = np.nan
    labels = np.tile(np.arange(5, dtype=np.int32), (50, 4, 1))
    for k in range(5):
        hits = _is_correct(jnp.asarray(logits), jnp.asarray(labels[:, :, k]))
        expected = logits.argmax(-1) == k
        expected[0] = False  # numpy finds the nan, and a step with one has no accuracy
        np.testing.assert_array_equal(hits, expected)


def test_a_table_teaches_like_the_live_teacher(data):
    teacher = {"params": {"w": jnp.ones((D, K)) * jnp.array([[1.0, -1.0]])}}
    answers = jnp.stack([jnp.full((len(data["x"]), 2), jnp.nan), data["x"] @ teacher["params"]["w"]])
    stored = {"params": {"teacher": jnp.int32(1)}, "answers": answers}
    batch = jax.tree.map(lambda leaf: leaf[jnp.array([5, 2, 9])], data)
    live_arch, table_arch = Architecture(LINEAR, LINEAR, (), SGD), Architecture(LINEAR, table(), (), SGD)
    live, _ = train_step(start(data, live_arch, 0, teacher), batch, teacher, from_config(KD), arch=live_arch)
    kept, _ = train_step(start(data, table_arch, 0, stored), batch, stored, from_config(KD), arch=table_arch)
    np.testing.assert_allclose(live.params["model"]["w"], kept.params["model"]["w"], rtol=1e-6)


def test_a_live_teacher_answers_in_evaluation_mode(data):
    def apply(params, model_state, batch, *, train, key):
        del key
        return Outputs((-1 if train else 1) * batch["x"] @ params["w"], {}), model_state

    two_faced = Model(LINEAR.init, apply)
    teacher = {"params": {"w": jnp.ones((D, K)) * jnp.array([[1.0, -1.0]])}}
    archs = [Architecture(LINEAR, model, (), SGD) for model in (two_faced, LINEAR)]
    steps = [train_step(start(data, a, 0, teacher), data, teacher, from_config(KD), arch=a)[0] for a in archs]
    np.testing.assert_array_equal(*(step.params["model"]["w"] for step in steps))


def test_a_head_is_trained_with_the_student_and_reaches_the_loss(data):
    def apply(params, model_state, context, *, train, key):
        return Outputs(context["student"].hidden["x"] @ params["v"], {}), model_state

    head = Model(lambda key, context: {"params": {"v": jnp.ones((D, K))}}, apply)
    arch = Architecture(LINEAR, nothing(), (("probe", head),), SGD)
    loss = from_config({"ce": {"fn": "cross_entropy", "weight": 1.0, "inputs": ("probe.logits", "batch.label")}})
    state = start(data, arch)
    new, _ = train_step(state, data, {"params": {}}, loss, arch=arch)
    assert not np.array_equal(new.params["heads"]["probe"]["v"], state.params["heads"]["probe"]["v"])
    np.testing.assert_array_equal(new.params["model"]["w"], state.params["model"]["w"])


def test_an_epoch_sees_every_example_once_and_epochs_differ():
    key = jax.random.key(1)
    first, second = (np.asarray(epoch_order(key, epoch, N)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(N))
    assert not np.array_equal(first, second)


def test_a_chunk_is_its_steps_and_however_cut_the_same_bits(data):
    arch = Architecture(LINEAR, nothing(), (), SGD)
    whole, (metrics, _) = chunk(population_of([start(data, arch)]), data, arch, LABELS, 0, 6)
    parts = population_of([start(data, arch)])
    for first, last in ((0, 1), (1, 4), (4, 6)):
        parts, _ = chunk(parts, data, arch, LABELS, first, last)
    np.testing.assert_array_equal(whole.state.params["model"]["w"], parts.state.params["model"]["w"])

    state, losses = start(data, arch), []
    order = epoch_order(state.key, 0, N)
    for step in range(6):
        batch = jax.tree.map(lambda leaf, s=step: leaf[order[s * BATCH : (s + 1) * BATCH]], data)
        state, one = train_step(state, batch, {"params": {}}, from_config(LABELS), arch=arch)
        losses.append(float(one["loss"].value))
    np.testing.assert_allclose(whole.state.params["model"]["w"][0], state.params["model"]["w"], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"].sum[0] / metrics["loss"].count[0], np.mean(losses), rtol=1e-5)


def blurred(key, batch):
    """Noise of its own for every example."""
    keys_B = jax.vmap(lambda example: jax.random.fold_in(key, example))(batch["id"])
    return {**batch, "x": batch["x"] + jax.vmap(lambda own: jax.random.normal(own, (D,)))(keys_B)}


def test_student_and_live_teacher_see_the_view_of_the_run_and_the_epoch(data):
    teacher = {"params": {"w": jnp.arange(D * K, dtype=jnp.float32).reshape(D, K)}}
    arch, plain = (Architecture(LINEAR, LINEAR, (), SGD, augment) for augment in (blurred, None))
    runs = population_of([start(data, arch, seed, teacher) for seed in range(2)])
    for first, last in ((0, 4), (4, 6), (6, 8)):  # six steps an epoch
        runs, _ = chunk(runs, data, arch, KD, first, last, teacher)
    for seed in range(2):
        state, views = start(data, plain, seed, teacher), []
        for step in range(8):
            epoch, i = divmod(step, N // BATCH)
            rows = epoch_order(state.key, epoch, N)[i * BATCH : (i + 1) * BATCH]
            batch = jax.tree.map(lambda leaf, rows=rows: leaf[rows], data)
            views.append(blurred(_view_key(state.key, jnp.int32(epoch)), batch))
            state, _ = train_step(state, views[-1], teacher, from_config(KD), arch=plain)
        np.testing.assert_allclose(runs.state.params["model"]["w"][seed], state.params["model"]["w"], rtol=1e-5)
    key = runs.state.key[0]
    assert not np.array_equal(*(blurred(_view_key(key, jnp.int32(epoch)), data)["x"] for epoch in (0, 1)))


def test_runs_of_a_population_do_not_touch_each_other(data):
    arch = Architecture(LINEAR, nothing(), (), SGD)
    three = population_of([start(data, arch, seed) for seed in range(3)])
    together, _ = chunk(three, data, arch, LABELS, 0, 6)
    for seed in range(3):
        single, _ = chunk(population_of([start(data, arch, seed)]), data, arch, LABELS, 0, 6)
        np.testing.assert_allclose(
            together.state.params["model"]["w"][seed], single.state.params["model"]["w"][0], atol=1e-6
        )


def test_a_non_finite_run_is_frozen_and_named_and_the_others_go_on(data):
    arch = Architecture(LINEAR, nothing(), (), SGD)
    good, bad = start(data, arch, 0), start(data, arch, 1)
    poisoned = bad._replace(params={"model": {"w": bad.params["model"]["w"].at[0, 0].set(jnp.nan)}, "heads": {}})
    before = np.asarray(poisoned.params["model"]["w"])
    both, (metrics, health) = chunk(population_of([good, poisoned]), data, arch, LABELS, 0, 6)
    single, _ = chunk(population_of([good]), data, arch, LABELS, 0, 6)
    np.testing.assert_array_equal(np.asarray(health.step), [-1, 0])
    assert checked_names(metrics)[int(health.metric[1])] == "ce"
    np.testing.assert_array_equal(both.state.params["model"]["w"][1], before)
    assert int(both.state.step[1]) == 0
    np.testing.assert_allclose(both.state.params["model"]["w"][0], single.state.params["model"]["w"][0], atol=1e-6)


@pytest.mark.parametrize(("last", "step", "metric"), [(1, 0, "parameters"), (6, 1, "ce")])
def test_parameters_that_a_finite_gradient_made_overflow_are_found(data, last, step, metric):
    arch = Architecture(LINEAR, nothing(), (), SGD)
    runs = population_of([start(data, arch, 0), start(data, arch, 1, learning_rate=float("inf"))])
    _, (metrics, health) = chunk(runs, data, arch, LABELS, 0, last)
    np.testing.assert_array_equal(np.asarray(health.step), [-1, step])
    assert checked_names(metrics)[int(health.metric[1])] == metric


def test_what_may_be_swept_does_not_compile_again(data):
    arch = Architecture(linear(), nothing(), (), SGD)
    before = train_chunk._cache_size()
    for rate, weight, last in ((0.1, 1.0, 3), (0.2, 0.5, 2), (0.3, 2.0, 6)):
        loss = {"ce": {"fn": "cross_entropy", "weight": weight}}
        chunk(population_of([start(data, arch, learning_rate=rate)]), data, arch, loss, 0, last)
    assert train_chunk._cache_size() == before + 1


# ---------------------------------------------------------------------------------------------- buckets


def bag_of_words() -> Model:
    """Sums embeddings over the real tokens, so that padding changes nothing; remembers how long its input was."""

    def apply(params, model_state, batch, *, train, key):
        del train, key
        real_BxL = jnp.arange(batch["tokens"].shape[1])[None] < batch["length"][:, None]
        sums_BxK = jnp.where(real_BxL[:, :, None], params["w"][batch["tokens"]], 0).sum(1)
        return Outputs(sums_BxK, {}), {"longest": jnp.maximum(model_state["longest"], batch["tokens"].shape[1])}

    def init(key, batch):
        return {"params": {"w": jax.random.normal(key, (9, K))}, "longest": jnp.int32(0)}

    return Model(init, apply)


@pytest.fixture
def sentences():
    rng = np.random.default_rng(1)
    length = rng.integers(1, 9, 27).astype(np.int32)
    tokens = np.where(np.arange(8) < length[:, None], rng.integers(1, 9, (27, 8)), 0).astype(np.int32)
    label = (tokens.sum(1) % 2).astype(np.int32)
    arrays = {"tokens": tokens, "length": length, "label": label, "id": np.arange(27, dtype=np.int32)}
    return jax.tree.map(jnp.asarray, arrays)


@pytest.mark.parametrize("edges", [(4,), (2, 6), (8,)])
def test_buckets_hold_like_lengths_in_the_order_of_the_run(sentences, edges):
    length = sentences["length"]
    order = functools.partial(bucketed_order, length_N=length, edges=edges, batch_size=BATCH)
    (rows, bucket), (other, other_bucket), (later, _) = (
        order(jax.random.key(seed), jnp.int32(epoch)) for seed, epoch in ((0, 0), (1, 0), (0, 1))
    )
    rows_of = [set(drawn.ravel().tolist()) for drawn in (rows, other, later)]
    assert len(rows_of[0]) == rows.size == 24
    assert rows_of[0] == rows_of[1] != rows_of[2]  # what is left out changes by epoch
    assert rows.tolist() != other.tolist() and bucket.tolist() == other_bucket.tolist()
    bounds = np.array([0, *edges, 8])
    longest = np.asarray(length)[np.asarray(rows)].max(1)
    assert (longest <= bounds[bucket + 1]).all() and (longest > bounds[bucket]).all()
    assert bucket.tolist() != sorted(bucket.tolist()) or len(set(bucket.tolist())) == 1


def test_a_chunk_in_buckets_is_its_steps_on_cut_batches(sentences):
    arch = Architecture(bag_of_words(), nothing(), (), SGD)
    states = [start(sentences, arch, seed) for seed in (0, 1)]
    last, _ = chunk(population_of(states), sentences, arch, LABELS, 1, 6, edges=(2, 5))
    for r in range(2):
        state = states[r]
        rows, bucket = bucketed_order(state.key, 0, sentences["length"], edges=(2, 5), batch_size=BATCH)
        for at in range(1, 6):
            batch = {k: v[rows[at]] for k, v in sentences.items()}
            state, _ = train_step(state, batch, {"params": {}}, from_config(LABELS), arch=arch)  # on all its padding
        np.testing.assert_allclose(last.state.params["model"]["w"][r], state.params["model"]["w"], atol=1e-6)
        longest = max([2, 5, 8][b] for b in bucket[1:6])
        assert last.state.model_state["model"]["longest"][r] == longest


@pytest.mark.parametrize(("drawn", "edges"), [((), (2, 5)), ((2, 5), ())])
def test_an_order_of_other_buckets_is_refused(sentences, drawn, edges):
    arch = Architecture(bag_of_words(), nothing(), (), SGD)
    population = population_of([start(sentences, arch)])
    order = draw_order(population.state.key, jnp.int32(0), sentences, batch_size=BATCH, edges=drawn)
    trees = stacked({"params": {}}, 1), stacked(from_config(LABELS), 1)
    with pytest.raises(ValueError, match="buckets does not fit edges"):
        train_chunk(population, *trees, sentences, order, jnp.int32(0), jnp.int32(1), arch=arch, edges=edges)


def test_buckets_are_steps_of_one_program(sentences):
    arch = Architecture(bag_of_words(), nothing(), (), SGD)
    before = train_chunk._cache_size()
    for first, last in ((0, 2), (2, 3), (3, 6)):
        population = population_of([start(sentences, arch, seed) for seed in (0, 1)])
        chunk(population, sentences, arch, LABELS, first, last, edges=(2, 5))
    assert train_chunk._cache_size() == before + 1


def test_what_is_no_value_of_a_token_is_not_cut(sentences):
    arrays = sentences | {"choices": jnp.zeros((27, 2)), "mask": jnp.ones((27, 8)), "logits": jnp.ones((27, 8, 3))}
    shapes = {name: values.shape for name, values in cut(arrays, 5).items()}
    assert shapes["tokens"] == shapes["mask"] == (27, 5) and shapes["logits"] == (27, 5, 3)
    assert shapes["choices"] == (27, 2) and shapes["length"] == shapes["label"] == (27,)


def test_noise_changes_with_the_step_and_with_the_run(data):
    def apply(params, model_state, batch, *, train, key):
        return Outputs(batch["x"] @ params["w"], {}), {"drawn": jax.random.uniform(key) if train else jnp.float32(0)}

    noisy = Model(lambda key, batch: {"params": {"w": jnp.zeros((D, K))}, "drawn": jnp.float32(0)}, apply)
    arch = Architecture(noisy, nothing(), (), SGD)
    first, other = (start(data, arch, seed) for seed in (0, 1))
    drawn = []
    for state in (first, first._replace(step=jnp.int32(1)), other):
        new, _ = train_step(state, data, {"params": {}}, from_config(LABELS), arch=arch)
        drawn.append(float(new.model_state["model"]["drawn"]))
    assert len(set(drawn)) == 3
