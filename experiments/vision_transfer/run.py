"""Abnar et al.'s tables on MNIST: CNN and MLP, each alone, from its own kind and from the other; and the controls.

    python experiments/vision_transfer/run.py mnist --data=FOLDER --workdir=runs/vision_mnist
    python experiments/vision_transfer/run.py mnist_maxout --data=FOLDER --workdir=runs/vision_maxout
    python experiments/vision_transfer/run.py --report-only

The studies are `:full,mnist` of configs/cnn_to_mlp.py with the changes below; FOLDER holds mnist/ with its four IDX
files. They resume when called again and leave their rows in results/. `--report-only` writes the README's tables from
them.
"""

import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdib.main import load_config
from kdib.properties.corruptions import relative_errors
from kdib.selection import tried_rates
from kdib.stats import transfer_score

HERE = Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "cnn_to_mlp.py"
ROWS = runpy.run_path(str(HERE.parent / "rows.py"))
minus, Claim = ROWS["minus"], ROWS["Claim"]
# For the time neither is the published CNN: one is small and has strides, the other has half of its filters.
STUDIES = {
    "mnist": {"preset": "cnn_1", "channels": (8, 16, 32, 64), "downsampling": "stride"},
    "mnist_maxout": {"preset": "cnn_abnar", "channels": (64, 32, 64), "units": (64, 32, 16)},
}
SETS = ("test", "scaled", "translated")
SHOWN = (
    "curve-teacher_step-translation",
    "translation-accuracy-test",
    "accuracy-levels",
    "corruptions-accuracy-corruption-test",
)
PROPERTIES = ("translation", "accuracy", "calibration", "fidelity", "translation_fidelity", "corruptions")
LEVELS = (100, 200, 400)  # snapshots of the second CNN that teach too
RATES = (1e-3, 3e-3, 6e-3, 1.2e-2)
Values = Mapping[int, float]  # by seed
TABLE = runpy.run_path(str(CONFIG))["TABLE"]  # the published one
TITLES = {
    "CNN": "teacher",
    "MLP": "alone",
    "CNN ← CNN": "cnn_self",
    "CNN ← MLP": "reverse",
    "MLP ← CNN": "distilled",
    "MLP ← MLP": "self",
}
ACCURACY, ECE = ("accuracy", "accuracy", ""), ("calibration", "ece", "")
AREA = ("translation", "area_under_curve", "radius")
EQUIVARIANCE = ("translation", "mean_equivariance_error", "radius")
MOVED_AGREEMENT = ("translation_fidelity", "mean_agreement", "radius")
CONTROLS = ("alone", "self", "shuffled_soft", "label_smoothed", "alone_long")
CORRUPTED = ("corruptions", "mean_accuracy", "corruption")


def study_config(name: str, data: Path | None) -> dict[str, Any]:
    """The configuration of a study."""
    if data is None:
        raise SystemExit(f"{name} needs --data=FOLDER")
    config = load_config(str(CONFIG), "full,mnist").to_dict()
    config["task"]["data_dir"] = str(data / "mnist")
    config["models"]["cnn"] = STUDIES[name]
    config["task"]["n_test"] = 4_000  # each of them comes in 15 corruptions
    config["train"] |= {"steps": 1_600, "save_every": 800, "group_size": 2}
    config["tune"] = {"learning_rates": RATES, "seeds": 1}  # for every fit the same, chosen by its validation loss
    config["properties"] = PROPERTIES
    if name == "mnist_maxout":  # for the time: one CNN as the teacher, and no student that asks it at every step
        others = ("cnn_peer", "cnn_self", "reverse", "distilled_shift")
        config["fits"] = {fit: of for fit, of in config["fits"].items() if fit not in others}
        levels = {f"from_{step}": step for step in LEVELS}
        config["fits"] |= {fit: config["fits"]["distilled"] | {"teacher_steps": (levels[fit],)} for fit in levels}
        curve = {"xlabel": "steps of the teacher", "log": True, "beside": ("alone", "self")}
        config["curves"] = {"teacher_step": curve | {"x": levels | {"distilled": config["train"]["steps"]}}}
    return config


def tables(workdir: Path, name: str) -> str:
    """The published table with ours beside it, the shares, the claims, and every fit on every set, as Markdown."""
    study = ROWS["read"](workdir)
    accuracy = {name: study.by_fit(ACCURACY, name) for name in SETS}
    ece = {name: study.by_fit(ECE, name) for name in SETS}
    area = study.by_fit(AREA)
    return "\n\n".join(
        [
            _beside(accuracy, ece),
            _shares(study),
            *([_of_both_teachers(study)] if name == "mnist_maxout" else []),
            ROWS["claim_table"]([*_claims(accuracy, ece, area), *_shift_claims(study), *_level_claims(study)]),
            _everybody(study, accuracy, area, _chosen_rates(workdir)),
        ]
    )


def _beside(accuracy: Mapping[str, Mapping[str, Values]], ece: Mapping[str, Mapping[str, Values]]) -> str:
    head = ("student ← teacher", *(f"{metric}, {name}" for metric in ("accuracy", "ECE") for name in SETS))
    lines = []
    for title, fit in TITLES.items():
        if fit not in accuracy["test"]:
            continue
        ours = [ROWS["plus_minus"](ROWS["spread"](of[name][fit])) for of in (accuracy, ece) for name in SETS]
        lines.append((title, *(f"{own} ({theirs:.3f})" for own, theirs in zip(ours, TABLE[fit], strict=True))))
    return ROWS["markdown"](head, lines)


def _shares(study: Any) -> str:
    """What of the CNN's lead over the MLP alone its student has, with Fieller sets."""
    lines = []
    for label, values in _robustness(study).items():
        lead, gain = (minus(values[fit], values["alone"]) for fit in ("teacher", "distilled"))
        columns = [[values[fit][seed] for seed in sorted(gain)] for fit in ("distilled", "alone", "teacher")]
        share = transfer_score(*columns)
        said = f"{share.estimate:.0%} [{share.low:.0%}, {share.high:.0%}]" if share.bounded else "undecided"
        lines.append((label, ROWS["signed"](lead), ROWS["signed"](gain), said))
    return ROWS["markdown"](("against MLP", "CNN", "MLP ← CNN", "share of the CNN's lead [95 %]"), lines)


def _of_both_teachers(study: Any) -> str:
    """The MLPs that learn from this CNN against those that learn from the other: same seeds, same MLPs otherwise."""
    with ROWS["unpacked"](HERE / "results" / "mnist") as workdir:
        others = _robustness(ROWS["read"](workdir))
    lines = [
        (label, *(ROWS["signed"](minus(values[fit], others[label][fit])) for fit in ("teacher", "distilled")))
        for label, values in _robustness(study).items()
    ]
    return ROWS["markdown"](("this study − the first", "CNN", "MLP ← CNN"), lines)


def _robustness(study: Any) -> dict[str, Mapping[str, Values]]:
    found = {"area under the shift curve": study.by_fit(AREA)}
    return found | {f"accuracy, {name}": study.by_fit(ACCURACY, name) for name in ("translated", "scaled")}


def _claims(accuracy: Mapping[str, Any], ece: Mapping[str, Any], area: Mapping[str, Values]) -> list[Any]:
    """The published claims that the table makes, and the controls' answer to them."""
    found = []
    for name in ("translated", "scaled"):
        of = accuracy[name]
        for other in CONTROLS:
            text = f"MLP ← CNN is more accurate than {other}, {name}"
            found.append(Claim(text, minus(of["distilled"], of[other])))
        found.append(Claim(f"MLP ← MLP is more accurate than alone, {name}", minus(of["self"], of["alone"])))
        found.append(
            Claim(f"MLP ← CNN has a lower ECE than alone, {name}", minus(ece[name]["alone"], ece[name]["distilled"]))
        )
    found += [
        Claim(f"MLP ← CNN has more area under the shift curve than {other}", minus(area["distilled"], area[other]))
        for other in CONTROLS
    ]
    translated = accuracy["translated"]
    found += [
        Claim(f"CNN ← MLP is less accurate than {title}, translated", minus(translated[other], translated["reverse"]))
        for title, other in (("CNN", "teacher"), ("CNN ← CNN", "cnn_self"))
        if "reverse" in translated
    ]
    return found


def _shift_claims(study: Any) -> list[Any]:
    """How the logits take a shift, and whether a student answers shifted digits as its CNN does."""
    error, shared = study.by_fit(EQUIVARIANCE), study.likeness(MOVED_AGREEMENT, "teacher")
    found = [
        Claim(f"MLP ← CNN has a lower equivariance error than {other}", minus(error[other], error["distilled"]))
        for other in CONTROLS
    ]
    return found + [
        Claim(
            f"MLP ← CNN agrees on moved digits more with its CNN than {other} does",
            minus(shared["distilled"], shared[other]),
        )
        for other in CONTROLS
    ]


def _level_claims(study: Any) -> list[Any]:
    """Whether an earlier, weaker CNN hands over more: the question of experiments/leveled_kd."""
    return [
        Claim(f"MLP ← CNN of step {step} beats MLP ← CNN ({label})", minus(values[f"from_{step}"], values["distilled"]))
        for step in LEVELS
        for label, values in _robustness(study).items()
        if f"from_{step}" in values
    ]


def _chosen_rates(workdir: Path) -> dict[str, str]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {fit: f"{min(tried, key=tried.get):g}" for fit, tried in tried_rates(map(json.loads, lines)).items()}


def _everybody(study: Any, accuracy: Mapping[str, Any], area: Mapping[str, Values], rates: Mapping[str, str]) -> str:
    corrupted = study.by_fit(CORRUPTED)
    errors, faultless = _mean_corruption_errors(study)
    without = f" (without {', '.join(faultless)}: there `alone` makes no error)" if faultless else ""
    columns = {
        "area under the shift curve": area,
        "equivariance error": study.by_fit(EQUIVARIANCE),
        **{f"accuracy, {name}": accuracy[name] for name in SETS},
        "accuracy, 15 corruptions": corrupted,
    }
    if errors:
        columns[f"mean corruption error / alone's{without}"] = errors
    lines = [
        (fit, rates[fit], *(ROWS["plus_minus"](ROWS["spread"](of[fit])) for of in columns.values()))
        for fit in study.config["fits"]
    ]
    return ROWS["markdown"](("fit", "learning rate", *columns), lines)


def _mean_corruption_errors(study: Any) -> tuple[dict[str, dict[int, float]], list[str]]:
    """{fit: {seed: mean over corruptions of its error over that of `alone`, same seed}}, and what is left out."""
    who = {subject.id: subject for subject in study.subjects}
    errors: dict[tuple[str, int], dict[str, float]] = {}
    for row in study.rows:
        if (row.property, row.metric) == ("corruptions", "accuracy"):
            subject = who[row.subject]
            errors.setdefault((subject.fit, subject.seed), {})[dict(row.coords)["corruption"]] = 1 - row.value
    return relative_errors(errors, "alone")


def redraw(name: str) -> None:
    """The report, its figures and the README's tables of a study, from its committed rows alone."""
    with ROWS["unpacked"](HERE / "results" / name) as workdir:
        ROWS["redraw"](workdir, HERE / "figures" / name, SHOWN)
        ROWS["fill"](HERE / "README.md", name, tables(workdir, name))


if __name__ == "__main__":
    ROWS["main"](__doc__, HERE, tuple(STUDIES), study_config, redraw)
