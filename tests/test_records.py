"""The tables: what is written comes back, what is damaged is named and never used, a key has one value."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdib.records import Records, Row, RunSpec, Subject, append_lines, read_json, read_lines, write_json

ROW = Row("alone/seed0@1200", None, "accuracy", "accuracy", "test", "attractors", (("attractors", 3),), 0.75, 8, 0.1)
SUBJECT = Subject("alone/seed0@1200", "alone", 0, "seed0", 1200, "ab" * 32)


@pytest.fixture
def table(tmp_path):
    return Records(tmp_path / "rows.jsonl", Row)


def test_run_names():
    assert RunSpec("alone", 0, init=0, order=0, teacher=None).name == "seed0"
    swept = RunSpec("alone", 100, init=0, order=0, teacher=None, sweep=(("learning_rate", 0.003), ("width", 64)))
    assert swept.name == "seed100-learning_rate=0.003-width=64"


def test_keys():
    assert ROW.key == ROW[:7]
    assert ROW._replace(value=None, n=0, se=None).key == ROW.key
    assert ROW._replace(coords=(("attractors", 4),)).key != ROW.key
    assert SUBJECT._replace(fingerprint="").key == SUBJECT.key


def test_an_absent_table_is_empty(table):
    assert table.read() == ([], [])


def test_round_trip_of_both_types(table, tmp_path):
    rows = [
        ROW,
        ROW._replace(coords=(), value=None, se=None),
        ROW._replace(other="x@1", coords=(("a", "b"), ("c", 0.5))),
    ]
    table.append(rows[:1])
    table.append(rows[1:])
    assert table.read() == (rows, [])
    assert [type(row) for row in table.read()[0]] == [Row] * 3
    subjects = Records(tmp_path / "subjects.jsonl", Subject)
    subjects.append([SUBJECT])
    assert subjects.read() == ([SUBJECT], [])


def test_coords_are_objects_on_disk(table):
    table.append([ROW])
    assert json.loads(table.path.read_text())["coords"] == {"attractors": 3}


numbers = st.floats(allow_nan=False, allow_infinity=False)
names = st.text(max_size=5)
coords = st.dictionaries(names, numbers | names | st.integers(), max_size=3).map(lambda d: tuple(d.items()))
rows = st.builds(
    Row,
    names,
    st.none() | names,
    names,
    names,
    names,
    names,
    coords,
    st.none() | numbers,
    st.integers(0),
    st.none() | numbers,
)


@settings(max_examples=20, deadline=None)
@given(st.lists(rows, max_size=5, unique_by=lambda row: row.key))
def test_any_row_round_trips(tmp_path_factory, many):
    table = Records(tmp_path_factory.mktemp("any") / "rows.jsonl", Row)
    table.append(many)
    assert table.read() == (many, [])


def test_what_another_writer_added_has_its_value_too(table, monkeypatch):
    table.append([ROW])
    assert table.keys() == {ROW.key}
    other = ROW._replace(metric="nll")
    Records(table.path, Row).append([other])
    with pytest.raises(ValueError, match=r"already has a value for .*nll"):
        table.append([other])
    assert table.keys() == {ROW.key, other.key}
    monkeypatch.setattr(table, "read", None)  # a table that is as it was left is not read again
    table.append([ROW._replace(metric="ece")])
    assert len(table.keys()) == 3


@pytest.mark.parametrize("second", [ROW, ROW._replace(value=0.5), ROW._replace(n=9, se=None)])
def test_a_second_value_for_a_key_raises_and_nothing_is_written(table, second):
    other = ROW._replace(metric="nll")
    table.append([ROW])
    with pytest.raises(ValueError, match=r"already has a value for .*alone/seed0@1200"):
        table.append([other, second])
    with pytest.raises(ValueError, match="already has a value"):
        table.append([other, other])
    assert table.read() == ([ROW], [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": float("nan")},
        {"se": float("inf")},
        {"coords": (("x", float("-inf")),)},
        {"value": np.float32(0.5)},
        {"n": 1.0},
        {"n": True},
        {"n": np.int64(3)},
        {"subject": None},
        {"group": 3},
        {"coords": {"attractors": 3}},
        {"coords": (("a", 1), ("a", 2))},
        {"coords": (("a", None),)},
    ],
)
def test_what_is_no_row_is_refused_and_named(table, wrong):
    (field,) = wrong
    with pytest.raises(ValueError, match=f"{field} is .*expected a finite"):
        table.append([ROW._replace(metric="good"), ROW._replace(**wrong)])
    assert table.read() == ([], [])


def test_a_table_cut_anywhere_keeps_its_whole_lines_and_can_be_appended_to(table):
    table.append([ROW, ROW._replace(metric="b"), ROW._replace(metric="c")])
    whole = table.path.read_bytes()
    second = whole.index(b"\n") + 1
    for size in range(second, whole.index(b"\n", second) - 1, 7):  # the last byte before \n completes the object
        table.path.write_bytes(whole[:size])
        kept, damage = table.read()
        assert kept == [ROW]
        assert len(damage) == (size > second)
        assert all("rows.jsonl, line 2: " in fault for fault in damage)
        table.append([ROW._replace(metric="d")])
        assert table.read() == ([ROW, ROW._replace(metric="d")], damage)


GOOD = json.dumps({**ROW._asdict(), "coords": {"attractors": 3}})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "Expecting value"),
        (b"[1]", "expected a JSON object"),
        (b"\xff{}", "utf-8"),
        (GOOD.replace('"se"', '"see"').encode(), r"missing fields \['se'\], unknown fields \['see'\]"),
        (GOOD.replace(', "se": 0.1', "").encode(), r"missing fields \['se'\], unknown fields \[\]"),
        (GOOD.replace("0.75", "NaN").encode(), "NaN"),
        (GOOD.replace("0.75", "1e999").encode(), "value is inf"),
        (GOOD.replace("0.75", '"0.75"').encode(), "value is '0.75' .*expected"),
        (GOOD.replace("8", "8.5").encode(), "n is 8.5 .*expected"),
        (GOOD.replace('{"attractors": 3}', "[3]").encode(), r"coords is \[3\]"),
        (GOOD.encode(), "a second value for"),
    ],
)
def test_a_damaged_line_is_named_and_not_used(table, line, why):
    last = ROW._replace(metric="last")
    table.append([ROW])
    table.path.write_bytes(table.path.read_bytes() + line + b"\n")
    table.append([last])
    kept, damage = table.read()
    assert kept == [ROW, last]
    assert len(damage) == 1
    assert re.search(f"rows.jsonl, line 2: .*{why}", damage[0])


def test_lines_of_any_object(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_lines(path, [{"step": 1}, {"step": 2}])
    append_lines(path, [])
    append_lines(path, [{"step": 2}])
    assert read_lines(path) == ([(1, {"step": 1}), (2, {"step": 2}), (3, {"step": 2})], [])
    with pytest.raises(ValueError, match="JSON compliant"):
        append_lines(path, [{"step": 3}, {"value": float("nan")}])
    assert len(read_lines(path)[0]) == 3


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "config.json"
    write_json(path, {"a": [1, 2.5, None, "é"]})
    for wrong in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, wrong)
    assert read_json(path) == {"a": [1, 2.5, None, "é"]}
    assert os.listdir(tmp_path) == ["config.json"]


def test_damaged_json_names_its_file(tmp_path):
    path = tmp_path / "config.json"
    for text in (b'{"a": ', b"", b"\xff", b'{"a": NaN}'):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=r"config.json is damaged"):
            read_json(path)


WRITER = """
import itertools, sys
from kdib.records import Records, Subject, write_json
table = Records(sys.argv[1] + "/subjects.jsonl", Subject)
for i in itertools.count():
    table.append([Subject(f"s{i}", "x" * 30000, 0, "r", i, "f")])
    write_json(sys.argv[1] + "/state.json", {"i": i, "long": ["x" * 100] * 1000})
    print(i, flush=True)
"""


def test_a_killed_writer_leaves_readable_files(tmp_path):
    for delay in (0.0, 0.013, 0.05):
        folder = tmp_path / str(delay)
        folder.mkdir()
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        reported = len(writer.communicate()[0].split()) + 1
        rows, damage = Records(folder / "subjects.jsonl", Subject).read()
        assert [row.step for row in rows] == list(range(len(rows)))
        assert reported <= len(rows) <= reported + 1
        assert len(damage) <= 1
        assert read_json(folder / "state.json")["i"] in (reported - 1, reported)


def test_needs_no_numpy_and_no_jax():
    code = "import sys, kdib.records; print({'numpy', 'jax', 'orbax'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
