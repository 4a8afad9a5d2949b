"""Run Abnar et al.'s MNIST comparison: a CNN and an MLP, alone and distilled from each other, with controls.

    python experiments/vision_transfer/run.py mnist --data=FOLDER --workdir=runs/vision_mnist
    python experiments/vision_transfer/run.py mnist_maxout --data=FOLDER --workdir=runs/vision_maxout
    python experiments/vision_transfer/run.py --report-only

The studies start from `:full,mnist` of configs/cnn_to_mlp.py. They change the CNN, the number of steps and test images,
the learning rates and the properties; `mnist_maxout` also changes the fits (see `study_config`). FOLDER holds mnist/
with its four IDX files. A study resumes when called again and leaves its rows in results/. `--report-only` writes the
README's tables and figures from these rows.
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
# Neither CNN is the published one, which takes too long: the first is small and has strides, the second has half of
# the published filters in its first two layers.
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
LEVELS = (100, 200, 400)  # earlier snapshots of the second CNN that also teach
RATES = (1e-3, 3e-3, 6e-3, 1.2e-2)
Values = Mapping[int, float]  # by seed
TABLE = runpy.run_path(str(CONFIG))["TABLE"]  # published values
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
    """Return the configuration of study `name`. Raises SystemExit without `data`."""
    if data is None:
        raise SystemExit(f"{name} needs --data=FOLDER")
    config = load_config(str(CONFIG), "full,mnist").to_dict()
    config["task"]["data_dir"] = str(data / "mnist")
    config["models"]["cnn"] = STUDIES[name]
    config["task"]["n_test"] = 4_000  # instead of all 10,000: each also comes in 15 corruptions
    config["train"] |= {"steps": 1_600, "save_every": 800, "group_size": 2}
    config["tune"] = {"learning_rates": RATES, "seeds": 1}  # each fit takes its best by validation loss
    config["properties"] = PROPERTIES
    if name == "mnist_maxout":  # to save time: one CNN, and no student that queries it live
        others = ("cnn_peer", "cnn_self", "reverse", "distilled_shift")
        config["fits"] = {fit: of for fit, of in config["fits"].items() if fit not in others}
        levels = {f"from_{step}": step for step in LEVELS}
        config["fits"] |= {fit: config["fits"]["distilled"] | {"teacher_steps": (levels[fit],)} for fit in levels}
        curve = {"xlabel": "steps of the teacher", "log": True, "beside": ("alone", "self")}
        config["curves"] = {"teacher_step": curve | {"x": levels | {"distilled": config["train"]["steps"]}}}
    return config


def tables(workdir: Path, name: str) -> str:
    """Return the README's tables as Markdown: published and own values, shares, claims, every fit on every set."""
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
    """Return the share of the CNN's lead over the MLP alone that its student gains, with Fieller sets."""
    lines = []
    for label, values in _robustness(study).items():
        lead, gain = (minus(values[fit], values["alone"]) for fit in ("teacher", "distilled"))
        columns = [[values[fit][seed] for seed in sorted(gain)] for fit in ("distilled", "alone", "teacher")]
        share = transfer_score(*columns)
        said = f"{share.estimate:.0%} [{share.low:.0%}, {share.high:.0%}]" if share.bounded else "undecided"
        lines.append((label, ROWS["signed"](lead), ROWS["signed"](gain), said))
    return ROWS["markdown"](("against MLP", "CNN", "MLP ← CNN", "share of the CNN's lead [95 %]"), lines)


def _of_both_teachers(study: Any) -> str:
    """Compare this CNN and its students with those of the first study, at the same seeds."""
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
    """Return the claims of the published table, and the same comparisons with the controls."""
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
    """Return the claims on equivariance error and on agreement with the CNN on shifted digits."""
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
    """Return the claims that an earlier, weaker CNN transfers more: the question of experiments/leveled_kd."""
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
    """Return {fit: {seed: mean corruption error}}, and the corruptions left out because `alone` makes no error.

    The mean is over corruptions, of the fit's error divided by that of `alone` at the same seed.
    """
    who = {subject.id: subject for subject in study.subjects}
    errors: dict[tuple[str, int], dict[str, float]] = {}
    for row in study.rows:
        if (row.property, row.metric) == ("corruptions", "accuracy"):
            subject = who[row.subject]
            errors.setdefault((subject.fit, subject.seed), {})[dict(row.coords)["corruption"]] = 1 - row.value
    return relative_errors(errors, "alone")


def redraw(name: str) -> None:
    """Redraw the report, the figures and the README's tables of a study from its committed rows alone."""
    with ROWS["unpacked"](HERE / "results" / name) as workdir:
        ROWS["redraw"](workdir, HERE / "figures" / name, SHOWN)
        ROWS["fill"](HERE / "README.md", name, tables(workdir, name))


if __name__ == "__main__":
    ROWS["main"](__doc__, HERE, tuple(STUDIES), study_config, redraw)
