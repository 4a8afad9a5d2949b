"""The notebooks in colabs/ run from the first cell to the last, at a size that a test can afford."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parent.parent
NOTEBOOKS = {  # what is made smaller, and what a cell near the end prints
    "losses": ({"steps=600": "steps=20"}, "student at temperature 4"),
    "lstm_to_transformer": (
        {
            '# config["train"]["steps"] = 100': 'config["train"]["steps"] = 60; '
            'config["train"]["buckets"] = (); '
            'config["seeds"] = 2; config["task"]["n_train"] = 4_000; config["properties"] = ("accuracy",)',
            'Path("runs/colab")': 'Path("{workdir}")',
        },
        "distilled - label_smoothed",
    ),
    "properties": (
        {"4000, 600, 6": "500, 20, 2", "cnn_small": "cnn_tiny", "mlp_small": "mlp_tiny"},
        "CKA of CNN and MLP",
    ),
}


def test_every_notebook_is_tested():
    assert {path.stem for path in (REPOSITORY / "colabs").glob("*.ipynb")} == NOTEBOOKS.keys()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name, tmp_path):
    smaller, printed = NOTEBOOKS[name]
    notebook = json.loads((REPOSITORY / "colabs" / f"{name}.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in code)  # numbers of another version would stay in the file
    source = "\n".join("".join(cell["source"]) for cell in code if "setup" not in cell["metadata"].get("tags", ()))
    for text, other in smaller.items():
        assert text in source
        source = source.replace(text, other.format(workdir=tmp_path / "run"))
    run = subprocess.run(
        [sys.executable, "-c", source],
        cwd=REPOSITORY,
        env=os.environ | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert printed in run.stdout
