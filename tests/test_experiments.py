"""Every number in the README of an experiment is that of its committed rows."""

import pathlib
import runpy
import shutil

import pytest

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
