"""The TFDS set kdib_agreement: what goes in comes out in either format, without TensorFlow and without a network."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pytest
import tensorflow_datasets as tfds
from test_prepared import framed

from kdib.tasks import prepared
from kdib.tasks.agreement import corpus, formats
from kdib.tasks.agreement import sets as sets_module
from kdib.tasks.agreement import task as agreement
from kdib.tasks.agreement import tfds as agreement_tfds
from kdib.tasks.agreement.encoding import Examples
from kdib.tasks.agreement.task import CorpusSettings

COLUMNS = ("orig_sentence", *formats.NEEDED, "verb_alt")
PLURAL = "the keys{} to the Café{} are here\tDT NNS IN DT NN VBP RB\tVBP\t6\t1\t1\t4\tis"
SINGULAR = "the key{} to the café{} is here\tDT NN IN DT NN VBZ RB\tVBZ\t6\t1\t0\t4\tare"


def in_small_blocks(monkeypatch):
    from kdib.tasks.agreement import builder

    monkeypatch.setattr(builder, "BLOCK", 7)
    monkeypatch.setattr(corpus, "read", None)  # a text that does not fit into memory is never read at once


def table(path, n=60):
    rows = [(PLURAL, SINGULAR)[i % 2].format(i % 8, i // 8) for i in range(n)]
    path.write_text("\n".join(["\t".join(COLUMNS), *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """(the table, the folder of the set prepared from it)."""
    folder = tmp_path_factory.mktemp("toy")
    agreement_tfds.prepare(table(folder / "toy.tsv"), folder / "sets")
    return folder / "toy.tsv", folder / "sets"


@pytest.fixture
def sets(toy, tmp_path):
    """A copy of the prepared set, free to be broken."""
    return shutil.copytree(toy[1], tmp_path / "sets", ignore=shutil.ignore_patterns("*.npz"))


def name(folder):
    return f"tfds:kdib_agreement@{folder}"


def inside(folder, pattern):
    (found,) = folder.glob(f"kdib_agreement/1.0.0/{pattern}")
    return found


def assert_same(found: Examples, expected: Examples):
    for column, other in zip(found, expected, strict=True):
        assert type(column) is type(other)
        if isinstance(column, np.ndarray):
            np.testing.assert_array_equal(column, other, strict=True)
        else:
            assert column == other


def as_tfrecord(sets):
    """Writes the set as TensorFlow would: the same examples in TFRecord's framing, and the format's name."""
    builder = agreement_tfds.find(name(sets))
    features, rows = builder.info.features, list(prepared.records(builder, "train"))
    shards = [rows[:25], rows[25:]]
    for i, shard in enumerate(shards):
        file = sets / "kdib_agreement" / "1.0.0" / f"kdib_agreement-train.tfrecord-0000{i}-of-00002"
        file.write_bytes(b"".join(framed(features.serialize_example(row)) for row in shard))
    inside(sets, "*array_record*").unlink()
    info = json.loads(inside(sets, "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    info["splits"][0]["shardLengths"] = [str(len(shard)) for shard in shards]
    inside(sets, "dataset_info.json").write_text(json.dumps(info))


# ---- what goes in comes out


def test_a_prepared_table_is_read_back(toy):
    path, sets = toy
    examples = corpus.read(name(sets))
    assert_same(examples, corpus.read(path))
    assert examples.sentences[0] == ("the", "keys0", "to", "the", "café0", "are", "here")
    assert_same(corpus.read(name(sets)), examples)  # from the kept arrays


def test_a_set_is_prepared_block_by_block(toy, tmp_path, monkeypatch):
    whole = corpus.read(name(toy[1]))
    with monkeypatch.context() as patch:
        in_small_blocks(patch)
        agreement_tfds.prepare(toy[0], tmp_path / "sets")
    assert_same(corpus.read(name(tmp_path / "sets")), whole)


@pytest.mark.parametrize("path", ["speeches/speeches.tsv", "ud/ewt.tsv", "linzen_testset"])
def test_real_text_is_read_back(data_dir, tmp_path, path):
    source, folder = data_dir / "agreement" / path, tmp_path / "text"
    folder.mkdir()
    for file in [source] if source.is_file() else source.glob("*.[tpg]*"):
        with open(file, encoding="utf-8") as lines:
            (folder / file.name).write_text("".join(islice(lines, 400)), encoding="utf-8")
    agreement_tfds.prepare(folder, tmp_path / "sets")
    examples = corpus.read(folder)
    assert examples.size >= 395
    assert_same(corpus.read(name(tmp_path / "sets")), examples)


def test_tfrecord_is_read_in_the_order_of_its_files(toy, sets):
    as_tfrecord(sets)
    assert agreement_tfds.find(name(sets)).info.file_format.value == "tfrecord"
    assert_same(corpus.read(name(sets)), corpus.read(toy[0]))


def test_tfds_reads_the_set_by_its_name(toy):
    rows = tfds.data_source("kdib_agreement", split="train", data_dir=toy[1], download=False)
    assert rows[1]["sentence"].decode() == "the key1 to the café0 is here" and rows[1]["label"] == 0


def test_mocked_data_take_the_same_way(toy, sets):
    builder, unread = agreement_tfds.find(name(toy[1])), sets
    mocked = {"num_examples": 7, "data_dir": str(unread), "policy": tfds.testing.MockPolicy.USE_FILES}
    with tfds.testing.mock_data(**mocked):
        examples = agreement_tfds.unpack(agreement_tfds.decode(builder))
        with pytest.raises(ValueError, match="found 7 examples, expected 60"):  # and are not kept as the real set
            corpus.read(name(unread))
    assert examples.size == 7 and all(len(column) == 7 for column in examples)
    assert all(isinstance(word, str) for words in examples.sentences for word in words)
    assert set(examples.label) <= {0, 1} and examples.label.dtype == np.int32
    assert corpus.read(name(unread)).size == 60


def test_a_study_reads_the_set_as_it_reads_the_table(toy):
    path, sets = toy
    settings = {"ratios": (0.5, 0.25, 0.25), "min_count": 1}
    one, other = (agreement.build(CorpusSettings(train=(text,), **settings)) for text in (str(path), name(sets)))
    assert one.input_digest == other.input_digest
    np.testing.assert_array_equal(one.train.inputs["tokens"], other.train.inputs["tokens"])


def test_the_command_line_needs_no_tensorflow(tmp_path):
    # an installed TensorFlow is played by a package that says when it is loaded
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise AssertionError('TensorFlow is loaded')")
    table(tmp_path / "toy.tsv")
    code = (
        "import runpy, sys; from kdib.tasks.agreement import corpus; "
        "runpy.run_module('kdib.tasks.agreement.tfds', run_name='__main__'); "
        f"print(corpus.read({name(tmp_path)!r}).size, 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code, f"--path={tmp_path / 'toy.tsv'}", f"--data_dir={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert f"60 sentences; --config.task.train=\"('{name(tmp_path)}',)\"" in done.stdout
    assert done.stdout.splitlines()[-1] == "60 False"


# ---- what is kept


def test_a_set_is_decoded_once(sets, monkeypatch):
    first = corpus.read(name(sets))
    monkeypatch.setattr(prepared, "records", None)
    assert_same(corpus.read(name(sets)), first)


def test_a_set_that_is_prepared_anew_is_not_read_stale(sets, tmp_path):
    first = corpus.read(name(sets))
    kept = inside(sets, "*.npz")
    renamed = table(tmp_path / "toy.tsv").read_text().replace("keys", "cats")  # of the same size
    (tmp_path / "toy.tsv").write_text(renamed)
    shutil.copytree(sets, tmp_path / "anew", ignore=lambda *_: ["kdib_agreement"])
    agreement_tfds.prepare(tmp_path / "toy.tsv", tmp_path / "anew")
    shutil.copy(kept, inside(tmp_path / "anew", "dataset_info.json").parent)
    assert corpus.read(name(tmp_path / "anew")).sentences[0][1] == "cats0" != first.sentences[0][1]


def test_damaged_arrays_are_named(sets):
    corpus.read(name(sets))
    file = inside(sets, "*.npz")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"examples-[0-9a-f]{16}\.npz: found .*delete it to rebuild it"):
        corpus.read(name(sets))
    file.unlink()
    assert corpus.read(name(sets)).size == 60


# ---- what is refused


@pytest.mark.parametrize("setting", ["train", "tests"])
@pytest.mark.parametrize("at_default", [False, True])
def test_a_missing_set_fails_at_once_and_names_the_remedies(toy, tmp_path, monkeypatch, setting, at_default):
    def refuse(*_):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(tfds.core.utils.gcs_utils, "_is_gcs_disabled", False)  # as if TFDS used its bucket
    monkeypatch.setattr(tfds.core.utils.gcs_utils, "exists", refuse)
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "default"))
    path = "tfds:kdib_agreement" if at_default else name(tmp_path / "absent")
    change = {"train": (path,)} if setting == "train" else {"train": (str(toy[0]),), "tests": (f"far={path}",)}
    folder = tmp_path / ("default" if at_default else "absent") / "kdib_agreement"
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as caught:
        agreement.build(CorpusSettings(**change))
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert message.startswith(f"config.task.{setting}: no set is prepared in {folder}")
    assert agreement_tfds.COMMAND in message and sets_module.REMEDIES in message
    assert "agr_50_mostcommon_10K.tsv" in message and "source='grammar'" in message
    assert "github.com/TalLinzen/rnn_agreement" in message
    assert list(tmp_path.iterdir()) == []


def test_another_set_is_refused():
    with pytest.raises(ValueError, match=r"config\.task\.train: found the path 'tfds:mnist@x', expected tfds:kdib_ag"):
        agreement.build(CorpusSettings(train=("tfds:mnist@x",)))


def test_without_tfds_the_extra_is_named(monkeypatch, toy):
    monkeypatch.delitem(sys.modules, "kdib.tasks.agreement.tfds")
    monkeypatch.delattr(sys.modules["kdib.tasks.agreement"], "tfds")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"tensorflow_datasets.*pip install 'kdib\[tfds\]'"):
        corpus.read(name(toy[1]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-3], "00001-of-00002: found an end within record 34"),
        (lambda raw: raw[: raw.rindex(b"sentence") - 40], "00001-of-00002: found an end within record"),
        (lambda raw: raw.replace(b"keys0", b"cats0"), "00001-of-00002: found a wrong checksum in record 7"),
        (lambda raw: b"", "00001-of-00002: found 0 records, expected 35"),
    ],
)
def test_a_damaged_tfrecord_is_named(sets, damage, message):
    as_tfrecord(sets)
    file = inside(sets, "*-00001-of-00002")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=message):
        corpus.read(name(sets))


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:1000], lambda raw: raw[:200] + bytes([raw[200] ^ 1]) + raw[201:], lambda raw: b""]
)
def test_a_damaged_array_record_is_named(sets, damage):
    file = inside(sets, "*array_record*")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"kdib_agreement/1\.0\.0: found .*, expected undamaged array_record files"):
        corpus.read(name(sets))


@pytest.mark.parametrize("pattern", ["*array_record*", "features.json"])
def test_an_absent_file_of_the_set_is_named(sets, pattern):
    file = inside(sets, pattern)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=file.name):
        corpus.read(name(sets))


def test_nothing_is_prepared_over_a_set(toy):
    with pytest.raises(FileExistsError, match=r"kdib_agreement/1\.0\.0 is prepared already; delete it"):
        agreement_tfds.prepare(*toy)


@pytest.mark.parametrize(("path", "message"), [("absent.tsv", "absent.tsv"), ("bad.tsv", "line 2, column verb_index")])
def test_the_command_line_answers_in_a_line(tmp_path, monkeypatch, capsys, path, message):
    (tmp_path / "bad.tsv").write_text(table(tmp_path / "toy.tsv").read_text().replace("\t6\t", "\t60\t"))
    arguments = ["tfds", f"--path={tmp_path / path}", f"--data_dir={tmp_path / 'sets'}"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        agreement_tfds.main()
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.glob("sets/kdib_agreement/1.0.0"))
