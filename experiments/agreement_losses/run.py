"""Which loss transfers what from an LSTM to a Transformer, compared with controls that do without the LSTM?

    python experiments/agreement_losses/run.py classification --workdir=runs/losses_classification
    python experiments/agreement_losses/run.py text --data=FOLDER --workdir=runs/losses_text
    python experiments/agreement_losses/run.py --report-only

The studies are configs/agreement_losses.py with two changes: every fit gets the best of three learning rates, and LSTM
and Transformer embed words in equally many numbers. FOLDER is that of experiments/agreement_transfer. A study resumes
when the command is repeated, and saves its rows in results/. `--report-only` writes the README's tables from them.
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
RATES = (2e-3, 4e-3, 8e-3)  # the same grid for every fit; its validation loss chooses
TRANSFER = runpy.run_path(str(HERE.parent / "agreement_transfer" / "run.py"))
AGREEMENT = ("fidelity", "agreement", "")
ROWS = runpy.run_path(str(HERE.parent / "rows.py"))


def study_config(name: str, data: Path | None) -> dict[str, Any]:
    """Return the configuration of a study; `data` is the folder of the text corpora, which "text" needs."""
    config = load_config(str(CONFIG), STUDIES[name]).to_dict()
    config["models"]["lstm"]["embedding_size"] = config["models"]["transformer"]["width"]  # so they differ in no width
    config["tune"] = {"learning_rates": RATES, "seeds": 1}
    if name == "text":
        if data is None:
            raise SystemExit(f"{name} needs --data=FOLDER")
        config["task"] |= TRANSFER["text_paths"](data)
        config["title"] += ", real text"
    return config


def tables(workdir: Path) -> str:
    """Return one row per fit: A-accuracy, ECE and agreement with the teacher, with differences from the controls."""
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
    """Save, by seed, the accuracy over attractors of the teachers that learned online, which no property measures."""
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
    """Write the README's tables of a study from its committed rows alone."""
    target = HERE / "results" / name
    with ROWS["unpacked"](target) as workdir:
        text = f"{tables(workdir)}\n\n{_beside(workdir, json.loads((target / 'teachers_beside.json').read_text()))}"
        ROWS["fill"](HERE / "README.md", name, text)


def _beside(workdir: Path, online: dict[str, dict[str, float]]) -> str:
    """Return a table of the online teachers and, in the same metric, the offline teacher, `alone` and `distilled`."""
    study = ROWS["read"](workdir)
    offline, alone, student = (_over_attractors(study, fit) for fit in ("teacher", "alone", "distilled"))
    values = {fit: {int(seed): value for seed, value in of.items()} for fit, of in online.items()}
    lines = [
        (f"the LSTM of `{fit}`", ROWS["plus_minus"](ROWS["spread"](of)), ROWS["signed"](ROWS["minus"](of, offline)))
        for fit, of in values.items()
    ]
    for fit, of in {"teacher": offline, "alone": alone, "distilled": student}.items():
        less = ROWS["signed"](ROWS["minus"](of, offline)) if fit != "teacher" else ""
        lines.append((f"`{fit}`", ROWS["plus_minus"](ROWS["spread"](of)), less))
    return ROWS["markdown"](("network", "accuracy over attractors, not balanced", "− teacher [95 %]"), lines)


def _over_attractors(study: Any, fit: str) -> dict[int, float]:
    """Return, by seed, the mean of the accuracies at every number of attractors, as `teachers_beside` computes it."""
    seeds = {subject.id: subject.seed for subject in study.subjects if subject.fit == fit}
    found: dict[int, list[float]] = {}
    wanted = ("accuracy", "accuracy", "attractors", study.tests[0])
    for row in study.rows:
        if (
            row.subject in seeds
            and (row.property, row.metric, row.group, row.split) == wanted
            and row.value is not None
        ):
            found.setdefault(seeds[row.subject], []).append(row.value)
    return {seed: float(np.mean(values)) for seed, values in found.items()}


if __name__ == "__main__":
    ROWS["main"](__doc__, HERE, tuple(STUDIES), study_config, redraw, teachers_beside)
