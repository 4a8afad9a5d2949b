"""`python -m kdib.report`: redraws, compares, exports, and says what is wrong without a traceback."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import synthetic_images
import synthetic_study
from report_page import Page

from kdib.properties import of_task
from kdib.records import Records, Row, read_json, write_json
from kdib.report import canvas, compare
from kdib.report.__main__ import main


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Drawing takes long and is tested elsewhere."""
    monkeypatch.setattr(canvas, "save", lambda figure, folder, name: "<svg></svg>")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    synthetic_study.write(folder, n_seeds=2)
    return folder


@pytest.fixture
def run(tmp_path, whole):
    """Makes a small study by name: calibration and fidelity on one test set."""

    def make(name, properties=("calibration", "fidelity")):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rows, _ = Records(whole / "rows.jsonl", Row).read()
        kept = [row for row in rows if row.property in properties and row.split == "test" and not row.coords]
        Records(folder / "rows.jsonl", Row).append(kept)
        for file in ("subjects.jsonl", "metrics.jsonl", "task.json"):
            shutil.copy(whole / file, folder / file)
        write_json(folder / "config.json", read_json(whole / "config.json") | {"properties": list(properties)})
        return folder

    return make


def page_of(path):
    return Page(pathlib.Path(path).read_text(encoding="utf-8"))


def test_one_study_is_redrawn_in_its_own_folder(run, capsys):
    folder = run("one")
    assert main([str(folder)]) == 0
    assert capsys.readouterr() == (f"report: {folder / 'report' / 'index.html'}\n", "")
    assert page_of(folder / "report" / "index.html").row("Calibration")[2]["number"]


def test_one_study_is_drawn_where_it_is_asked_to_be(run, tmp_path, capsys):
    folder, out = run("one"), tmp_path / "elsewhere" / "page"
    assert main([str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"report: {out / 'index.html'}\n"
    assert page_of(out / "index.html").row("Calibration")[2]["number"] and not (folder / "report").exists()


def test_several_are_compared_and_left_alone(run, tmp_path, capsys):
    first, second = run("first"), run("second", ("calibration",))
    rows, _ = Records(second / "rows.jsonl", Row).read()
    (second / "rows.jsonl").unlink()
    Records(second / "rows.jsonl", Row).append(row._replace(value=row.value / 2) for row in rows)
    assert main([str(first), str(second), "--out", str(tmp_path / "out")]) == 0
    page = page_of(tmp_path / "out" / "index.html")
    assert page.open == [] and "Comparison of 2 studies" in page.text
    shown = {name: page.row(name) for name in ("first", "second")}
    for column in range(2, 7):  # the levels and distilled - self
        assert shown["second"][column]["number"] == pytest.approx(shown["first"][column]["number"] / 2)
    assert shown["first"][1]["text"].split()[-1] in ("transferred", "undecided", "advantage", "transfer")
    assert page.row("Fidelity to the teacher")[1]["text"] == "first"  # in one study only
    assert not (first / "report").exists() and not (second / "report").exists()
    assert str(tmp_path / "out" / "index.html") in capsys.readouterr().out


def test_studies_are_named_by_as_much_of_their_path_as_tells_them_apart():
    paths = [pathlib.Path(path) for path in ("/a/x/run", "/a/y/run", "/b/y/run")]
    assert compare.names_of(paths) == ["a/x/run", "a/y/run", "b/y/run"]
    assert compare.names_of(paths[:2]) == ["x/run", "y/run"]
    assert compare.names_of([pathlib.Path("/a/one"), pathlib.Path("/a/two")]) == ["one", "two"]
    with pytest.raises(ValueError, match="a study is given twice: /a/x/run"):
        compare.names_of([paths[0], paths[0]])


def test_what_has_nothing_in_common_is_refused_and_other_tasks_are_not(run, tmp_path, monkeypatch, capsys):
    for name, prop in synthetic_images.PROPERTIES.items():
        monkeypatch.setitem(of_task("images"), name, prop)
    text, pictures = run("text"), tmp_path / "pictures"
    pictures.mkdir()
    synthetic_images.write(pictures)
    out = ["--out", str(tmp_path / "out")]
    assert main([str(text), str(pictures), *out]) == 0
    page = page_of(tmp_path / "out" / "index.html")
    assert "differ in their task (agreement and images)" in page.text
    write_json(pictures / "config.json", read_json(pictures / "config.json") | {"properties": ["translation"]})
    capsys.readouterr()
    assert main([str(text), str(pictures), *out]) == 2
    said = capsys.readouterr().err
    assert "nothing to compare" in said and "pictures (task images) has translation" in said


def test_all_rows_are_exported_with_their_networks(run, tmp_path, capsys):
    folders = [run("first"), run("second", ("calibration",))]
    path = tmp_path / "rows.csv"
    assert main([*map(str, folders), "--csv", str(path), "--out", str(tmp_path / "out")]) == 0
    frame = pd.read_csv(path)
    rows = [row for folder in folders for row in Records(folder / "rows.jsonl", Row).read()[0]]
    assert len(frame) == len(rows) and set(frame["study"]) == {"first", "second"}
    np.testing.assert_array_equal(frame["value"], np.array([row.value for row in rows], float))
    assert (frame["subject"] == frame["fit"] + "/" + frame["run"] + "@" + frame["step"].astype(str)).all()
    pairs = frame[frame["other"].notna()]
    assert set(pairs["property"]) == {"fidelity"}
    assert (pairs["other"] == pairs["other_fit"] + "/" + pairs["other_run"] + "@600").all()
    assert (pairs["other_seed"] == pairs["other_run"].str[-1].astype(int)).all()
    assert "0,600" in path.read_text().splitlines()[1]  # seeds and steps are whole numbers


def test_damage_is_named_on_the_page_and_on_stderr(run, capsys):
    folder = run("torn")
    n_lines = len((folder / "rows.jsonl").read_text().splitlines())
    with (folder / "rows.jsonl").open("a") as file:
        file.write('{"subject": "alone/seed0@600", "oth')
    assert main([str(folder)]) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"warning: rows.jsonl, line {n_lines + 1}:")
    page = page_of(folder / "report" / "index.html")
    assert f"rows.jsonl, line {n_lines + 1}" in page.text and page.row("Calibration")[2]["number"]


@pytest.mark.parametrize("spoil", ["absent", "empty", "config", "alien", "list", "csv"])
def test_a_bad_folder_is_an_error_in_one_line(run, tmp_path, spoil, capsys):
    folder, options = run("bad"), []
    expected = {"absent": "is no folder", "empty": "has no config.json and no task.json",
                "config": "config.json is damaged", "csv": "nowhere",
                "alien": "no study's configuration: it has no environment",
                "list": "no study's configuration: it has no environment"}[spoil]  # fmt: skip
    if spoil == "absent":
        shutil.rmtree(folder)
    elif spoil == "empty":
        (folder / "config.json").unlink()
        (folder / "task.json").unlink()
    elif spoil == "config":
        (folder / "config.json").write_text("{")
    elif spoil == "alien":
        (folder / "config.json").write_text('{"title": "something else"}')
    elif spoil == "list":
        (folder / "config.json").write_text("[]")
    else:
        options = ["--csv", str(tmp_path / "nowhere" / "rows.csv")]
    assert main([str(folder), *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and expected in err and err.count("\n") == 1


def test_help_loads_nothing_heavy():
    code = (
        "import sys, runpy\n"
        "sys.argv = ['kdib.report', '--help']\n"
        "try: runpy.run_module('kdib.report', run_name='__main__')\n"
        "except SystemExit as end: print('CODE', end.code, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    text, _, loaded = done.stdout.partition("CODE 0")
    assert "--csv" in text and "compare" in text
    assert not {"jax", "matplotlib", "pandas", "scipy", "numpy", "jinja2"} & set(loaded.split())
