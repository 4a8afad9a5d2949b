"""The tables in the README of an experiment are those of its committed rows; the sentences around them are not."""

import pathlib
import runpy
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from kdib.properties import accuracy
from kdib.records import Subject

ROOT = pathlib.Path(__file__).parent.parent
EXPERIMENTS = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/run.py"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_readme_is_what_the_rows_say(tmp_path, name):
    for folder in ("experiments", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    script = runpy.run_path(str(tmp_path / "experiments" / name / "run.py"))
    script["ROWS"]["redraw"] = lambda workdir, figures, shown=(): None  # takes long, and has tests
    readmes = [folder / "experiments" / name / "README.md" for folder in (tmp_path, ROOT)]
    results = tmp_path / "experiments" / name / "results"
    if not results.exists():
        assert "**Not run yet.**" in readmes[0].read_text()
        return
    for study in results.iterdir():
        if study.is_dir():
            script["redraw"](study.name)
    assert readmes[0].read_text() == readmes[1].read_text()


def test_a_readme_without_a_place_for_a_study_is_named(tmp_path):
    fill = runpy.run_path(str(ROOT / "experiments" / "rows.py"))["fill"]
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(ValueError, match=r"README.md: found no place for 'text', expected the lines"):
        fill(tmp_path / "README.md", "text", "1")


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([0.1], "holds here"),
        ([-0.1], "the opposite holds here"),
        ([0.0], "undecided"),
        ([0.1, 0.1], "holds here"),
        ([0.1, 0.0], "undecided"),
        ([0.1, -0.1], "does not hold here"),
        ([0.0, -0.1], "does not hold here"),
    ],
)
def test_claims_that_are_one_together_hold_where_all_do(parts, verdict):
    decided = runpy.run_path(str(ROOT / "experiments" / "rows.py"))["decided"]
    assert decided(*({0: part - 0.01, 1: part, 2: part + 0.01} for part in parts)) == verdict


def test_a_constant_answer_is_at_chance_in_what_the_experiments_call_a_accuracy():
    key = runpy.run_path(str(ROOT / "experiments" / "rows.py"))["A_ACCURACY"]
    label_N, group_N = np.array([0] * 700 + [1] * 300), np.array([0] * 400 + [1] * 300 + [0] * 100 + [1] * 200)
    dataset = SimpleNamespace(inputs={"label": label_N}, groups={"attractors": group_N})
    evidence = SimpleNamespace(sets={"test": dataset}, logits=lambda subject, split: np.tile([1.0, 0.0], (1000, 1)))
    rows = accuracy.measure([Subject("a/seed0@1", "a", 0, "seed0", 1, "f" * 64)], evidence)
    assert [row.value for row in rows if (row.property, row.metric, row.group) == key] == [0.5]
