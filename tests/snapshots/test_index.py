"""The index: what was saved comes back bit for bit, by step or by metric; and the schedules of snapshots."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from snapshot_trees import assert_same, make_params, make_state

from kdib.snapshots import SCHEDULES, SnapshotError, SnapshotIndex, fingerprint, schedule


def test_params_come_back_without_a_template(index):
    params = {**make_params(), "empty": jnp.zeros((0, 3)), "layers": [jnp.ones(2, bool), {"w": jnp.uint8(3)}]}
    index.save(0, params, metrics={})
    assert_same(index.load(0), params)


def test_a_bare_array_and_an_index_without_arrays(index):
    index.save(0, jnp.arange(3), metrics={})
    index.save(1, (optax.EmptyState(), jnp.arange(3)), metrics={})
    assert_same(index.load(0), jnp.arange(3))
    assert_same(index.load(1), [None, jnp.arange(3)])


@pytest.mark.parametrize("abstract", [False, True])
def test_a_whole_state_comes_back_by_its_template(index, abstract):
    state = make_state()
    index.save(0, state, metrics={})
    template = jax.eval_shape(make_state) if abstract else make_state(1)
    loaded = index.load(0, template)
    assert_same(loaded, state)
    assert fingerprint(loaded) == fingerprint(index.load(0)) == index.fingerprint(0) == fingerprint(state)
    drawn = [jax.random.normal(tree.key["two"][1], (2,)) for tree in (loaded, state)]
    np.testing.assert_array_equal(*drawn)


def test_python_numbers_and_64_bits(index):
    tree = {"int": 3, "float": 0.5, "bool": True, "wide": np.arange(3, dtype=np.int64) + 2**40}
    index.save(0, tree, metrics={})
    loaded = index.load(0, tree)
    assert {name: loaded[name].dtype for name in tree} == {
        "int": jnp.int32,
        "float": jnp.float32,
        "bool": jnp.bool_,
        "wide": np.int64,
    }
    np.testing.assert_array_equal(loaded["wide"], tree["wide"])


def test_fingerprint_tells_apart_what_differs():
    zeros = jnp.zeros(4)
    trees = [
        {"a": zeros},
        {"b": zeros},
        {"a": {"b": zeros}},
        {"a/b": zeros},
        {"a": zeros.at[3].set(-0.0)},
        {"a": zeros.astype(jnp.int32)},
        {"a": zeros[None]},
        {"a": zeros[:2], "b": zeros[2:]},
        {"a": jax.random.key(0)},
        {"a": jax.random.key_data(jax.random.key(0))},
        {"a": jax.random.key(0, impl="rbg")},
        {"a": jax.random.key(0, impl="unsafe_rbg")},
        {},
    ]
    assert len({fingerprint(tree) for tree in trees}) == len(trees)


def test_fingerprint_ignores_order_container_and_placement():
    state = make_state()
    assert fingerprint(state) == fingerprint(dict(reversed(state._asdict().items())))
    moved = jax.device_put(make_params(), jax.devices()[3])
    assert fingerprint(moved) == fingerprint(make_params()) == fingerprint(jax.device_get(make_params()))
    transposed = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3).T}
    assert fingerprint(transposed) == fingerprint({"w": np.ascontiguousarray(transposed["w"])})


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ({"a": "text"}, "found 'text'"),
        ({"a": np.array(["text"])}, "found one of <U4"),
        ({0: jnp.ones(2)}, "dict keys that are strings"),
        ({}, "no numbers"),
        ({"a": jnp.zeros(0)}, "no numbers"),
    ],
)
def test_what_cannot_be_stored_is_refused(index, tree, why):
    with pytest.raises(SnapshotError, match=why):
        index.save(5, tree, metrics={})
    assert index.steps() == []


def test_metrics_and_meta_that_cannot_be_stored_are_refused(index):
    for wrong in ({"metrics": {"step": 1.0}}, {"metrics": {}, "meta": {"x": np.float32(1)}}):
        with pytest.raises(SnapshotError, match="run/5"):
            index.save(5, make_params(), **wrong)
    assert index.steps() == []
    index.save(5, make_params(), metrics={"loss": np.float32(0.5), "nll": jnp.float32(0.25)})
    assert index.table()[0]["loss"] == 0.5


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: {"dense": {**p["dense"], "kernel": p["dense"]["kernel"].astype(jnp.bfloat16)}}, "bfloat16.*float32"),
        (lambda p: {"dense": {**p["dense"], "kernel": p["dense"]["kernel"].T}}, r"expected .*4, 3.*actual .*3, 4"),
        (lambda p: {"dense": {"kernel": p["dense"]["kernel"]}}, "dense/bias: expected None, actual .*bfloat16"),
        (lambda p: {"dense": {**p["dense"], "scale": jnp.ones(4)}}, "dense/scale: expected .*actual None"),
        (lambda p: {"dense": {**p["dense"], "kernel": jax.random.key(0)}}, "threefry2x32.*actual .*float32"),
    ],
)
def test_a_template_that_differs_is_named(three, change, why):
    with pytest.raises(SnapshotError, match=f"run/10: .*{why}"):
        three.load(10, jax.eval_shape(change, make_params()))
    with pytest.raises(SnapshotError, match=why):
        three.load_many([0, 10], jax.eval_shape(change, make_params()))


def test_another_implementation_of_keys_is_not_the_template(index):
    index.save(0, {"key": jax.random.key(0, impl="rbg")}, metrics={})
    with pytest.raises(SnapshotError, match=r"expected .*unsafe_rbg.*actual .*'rbg'"):
        index.load(0, {"key": jax.random.key(0, impl="unsafe_rbg")})


def test_the_table_and_its_queries(three):
    assert three.steps() == [0, 10, 30]
    expected = {"step": 10, "fingerprint": fingerprint(make_params(10)), "loss": 0.5, "accuracy": 0.5}
    assert three.table()[1] == expected
    assert three.meta(30) == {"epoch": 3.0}
    assert [three.nearest(step) for step in (-3, 4, 5, 6, 20, 21, 99)] == [0, 0, 0, 10, 10, 30, 30]
    assert (three.best("loss"), three.best("loss", mode="max")) == (10, 0)
    assert (three.best("accuracy"), three.best("accuracy", mode="max")) == (0, 10)
    assert three.where(lambda row: row["loss"] < 1 and row["step"] > 10) == [30]


def test_best_prefers_the_first_and_passes_over_what_is_not_finite(index):
    for step, loss in enumerate([float("nan"), 1.0, 0.5, 0.5, float("-inf"), float("inf")]):
        index.save(step, make_params(step), metrics={"loss": loss})
    assert (index.best("loss"), index.best("loss", mode="max")) == (2, 1)


def test_errors_name_the_place_and_list_the_known(three, tmp_path):
    for call, why in [
        (lambda: three.load(20), r"no snapshot of step 20 in .*run; there are \[0, 10, 30\]"),
        (lambda: three.load_many([]), r"no steps to load; there are \[0, 10, 30\]"),
        (lambda: three.best("los"), r"no metric 'los'; known: \['accuracy', 'loss'\]"),
        (lambda: three.best("loss", mode="least"), "'least', expected 'min' or 'max'"),
        (lambda: SnapshotIndex(tmp_path / "absent", read_only=True), "no snapshots to read: .*absent"),
    ]:
        with pytest.raises(SnapshotError, match=why):
            call()
    assert not (tmp_path / "absent").exists()


def test_an_empty_index_has_no_nearest_and_no_best(index):
    assert index.steps() == index.table() == []
    for call in (lambda: index.nearest(3), lambda: index.best("loss")):
        with pytest.raises(SnapshotError, match=r"run"):
            call()


def test_load_many_is_the_loop(index):
    for step in (3, 1, 2):
        index.save(step, make_state(step), metrics={})
    template = jax.eval_shape(make_state)
    steps = [2, 3, 1, 2]
    many = index.load_many(steps, template)
    for row, step in enumerate(steps):
        assert_same(jax.tree.map(lambda leaf, row=row: leaf[row], many), make_state(step))


def test_load_many_refuses_different_trees(three):
    three.save(40, {"other": jnp.ones(2)}, metrics={})
    with pytest.raises(SnapshotError, match="steps 0 and 40 hold different trees"):
        three.load_many([0, 10, 40])


def test_a_reader_sees_what_was_saved_after_it_opened(three):
    with SnapshotIndex(three.path, read_only=True) as reader:
        three.save(40, make_params(40), metrics={"loss": 0.1, "accuracy": 1.0})
        assert reader.best("loss") == 40
        assert_same(reader.load(40), make_params(40))


def test_no_thread_outlives_the_index_and_nothing_is_logged(tmp_path, caplog):
    before = set(threading.enumerate())
    with SnapshotIndex(tmp_path / "run") as writer:
        writer.save(0, make_params(), metrics={})
    with SnapshotIndex(tmp_path / "run", read_only=True) as reader:
        reader.load(0)
    assert {thread for thread in threading.enumerate() if thread.is_alive()} <= before
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


def test_schedules():
    assert schedule("every", 10, 3, n=4) == (0, 4, 8, 10)
    assert schedule("every", 8, 3, n=4) == (0, 4, 8)
    assert schedule("powers_of_two_epochs", 100, 10) == (0, 10, 20, 40, 80, 100)
    assert schedule("powers_of_two_epochs", 80, 10) == (0, 10, 20, 40, 80)
    assert schedule("explicit", 100, 10, steps=(70, 7, 7)) == (0, 7, 70, 100)
    published = schedule("dense_then_sparse", 25_000, 469)
    assert published[:3] == (0, 50, 100)
    assert published[9:13] == (450, 500, 1000, 1500)
    assert len(published) - 1 == 59  # PAPERS: 59 snapshots to 25k, the untrained network aside
    assert schedule("dense_then_sparse", 120, 10) == (0, 50, 100, 120)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("total", [0, 1, 6, 7, 500, 777])
def test_every_schedule_is_sorted_and_has_both_ends(name, total):
    required = {"every": {"n": 7}, "explicit": {"steps": ()}}
    steps = schedule(name, total, 5, **required.get(name, {}))
    assert steps == tuple(sorted(set(steps)))
    assert (steps[0], steps[-1]) == (0, total)


@pytest.mark.parametrize("keep", [0, -1])
def test_an_index_that_would_keep_nothing_is_refused(tmp_path, keep):
    with pytest.raises(SnapshotError, match=f"keep must be None or at least 1, got {keep}"):
        SnapshotIndex(tmp_path, keep=keep)


def test_a_step_below_zero_is_refused(tmp_path):
    with SnapshotIndex(tmp_path) as index, pytest.raises(SnapshotError, match="a step must be at least 0, got -1"):
        index.save(-1, {"a": np.zeros(2)}, metrics={})


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: schedule("evry", 10, 1), r"unknown snapshot schedule 'evry'; known: \['dense_then_sparse'"),
        (lambda: schedule("every", 10, 1, m=3), r"its knobs: \['n'\]"),
        (lambda: schedule("every", 10, 1), r"missing .*'n'.*its knobs: \['n'\]"),
        (lambda: schedule("every", 10, 1, n=0), "every 0 steps"),
        (lambda: schedule("dense_then_sparse", 10, 1, sparse=-1), "sparse must be a whole number >= 0, got -1"),
        (lambda: schedule("every", 10, 1, n="10"), "n must be a whole number >= 0, got '10'"),
        (lambda: schedule("explicit", 10, 1, steps=(5.5,)), r"steps must be a whole number >= 0, got 5\.5"),
        (lambda: schedule("explicit", 10, 1, steps=10), r"steps must be several, such as \(100, 200\), got 10"),
        (lambda: schedule("explicit", 10, 1, steps=(3, 11)), r"\[11\] are outside \[0, total_steps=10\]"),
    ],
)
def test_a_wrong_schedule_is_named(call, why):
    with pytest.raises(ValueError, match=why):
        call()
