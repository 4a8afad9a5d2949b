"""Text of any size: divided by digests, encoded block by block, kept in files that are checked."""

import copy
import gzip
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from test_agreement_tfds import COLUMNS, PLURAL, SINGULAR, assert_same

from kdib.tasks import columns
from kdib.tasks.agreement import corpus, encoding, stream
from kdib.tasks.agreement import tfds as agreement_tfds
from kdib.tasks.agreement.stream import StreamSettings, divide


def lines(n):
    return [(PLURAL, SINGULAR)[i % 2].format(i % 7, i // 3) for i in range(n)]


def table(path, rows):
    text = "\n".join(["\t".join(COLUMNS), *rows]) + "\n"
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as stream_:
        stream_.write(text)
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Two files of 600 sentences with 100 repetitions, and a pair with both numbers; and a set of another source."""
    folder = tmp_path_factory.mktemp("text")
    rows = lines(600)
    long = (
        "the key" + " to the café" * 40 + " is here\t" + "DT NN" + " IN DT NN" * 40 + " VBZ RB\tVBZ\t123\t0\t0\t1\tare"
    )
    both = [
        "the sheep {0} here\tDT NN {1} RB\t{1}\t3\t0\t0\t1\t".format(*form) for form in (("is", "VBZ"), ("are", "VBP"))
    ]
    table(folder / "a.tsv", [*rows[:400], long, *both])
    table(folder / "b.tsv.gz", [*rows[400:], *rows[:100]])
    table(folder / "other.tsv", [row.replace("to the", "beside the") for row in rows[:30]] + rows[:20])
    return folder


def settings_of(text, cache, **changes):
    paths = {"train": (str(text / "a.tsv"), str(text / "b.tsv.gz")), "tests": (f"other={text / 'other.tsv'}",)}
    return StreamSettings(**paths | {"cache": str(cache), "max_length": 20, "ratios": (0.6, 0.2, 0.2)} | changes)


@pytest.fixture(scope="module")
def task(text, tmp_path_factory):
    return stream.build(settings_of(text, tmp_path_factory.mktemp("cache")))


def rows_of(data):
    return [row.tobytes() for row in data.inputs["tokens"]]


# ---- reading


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_blocks_are_what_is_read_whole(text, size):
    blocks = list(corpus.blocks(text / "a.tsv", size))
    assert {block.size for block in blocks[:-1]} <= {size}
    assert_same(encoding.join(blocks), corpus.read(text / "a.tsv"))


def test_blocks_of_folders_aligned_files_and_prepared_sets(data_dir, text, tmp_path):
    agreement_tfds.prepare(text / "a.tsv", tmp_path)
    for path in (data_dir / "agreement" / "linzen_testset", text, f"tfds:kdib_agreement@{tmp_path}"):
        assert_same(encoding.join(list(corpus.blocks(path, 97))), corpus.read(path))
        assert corpus.key(path) == corpus.key(path)


# ---- the division


def test_nothing_is_in_two_sets_though_it_was_repeated(task):
    held = {"train": task.train, "validation": task.validation, **task.tests}
    assert list(task.tests) == ["test", "other"]
    rows = {name: rows_of(data) for name, data in held.items()}
    assert all(rows.values())
    for one, other in [("train", "validation"), *itertools.product(("train", "validation"), task.tests)]:
        assert not {*rows[one]} & {*rows[other]}, (one, other)
    removed = copy.deepcopy(task.facts["removed"])
    repeated = 100 + 600 - distinct()
    assert removed["training_text"] == {
        "read": 703, "unmarked": 0, "too_long": 1, "repeated": repeated, "ambiguous": 2
    }  # fmt: skip
    assert removed["other"]["words_seen_in_training"] > 0
    assert removed["other"].pop("read") - sum(removed["other"].values()) == task.tests["other"].size


def distinct():
    return len({row.split("\t")[0].rsplit(" ", 2)[0] for row in lines(600)})


keys = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1)), max_size=120)


@budget(max_examples=60, deadline=None)
@given(keys, st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.5, 0.0), (1.0, 0.0, 0.0)]))
def test_a_division_by_digest_keeps_one_of_each_and_none_of_the_ambiguous(drawn, ratios):
    spread = np.random.default_rng(0).integers(0, 2**63, 41, dtype=np.uint64)  # digests of 41 inputs
    keys_M = np.array([int(spread[i]) << 1 | label for i, label in drawn], np.uint64)
    part_M, counts = divide(keys_M, ratios)
    numbers = {i: {label for j, label in drawn if j == i} for i, _ in drawn}
    first = [k for k, (i, _) in enumerate(drawn) if len(numbers[i]) == 1 and i not in [j for j, _ in drawn[:k]]]
    assert np.flatnonzero(part_M).tolist() == first
    n_ambiguous = sum(len(numbers[i]) == 2 for i, _ in drawn)
    assert counts == {"repeated": len(drawn) - n_ambiguous - len(first), "ambiguous": n_ambiguous}


def test_the_sets_have_their_shares_and_a_set_does_not_depend_on_what_else_is_read():
    keys_M = np.random.default_rng(0).integers(0, 2**63, 20_000, dtype=np.uint64) << 1
    part_M, _ = divide(keys_M, (0.7, 0.2, 0.1))
    np.testing.assert_allclose(np.bincount(part_M, minlength=4) / 20_000, [0, 0.7, 0.2, 0.1], atol=0.015)
    np.testing.assert_array_equal(divide(keys_M[::3], (0.7, 0.2, 0.1))[0], part_M[::3])


def test_slices_and_chunks_change_nothing(monkeypatch):
    keys_M = np.random.default_rng(0).integers(0, 2**63, 500, dtype=np.uint64)[np.arange(900) % 500] << 1
    expected = divide(keys_M, (0.7, 0.2, 0.1))
    for bits in (1, 4, 7):
        monkeypatch.setattr(stream, "CHUNK", 37)
        monkeypatch.setattr(stream, "SLICE_BITS", bits)
        part_M, counts = divide(keys_M, (0.7, 0.2, 0.1))
        np.testing.assert_array_equal(part_M, expected[0])
        assert counts == expected[1]


@pytest.mark.parametrize("rows", [9, 11])
def test_columns_of_another_length_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match=rf"train.\* of {{'x': {rows}}} rows, expected 10: did the text change"):
        columns.write(tmp_path, "train", 10, [{"x": np.arange(4)}, {"x": np.arange(rows - 4)}])


def test_text_that_changes_while_it_is_read_is_refused_and_leaves_nothing(text, tmp_path, monkeypatch):
    changing, pick = table(tmp_path / "c.tsv", lines(60)), stream._pick

    def meanwhile(settings, part_M):
        picked = pick(settings, part_M)
        table(changing, [row.replace("here", "there") for row in lines(60)])
        return picked

    monkeypatch.setattr(stream, "_pick", meanwhile)
    settings = settings_of(text, tmp_path / "cache", train=(str(changing),), tests=())
    with pytest.raises(ValueError, match="changed while it was read"):
        stream.build(settings)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


# ---- the sets


def test_the_training_inputs_are_mapped_and_encoded_as_they_would_be_in_memory(text, task, monkeypatch, tmp_path):
    assert all(isinstance(values, np.memmap) for values in task.train.inputs.values())
    assert task.train.inputs["id"].tolist() == list(range(task.train.size)) and task.facts["sets"]["train"]["size"] > 0
    whole = encoding.join([corpus.read(text / name) for name in ("a.tsv", "b.tsv.gz")])
    fitting, _ = corpus.unique(encoding.fitting(whole, 20))
    part_M, _ = divide(stream.keys_of(fitting, 0), (0.6, 0.2, 0.2))
    training = encoding.take(fitting, np.flatnonzero(part_M == stream.TRAIN))
    vocab = encoding.vocabulary(training, size=10_000, min_count=2)
    for name, values in encoding.encode(training, vocab, 20).items():
        np.testing.assert_array_equal(task.train.inputs[name], values, strict=True)
    monkeypatch.setattr(stream, "BLOCK", 11)
    again = stream.build(settings_of(text, tmp_path))
    for name, values in task.train.inputs.items():
        np.testing.assert_array_equal(again.train.inputs[name], values)
    assert again.input_digest == task.input_digest
    assert {**again.facts, "settings": 0} == {**task.facts, "settings": 0}


def test_whole_sentences_are_prepared_for_a_language_model(text, tmp_path):
    task = stream.build(settings_of(text, tmp_path, setup="language_model"))
    assert task.num_classes is None and task.train.inputs["mask"].dtype == bool
    assert {"choices", "target", "position"} <= set(task.tests["other"].inputs) and task.train.size > 100


def test_small_sets_are_capped_and_the_training_set_is_not(text, task, tmp_path):
    capped = stream.build(settings_of(text, tmp_path, max_per_set=9))
    assert capped.train.size == task.train.size and capped.facts["sets"]["train"]["described"] == 9
    assert max(data.size for data in (capped.validation, *capped.tests.values())) <= 9
    with pytest.raises(ValueError, match="max_per_set must be at least 1"):
        settings_of(text, tmp_path, max_per_set=0)


# ---- what is kept


def folder_of(cache):
    (folder,) = (path for path in Path(cache).iterdir() if path.is_dir())
    return folder


def refuse(*_):
    raise AssertionError("what is kept was made again")


def test_what_is_kept_is_used_for_the_same_settings_and_text_only(text, tmp_path, monkeypatch):
    first = stream.build(settings_of(text, tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(stream, "_prepare", refuse)
        again = stream.build(settings_of(text, tmp_path))
        assert rows_of(again.validation) == rows_of(first.validation) and again.facts == first.facts
        for change in ({"seed": 1}, {"tests": ()}, {"max_length": 19}):
            with pytest.raises(AssertionError, match="made again"):
                stream.build(settings_of(text, tmp_path, **change))
    moved = tmp_path / "text"
    moved.mkdir()
    for name in ("a.tsv", "b.tsv.gz", "other.tsv"):
        (moved / name).write_bytes((text / name).read_bytes())
    kept = settings_of(moved, tmp_path / "cache")
    before = stream.build(kept)
    table(moved / "a.tsv", lines(300))
    assert stream.build(kept).train.size != before.train.size


@pytest.mark.parametrize("name", ["train.tokens.npy", "0.inputs.tokens.npy", "1.groups.mu.npy", columns.MANIFEST])
@pytest.mark.parametrize("damage", ["altered", "cut", "gone"])
def test_damage_is_named_and_never_used(text, tmp_path, name, damage):
    stream.build(settings_of(text, tmp_path, tests=()))
    file = folder_of(tmp_path) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    {"altered": lambda: file.write_bytes(content), "cut": lambda: file.write_bytes(content[:-3]), "gone": file.unlink}[
        damage
    ]()
    with pytest.raises(ValueError, match=f"{folder_of(tmp_path).name}: found .*delete the folder to rebuild it"):
        stream.build(settings_of(text, tmp_path, tests=()))


def test_a_folder_made_for_something_else_is_refused(text, tmp_path):
    stream.build(settings_of(text, tmp_path, tests=()))
    mine = folder_of(tmp_path)
    other = tmp_path / "other"
    stream.build(settings_of(text, other, tests=(), seed=1))
    mine.rename(tmp_path / "aside")
    folder_of(other).rename(mine)
    with pytest.raises(ValueError, match="made for the settings and text"):
        stream.build(settings_of(text, tmp_path, tests=()))


def test_what_a_killed_preparation_left_is_not_taken_for_a_whole_one(text, tmp_path):
    build = "from kdib.tasks.agreement import stream; from kdib.tasks.agreement.stream import *; import os\n"
    build += "stream.columns._store = lambda *_: os._exit(9)\n"
    build += f"stream.build({settings_of(text, tmp_path)!r})"
    assert subprocess.run([sys.executable, "-c", build], check=False).returncode == 9
    assert folder_of(tmp_path).name.endswith(".partial") and list(folder_of(tmp_path).glob("train.*.npy"))
    assert stream.build(settings_of(text, tmp_path)).train.size > 100
    assert not folder_of(tmp_path).name.endswith(".partial")


def test_two_processes_prepare_it_once(text, tmp_path):
    settings = settings_of(text, tmp_path)
    code = (
        "import sys, json; from kdib.tasks.agreement import stream\n"
        "prepare = stream._prepare\n"
        "stream._prepare = lambda *rest: print('prepared') or prepare(*rest)\n"
        f"task = stream.build(stream.StreamSettings(**{vars(settings)!r})); print(task.train.size)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].split() for process in both]
    assert sorted(len(words) for words in outputs) == [1, 2] and outputs[0][-1] == outputs[1][-1]


def test_a_missing_path_costs_a_line_and_no_time(tmp_path):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"config\.task\.train: no file or folder 'none\.tsv'"):
        stream.build(StreamSettings(train=("none.tsv",), cache=str(tmp_path)))
    assert time.monotonic() - start < 5 and not list(tmp_path.iterdir())


def test_what_it_says_of_itself_is_json(task):
    assert json.loads(json.dumps(task.facts)) == task.facts
