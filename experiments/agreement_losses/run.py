"""Which loss carries what from an LSTM to a Transformer, and what do the controls do without it?

    python experiments/agreement_losses/run.py classification --workdir=runs/losses_classification
    python experiments/agreement_losses/run.py text --data=FOLDER --workdir=runs/losses_text
    python experiments/agreement_losses/run.py --report-only

The studies are configs/agreement_losses.py with the changes below; FOLDER is that of experiments/agreement_transfer.
They resume when called again and leave their rows in results/. `--report-only` writes the README's tables from them.
"""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np

from kdib.main import load_config

HERE = Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "agreement_losses.py"
STUDIES = {"classification": "", "text": "corpus"}
RATES = (2e-3, 4e-3, 8e-3)  # for every fit the same, chosen by its validation loss
TRANSFER = runpy.run_path(str(HERE.parent / "agreement_transfer" / "run.py"))
AGREEMENT = ("fidelity", "agreement", "")
ROWS = runpy.run_path(str(HERE.parent / "rows.py"))


def study_config(name: str, data: Path | None) -> dict[str, Any]:
    """The configuration of a study."""
    config = load_config(str(CONFIG), STUDIES[name]).to_dict()
    config["models"]["lstm"]["embedding_size"] = config["models"]["transformer"]["width"]  # they differ in no width
    config["tune"] = {"learning_rates": RATES, "seeds": 1}
    if name == "text":
        if data is None:
            raise SystemExit(f"{name} needs --data=FOLDER")
        config["task"] |= TRANSFER["text_paths"](data)
        config["title"] += ", real text"
    return config


def tables(workdir: Path) -> str:
    """Every fit's A-accuracy and its differences from the controls; its ECE; how often it agrees with the teacher."""
    study = ROWS["read"](workdir)
    accuracy, ece = study.by_fit(ROWS["A_ACCURACY"]), study.by_fit(ROWS["ECE"])
    alike = study.likeness(AGREEMENT, study.config["roles"]["teacher"])
    head = (
        *("fit", "A-accuracy", "− alone [95 %]", "− self [95 %]", "− distilled [95 %]"),
        *("ECE", "− self [95 %]", "agrees with the teacher", "− alone [95 %]"),
    )
    lines = [
        (
            fit,
            _level(accuracy, fit),
            *(_against(accuracy, fit, control) for control in ("alone", "self", "distilled")),
            _level(ece, fit),
            _against(ece, fit, "self"),
            _level(alike, fit),
            _against(alike, fit, "alone"),
        )
        for fit in study.config["fits"]
        if fit in accuracy
    ]
    return ROWS["markdown"](head, lines)


def _level(values, fit: str) -> str:
    return ROWS["plus_minus"](ROWS["spread"](values[fit])) if fit in values else ""


def _against(values, fit: str, control: str) -> str:
    return ROWS["signed"](ROWS["minus"](values[fit], values[control])) if fit in values and fit != control else ""


def teachers_beside(workdir: Path, target: Path) -> None:
    """Keeps the A-accuracy of the teachers that learned beside their students, whom no property sees, by seed."""
    from kdib import tasks
    from kdib.answers import answer
    from kdib.config import parse
    from kdib.runs import fit_folder, main_runs
    from kdib.teaching import load_last, model_of, open_lab

    study = parse({name: value for name, value in ROWS["read"](workdir).config.items() if name != "environment"})
    lab = open_lab(study, tasks.build(study.task), workdir)
    test = next(iter(lab.task.tests.values()))
    attractors = test.groups["attractors"]
    found: dict[str, dict[int, float]] = {}
    for name in [name for name, fit in study.fits.items() if fit.answers == "online"]:
        teacher = study.fits[name].teacher
        for run in main_runs(study, name):
            variables = {"params": load_last(fit_folder(study, name, workdir) / run.name, lab)["params"]["teacher"]}
            right = answer(model_of(teacher, lab), variables, test.inputs).logits.argmax(-1) == test.inputs["label"]
            groups = [right[attractors == k].mean() for k in np.unique(attractors[attractors >= 0])]
            found.setdefault(name, {})[run.seed] = float(np.mean(groups))
    (target / "teachers_beside.json").write_text(json.dumps(found, indent=1) + "\n")


def redraw(name: str) -> None:
    """The README's table of a study, from its committed rows alone."""
    target = HERE / "results" / name
    beside = json.loads((target / "teachers_beside.json").read_text())
    said = (f"that of `{fit}` has {ROWS['plus_minus'](ROWS['spread'](values))}" for fit, values in beside.items())
    with ROWS["unpacked"](target) as workdir:
        text = f"{tables(workdir)}\n\nThe teachers that learned beside their students: {', '.join(said)} in A-accuracy."
        ROWS["fill"](HERE / "README.md", name, text)


if __name__ == "__main__":
    ROWS["main"](__doc__, HERE, tuple(STUDIES), study_config, redraw, teachers_beside)
