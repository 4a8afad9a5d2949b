"""The index: what was saved comes back bit for bit, or an error names the step; nothing altered is ever used."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdib.snapshots import SCHEDULES, SnapshotError, SnapshotIndex, fingerprint, schedule


class State(NamedTuple):
    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array


def make_params(seed=0):
    kernel_key, bias_key = jax.random.split(jax.random.key(seed))
    kernel_3x4 = jax.random.normal(kernel_key, (3, 4))
    return {"dense": {"kernel": kernel_3x4, "bias": jax.random.normal(bias_key, (4,), jnp.bfloat16)}}


def make_state(seed=0):
    params = {"model": make_params(seed), "heads": {}}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    keys = {"one": jax.random.key(seed), "two": jax.random.split(jax.random.key(seed, impl="rbg"), 2)}
    return State(jnp.int32(7), params, tx.init(params), keys)


def data(leaf):
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, jax.Array)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(data(a), data(b))


@pytest.fixture
def index(tmp_path):
    with SnapshotIndex(tmp_path / "run") as opened:
        yield opened


@pytest.fixture
def three(index):
    for step, loss in ((0, 2.0), (10, 0.5), (30, 0.75)):
        index.save(step, make_params(step), metrics={"loss": loss, "accuracy": 1 - loss}, meta={"epoch": step / 10})
    return index


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


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_saving_the_same_again_does_nothing(three):
    before = stamps(three.path)
    three.save(10, make_params(10), metrics={"loss": 0.5, "accuracy": 0.5}, meta={"epoch": 1.0})
    assert stamps(three.path) == before


def test_saving_other_content_replaces_any_step(three):
    three.save(10, make_params(11), metrics={"loss": 0.4})
    three.save(5, make_params(5), metrics={"loss": 0.3})
    assert three.steps() == [0, 5, 10, 30]
    assert_same(three.load(10), make_params(11))
    assert_same(three.load(5), make_params(5))
    three.save(10, make_params(11), metrics={"loss": 0.2})
    assert three.best("loss") == 10
    assert sorted(os.listdir(three.path)) == ["0", "10", "30", "5"]


@pytest.mark.parametrize("item", ["arrays", "record"])
def test_saving_over_a_damaged_step_repairs_it(three, item):
    shutil.rmtree(three.path / "10" / item)
    three.save(10, make_params(10), metrics={"loss": 0.5, "accuracy": 0.5}, meta={"epoch": 1.0})
    assert_same(three.load(10), make_params(10))


def test_keep_keeps_the_newest_by_step(tmp_path):
    with SnapshotIndex(tmp_path / "state", keep=2) as index:
        for step in (1, 10, 2, 3):
            index.save(step, make_params(step), metrics={})
            assert_same(index.load(max(index.steps())), make_params(max(index.steps())))
        assert index.steps() == [3, 10]
        assert sorted(os.listdir(index.path)) == ["10", "3"]
    with SnapshotIndex(tmp_path / "state", keep=1) as index:
        index.save(11, make_params(11), metrics={})
        assert index.steps() == [11]


def expect_detected_or_harmless(index, detected, path):
    try:
        loaded = index.load(10)
    except SnapshotError as error:
        assert str(index.path / "10") in str(error)
        return [*detected, path.name]
    assert fingerprint(loaded) == fingerprint(make_params(10))
    assert index.meta(10) == {"epoch": 1.0}
    return detected


def damage_each_file(index, damage):
    detected = []
    files = files_of(index.path / "10")
    for path in files:
        whole = path.read_bytes()
        for damaged in damage(whole):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            assert index.steps() == [0, 10, 30]
            assert_same(index.load(30), make_params(30))
            detected = expect_detected_or_harmless(index, detected, path)
            path.write_bytes(whole)
    assert_same(index.load(10), make_params(10))
    return detected


def flipped(whole, place):
    return whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]


def test_a_flipped_bit_in_any_file_is_detected_or_harmless(three):
    rng = random.Random(0)
    detected = damage_each_file(
        three, lambda whole: [flipped(whole, rng.randrange(len(whole))) for _ in range(6)] if whole else []
    )
    assert "metadata" in detected  # the record
    assert len(detected) > 10


def test_every_bit_flip_in_the_record_is_detected(three):
    path = three.path / "10" / "record" / "metadata"
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(flipped(whole, place))
        with pytest.raises(SnapshotError, match="run/10"):
            three.load(10)
        with pytest.raises(SnapshotError, match="run/10"):
            three.table()


def test_a_flipped_number_is_detected(three, tmp_path):
    """Not the file but what Orbax restores from it: a whole valid snapshot with other arrays."""
    with SnapshotIndex(tmp_path / "other") as other:
        other.save(10, make_params(11), metrics={})
        shutil.rmtree(three.path / "10" / "arrays")
        shutil.copytree(other.path / "10" / "arrays", three.path / "10" / "arrays")
    with pytest.raises(SnapshotError, match=r"run/10: .*arrays were altered"):
        three.load(10)


def test_a_truncated_or_deleted_file_is_detected_or_harmless(three):
    detected = damage_each_file(three, lambda whole: [None, b"", whole[: len(whole) // 2]])
    assert "metadata" in detected
    assert len(detected) > 5


def test_a_step_with_nothing_in_it_is_listed_and_raises(three):
    (three.path / "20").mkdir()
    shutil.rmtree(three.path / "30" / "arrays")
    (three.path / "30" / "_CHECKPOINT_METADATA").write_text("[1]")
    with SnapshotIndex(three.path, read_only=True) as reader:
        assert reader.steps() == [0, 10, 20, 30]
        for step in (20, 30):
            with pytest.raises(SnapshotError, match=f"run/{step}: "):
                reader.load(step)
        with pytest.raises(SnapshotError, match="run/20"):
            reader.table()
        assert_same(reader.load(10), make_params(10))


def test_a_step_that_was_renamed_is_detected(three):
    (three.path / "10").rename(three.path / "20")
    with pytest.raises(SnapshotError, match=r"run/20: .*saved as step 10"):
        three.load(20)


def test_a_writer_removes_what_a_killed_one_left_and_a_reader_does_not(three):
    shutil.copytree(three.path / "10", three.path / "20.orbax-checkpoint-tmp")
    shutil.copytree(three.path / "10", three.path / "deleted" / "15")
    with SnapshotIndex(three.path, read_only=True) as reader:
        assert reader.steps() == [0, 10, 30]
    assert len(os.listdir(three.path)) == 5
    with SnapshotIndex(three.path) as writer:
        writer.save(31, make_params(31), metrics={})
    assert sorted(os.listdir(three.path)) == ["0", "10", "30", "31"]


def test_reading_another_workdir_changes_nothing_there(three, tmp_path):
    three.close()
    before = stamps(tmp_path)
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with SnapshotIndex(os.path.relpath(three.path), read_only=True) as reader:
        assert_same(reader.load(reader.best("loss")), make_params(10))
        reader.load_many(reader.steps())
        reader.table()
        with pytest.raises(SnapshotError, match="read_only=True; step 40 was not saved"):
            reader.save(40, make_params(), metrics={})
    assert stamps(tmp_path) == before
    for path in before:
        path.chmod(0o755)


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


def value_tree(value):
    return {"w": np.full((300, 100), value, np.float32)}


def assert_all_listed_are_whole(index):
    for row in index.table():
        np.testing.assert_array_equal(index.load(row["step"])["w"], value_tree(row["value"])["w"])


class DyingProcess:
    """From the n-th change of the file system on, none succeeds any more."""

    def __init__(self, monkeypatch, alive_for):
        self.left = alive_for
        for name in ("unlink", "remove", "rmdir", "rename", "replace", "mkdir"):
            monkeypatch.setattr(os, name, self.dying(getattr(os, name)))

    def dying(self, function):
        def call(*args, **kwargs):
            if self.left == 0:
                raise RuntimeError("dead")
            self.left -= 1
            return function(*args, **kwargs)

        return call


def test_dying_at_any_change_of_the_file_system_leaves_whole_steps(tmp_path):
    with SnapshotIndex(tmp_path / "before") as index:
        for step in (1, 2):
            index.save(step, value_tree(step), metrics={"value": step})
    for alive_for in range(0, 200, 2):  # a commit is more than two changes, and so is an unsafe deletion
        path = shutil.copytree(index.path, tmp_path / str(alive_for))
        with (
            SnapshotIndex(path, keep=2) as writer,
            pytest.MonkeyPatch.context() as patch,
            contextlib.suppress(RuntimeError, SnapshotError),
        ):
            process = DyingProcess(patch, alive_for)
            writer.save(2, value_tree(7), metrics={"value": 7})
            writer.save(3, value_tree(3), metrics={"value": 3})
        with SnapshotIndex(path, read_only=True) as reader:
            assert set(reader.steps()) in ({1, 2}, {1}, {1, 2, 3}, {2, 3})
            assert_all_listed_are_whole(reader)
        with SnapshotIndex(path, keep=2) as resumed:
            resumed.save(4, value_tree(4), metrics={"value": 4})
            assert_all_listed_are_whole(resumed)
            assert sorted(os.listdir(path)) == sorted(map(str, resumed.steps()))
        if process.left:
            break
    assert alive_for > 20
    assert process.left


WRITER = """
import sys
import numpy as np
from kdib.snapshots import SnapshotIndex
path, keep = sys.argv[1], int(sys.argv[2]) or None
with SnapshotIndex(path, keep=keep) as index:
    for i in range(10_000):  # a new step, then another content for the one before it
        index.save(i, {"w": np.full((300, 100), i, np.float32)}, metrics={"value": i})
        index.save(max(i - 1, 0), {"w": np.full((300, 100), -i, np.float32)}, metrics={"value": -i})
        print(i, flush=True)
"""


def test_whatever_is_listed_after_a_kill_is_whole(tmp_path):
    rng = random.Random(os.getpid())  # other moments in every run
    keeps = {str(tmp_path / "all"): 0, str(tmp_path / "two"): 2, str(tmp_path / "two_more"): 2}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, str(keep)], stdout=subprocess.PIPE, text=True)
        for path, keep in keeps.items()
    ]
    for writer, (path, keep) in zip(writers, keeps.items(), strict=True):
        assert writer.stdout.readline() == "0\n"
        time.sleep(rng.uniform(0, 0.6))
        writer.send_signal(signal.SIGKILL)
        last = int(("0\n" + writer.communicate()[0]).split()[-1])
        for read_only in (True, False):
            with SnapshotIndex(path, read_only=read_only) as index:
                assert last <= index.steps()[-1] <= last + 1
                assert not keep or len(index.steps()) <= keep + 1
                assert_all_listed_are_whole(index)


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


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: schedule("evry", 10, 1), r"unknown snapshot schedule 'evry'; known: \['dense_then_sparse'"),
        (lambda: schedule("every", 10, 1, m=3), r"its knobs: \['n'\]"),
        (lambda: schedule("every", 10, 1), r"missing .*'n'.*its knobs: \['n'\]"),
        (lambda: schedule("every", 10, 1, n=0), "every 0 steps"),
        (lambda: schedule("dense_then_sparse", 10, 1, sparse=-1), "every -1 steps"),
        (lambda: schedule("explicit", 10, 1, steps=(3, 11)), r"\[11\] are outside \[0, total_steps=10\]"),
    ],
)
def test_a_wrong_schedule_is_named(call, why):
    with pytest.raises(ValueError, match=why):
        call()
