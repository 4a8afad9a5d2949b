"""Nothing altered is ever used: flipped bits, truncated files, dying writers; an error names the step."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from snapshot_trees import assert_same, make_params

from kdib.snapshots import SnapshotError, SnapshotIndex, fingerprint


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
