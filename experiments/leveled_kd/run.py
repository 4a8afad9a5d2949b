"""Test whether weaker teachers, features or a smaller alpha transfer more of a CNN's shift robustness to an MLP.

    python experiments/leveled_kd/run.py mnist --data=FOLDER --workdir=runs/leveled_mnist
    python experiments/leveled_kd/run.py controls --data=FOLDER --workdir=runs/leveled_controls
    python experiments/leveled_kd/run.py poster --data=FOLDER --workdir=runs/leveled_poster
    python experiments/leveled_kd/run.py maxout --data=FOLDER --workdir=runs/leveled_maxout
    python experiments/leveled_kd/run.py long --data=FOLDER --workdir=runs/leveled_long
    python experiments/leveled_kd/run.py fashion --data=FOLDER --workdir=runs/leveled_fashion
    python experiments/leveled_kd/run.py cifar --data=FOLDER --workdir=runs/leveled_cifar
    python experiments/leveled_kd/run.py --report-only

The studies start from configs/leveled_kd.py. They change the networks (the poster's CNN_2 and MLP_2 with pooling, a
quarter of CNN_1's and MLP_1's widths, or a maxout CNN), the budgets, the snapshots and the fits (see `study_config`).
FOLDER holds mnist/ and fashion_mnist/, each with its four IDX files, and cifar10_jpeg/, a
lossy sample of CIFAR-10. Without fashion_mnist/, Debian's package is used. A study resumes when called again and leaves
its rows in results/. `--report-only` writes the README's tables and figures from these rows.
"""

import itertools
import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdib.main import load_config
from kdib.selection import CHOOSES, chosen, last_validation

HERE = Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "leveled_kd.py"
ROWS = runpy.run_path(str(HERE.parent / "rows.py"))
minus, combined, Claim = ROWS["minus"], ROWS["combined"], ROWS["Claim"]
STUDIES = {
    "mnist": "features,mnist",
    "controls": "features,mnist",
    "poster": "features,mnist",
    "maxout": "features,mnist",
    "long": "mnist",
    "fashion": "fashion",
    "cifar": "cifar",
}
STEPS = 5_000  # of the teacher
LENGTH = {"maxout": 1_600, "long": 25_000, "fashion": 2_500, "cifar": 1_500}  # where not STEPS
SEEDS = {"poster": 4, "maxout": 5, "long": 1, "fashion": 3, "cifar": 3}  # `long`: exploratory
STUDENTS = {"maxout": 1_600}  # steps of a student, where they are not 600
# Snapshots of the MLP that teaches `self`. In each seed one is as accurate as the CNN at step 500, but with a lower
# entropy (.16 to .27, against .47 to .50). The first snapshot has the highest stored entropy, .33 to .37: softening the
# matched snapshot to that value brings it closer to the CNN.
EARLY = (100, 150, 200, 250, 300, 400, 500, 700)
MATCHED = (200, 250, 300)  # those matched in accuracy, in one seed or another
LEVELS = {  # the snapshots that teach besides the last, where they are not the config's
    "poster": (500, 2_500),
    "maxout": (50, 100, 200, 500),
    "long": (50, 500, 2_500, 5_000, 10_000),
    "fashion": (50, 500),
    "cifar": (50, 500),
}
# A quarter of the poster's widths, because a step of CNN_1 takes five times as long. Both end in 64 features.
MODELS = {
    "cnn": {"preset": "cnn_1", "channels": (8, 16, 32, 64), "downsampling": "stride"},
    "mlp": {"preset": "mlp_1", "widths": (500, 250, 64)},
}
# The pair of the poster's second experiment at full width. Both end in 128 features.
POSTER = {"cnn": {"preset": "cnn_2", "downsampling": "pool"}, "mlp": {"preset": "mlp_2"}}
# A nearly shift-invariant CNN: Abnar et al.'s, with half of the filters in its first two layers. Both end in 32
# features.
INVARIANT = {
    "cnn": {"preset": "cnn_abnar", "channels": (64, 32, 64), "units": (64, 32, 32)},
    "mlp": {"preset": "mlp_1", "widths": (500, 250, 32)},
}
# Omitted to save time: each trains a CNN, queries one at every step, or depends on such a fit.
TOO_LONG = {
    "poster": ("smoothing_teacher", "from_smoothing"),
    "maxout": ("weak_type2", "distilled_shift", "smoothing_teacher", "from_smoothing"),
}
RATES = (3e-3, 1.2e-2)  # of `maxout`: each fit takes its best by validation loss
Values = Mapping[int, float]  # by seed
METRICS = {  # property, metric, group, test set ("" is the in-distribution one)
    "area under the shift curve": ("translation", "area_under_curve", "radius", ""),
    "equivariance error": ("translation", "mean_equivariance_error", "radius", ""),
    "accuracy, translated": ("accuracy", "accuracy", "", "translated"),
    "accuracy, scaled": ("accuracy", "accuracy", "", "scaled"),
    "accuracy": ("accuracy", "accuracy", "", ""),
    "ECE": ("calibration", "ece", "", ""),
}
VALIDATION = "accuracy, validation"
SHOWN = (  # figures kept for the README
    *(f"curve-{name}-translation" for name in ("teacher_step", "alpha", "tau")),
    "translation-accuracy-test",
)
NEAR = 0.01  # the largest difference between matched accuracies


def study_config(name: str, data: Path | None) -> dict[str, Any]:
    """Return the configuration of study `name`. Raises SystemExit without `data`."""
    if data is None:
        raise SystemExit(f"{name} needs --data=FOLDER")
    config = load_config(str(CONFIG), STUDIES[name]).to_dict()
    if name == "cifar":
        config["task"] |= {"source": "cifar10_jpeg", "n_validation": 1_000}
        config["title"] = "Leveled distillation on a lossy sample of CIFAR-10"
    folder = data / config["task"]["source"]
    config["task"]["data_dir"] = str(folder) if folder.is_dir() else ""
    config["models"] = MODELS
    config["train"]["group_size"] = 2
    _shorten(config, LENGTH.get(name, STEPS), STUDENTS.get(name, 600))
    if name == "controls":
        _controls(config)
    elif name != "mnist":
        _few_levels(config, name)
    if name == "poster":
        _full_width(config)
    if name == "maxout":
        _invariant(config)
    config["fits"] = {fit: of for fit, of in config["fits"].items() if fit not in TOO_LONG.get(name, ())}
    used = {fit["loss"] for fit in config["fits"].values()}
    config["losses"] = {loss: terms for loss, terms in config["losses"].items() if loss in used}
    return config


def _full_width(config: dict[str, Any]) -> None:
    """Set up `poster`: the poster's own pair, without the temperatures."""
    config["models"] = POSTER
    for fit in set(config["curves"].pop("tau")["x"]) - {"distilled"}:
        del config["fits"][fit]


def _invariant(config: dict[str, Any]) -> None:
    """Set up `maxout`: a nearly shift-invariant CNN, and the fits that test what is transferred and how."""
    config["models"] = INVARIANT
    config["task"]["n_test"] = 4_000
    config["tune"] = {"learning_rates": RATES, "seeds": 1}
    fits, taus = config["fits"], config["curves"]["tau"]["x"]
    fits |= {f"self_{fit}": fits["self"] | {"loss": fit} for fit in taus if fit != "distilled"}
    fits["from_500_alpha_0_5"] = fits["from_500"] | {"loss": "alpha_0_5"}


def _controls(config: dict[str, Any]) -> None:
    """Set up `controls`: equally accurate MLP teachers, label smoothing on the student, and every temperature."""
    early = {f"self_{step}": config["fits"]["self"] | {"teacher_steps": (step,)} for step in EARLY}
    soft = {"as_soft_as": EARLY[0], "softness_at": config["losses"]["kd"]["kl"]["temperature"]}
    softened = {f"soft_{name}": fit | soft for name, fit in early.items() if fit["teacher_steps"][0] in MATCHED}
    kept = ("teacher", "peer", "alone", "self", "distilled", "from_500", "alpha_0_5", "smoothed_student")
    fair = {"from_500_alpha_0_5": config["fits"]["from_500"] | {"loss": "alpha_0_5"}}
    tempered = {fit: config["fits"][fit] for fit in config["curves"]["tau"]["x"] if fit != "distilled"}
    tempered |= {f"self_{fit}": config["fits"]["self"] | {"loss": fit} for fit in tempered}
    config["fits"] = {name: config["fits"][name] for name in kept} | early | fair | softened | tempered
    config["fits"]["teacher"]["snapshots"] = {"name": "explicit", "steps": (500,)}
    config["fits"]["peer"]["snapshots"] = {"name": "explicit", "steps": EARLY}
    config["curves"] = {"tau": config["curves"]["tau"]}


def _shorten(config: dict[str, Any], length: int, steps: int) -> None:
    """Let students train for `steps` and teachers for `length`."""
    budgets = {"teacher": length, "smoothing_teacher": length, "peer": length, "alone_long": length + steps}
    config["train"]["steps"] = config["train"]["save_every"] = steps
    for name in budgets.keys() & config["fits"].keys():
        config["fits"][name]["budget"] = budgets[name] / steps


def _few_levels(config: dict[str, Any], name: str) -> None:
    """Reduce the students to those of LEVELS[name] and of the last snapshot."""
    config["seeds"] = SEEDS[name]
    curve = config["curves"]["teacher_step"]
    students, levels = set(curve["x"]) - {"distilled"}, {f"from_{step}": step for step in LEVELS[name]}
    config["fits"] |= {fit: config["fits"]["from_500"] | {"teacher_steps": (step,)} for fit, step in levels.items()}
    config["fits"]["teacher"]["snapshots"] = {"name": "explicit", "steps": LEVELS[name]}
    for fit in (students - set(levels)) | {"curriculum", "snapshot_ensemble"}:
        del config["fits"][fit]
    curve["x"] = levels | {"distilled": LENGTH.get(name, STEPS)}


# ---------------------------------------------------------------------------------------------- tables


def tables(workdir: Path, name: str) -> str:
    """Return the claims with their verdicts, then the scores of every fit, as Markdown."""
    study = ROWS["read"](workdir)
    values = {label: study.by_fit(key[:3], key[3]) for label, key in METRICS.items()}
    seeds, watched = range(study.config["seeds"]), last_validation(_lines(workdir))  # includes a grid's seeds
    values[VALIDATION] = {fit: {seed: of[seed] for seed in seeds if seed in of} for fit, of in watched.items()}
    curves = study.config["curves"]
    first = _snapshot_claims(values, study, workdir) if "teacher_step" in curves else _weak_claims(values, workdir)
    tempered = _temperature_claims(values, curves["tau"]["x"]) if "tau" in curves else []
    claims = [*first, *_feature_claims(values), *tempered]
    return "\n\n".join([ROWS["claim_table"](claims), _scores(study.config, values)])


def _scores(config: Mapping[str, Any], values: Mapping[str, Mapping[str, Values]]) -> str:
    lines = [
        (fit, *(ROWS["plus_minus"](ROWS["spread"](values[label][fit])) for label in METRICS))
        for fit in config["fits"]
        if fit in values["accuracy"]
    ]
    return ROWS["markdown"](("fit", *METRICS), lines)


# ---------------------------------------------------------------------------------------------- snapshots


def _snapshot_claims(values: Mapping[str, Mapping[str, Values]], study: Any, workdir: Path) -> list[Any]:
    """Return the claims of the poster's first experiment, and of the snapshots that validation chooses."""
    shown = study.config["curves"]["teacher_step"]["x"]
    picks = _chosen(workdir, shown)
    rising = [_teacher_validation(workdir, step, study) for step in sorted(shown.values())]
    found = [
        Claim(
            f"the teacher is more accurate (validation) at its last step than at step {_middle(shown):g}",
            minus(*(_teacher_validation(workdir, step, study) for step in (max(shown.values()), _middle(shown)))),
        ),
        Claim(
            "every snapshot of the teacher is more accurate (validation) than the one before: the smallest rise",
            combined(lambda *xs: min(b - a for a, b in itertools.pairwise(xs)), *rising),
        ),
    ]
    for label in ("area under the shift curve", "accuracy, translated"):
        own = values[label]
        weak = next(fit for fit, step in shown.items() if step == _middle(shown))
        if weak != "from_500":  # PAIRS already compares from_500
            text = f"the snapshot at step {_middle(shown):g} beats the last ({label})"
            found.append(Claim(text, minus(own[weak], own["distilled"])))
        for by, fits in picks.items():
            best = {seed: own[fit][seed] for seed, fit in fits.items() if seed in own[fit]}
            found.append(Claim(f"the snapshot chosen on {by} beats the last ({label})", minus(best, own["distilled"])))
        for fit in ("curriculum", "snapshot_ensemble"):
            if fit in own:
                found.append(Claim(f"{fit} beats the last snapshot alone ({label})", minus(own[fit], own["distilled"])))
        found.append(
            Claim(f"the last snapshot beats self-distillation ({label})", minus(own["distilled"], own["self"]))
        )
        text = f"a snapshot as accurate as the MLP that teaches `self` beats it ({label})"
        if matched := _accuracy_matched(own, shown, workdir):
            found.append(Claim(text, matched))
    return found


def _middle(shown: Mapping[str, int]) -> int:
    """Return the step of the poster's weak teacher: the snapshot nearest to 2,500 steps that is not the last."""
    return min(set(shown.values()) - {max(shown.values())}, key=lambda step: abs(step - 2_500))


def _validation(workdir: Path) -> dict[tuple[str, int, int, str], float]:
    """Return {(fit, seed, step, metric): value} on the validation set."""
    lines = _lines(workdir)
    return {(x["fit"], x["seed"], x["step"], x["metric"]): x["value"] for x in lines if x["split"] == "validation"}


def _lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _teacher_validation(workdir: Path, step: int, study: Any) -> Values:
    found = _validation(workdir)
    keys = {seed: ("teacher", seed, int(step), "accuracy") for seed in range(study.config["seeds"])}
    return {seed: found[key] for seed, key in keys.items() if key in found}


def _chosen(workdir: Path, shown: Mapping[str, int]) -> dict[str, dict[int, str]]:
    """Return by seed the student of best validation accuracy, on validation images and on shifted ones."""
    lines = _lines(workdir)
    return {name: chosen(last_validation(lines, metric), shown) for metric, name in CHOOSES.items()}


def _accuracy_matched(own: Mapping[str, Values], shown: Mapping[str, int], workdir: Path) -> Values:
    """Return by seed the student of the CNN snapshot as accurate as the peer's last, minus `self`."""
    last = max(step for fit, _, step, _ in _validation(workdir) if fit == "peer")
    matched = _of_one_as_accurate(own, workdir, ("peer", last), "teacher", shown)
    return minus(matched, own["self"]) if matched else {}


def _weak_claims(values: Mapping[str, Mapping[str, Values]], workdir: Path) -> list[Any]:
    """Return the claims on the weak CNN against an equally accurate MLP: what its architecture transfers."""
    found = []
    for prefix, so in (("self_", ""), ("soft_self_", ", softened")):
        names = {f"{prefix}{step}": step for step in EARLY}
        early = {fit: names[fit] for fit in values["accuracy"] if fit in names}
        for label in ("area under the shift curve", "accuracy, translated", "accuracy, scaled", "accuracy"):
            other = _of_one_as_accurate(values[label], workdir, ("teacher", 500), "peer", early)
            text = f"the weak CNN beats, as a teacher, a snapshot of an MLP that is as accurate{so} ({label})"
            found.append(Claim(text, minus(values[label]["from_500"], other)))
    return found


def _of_one_as_accurate(
    own: Mapping[str, Values], workdir: Path, wanted: tuple[str, int], teacher: str, students: Mapping[str, int]
) -> Values:
    """Return by seed the student of the snapshot of `teacher` whose validation accuracy is nearest to `wanted`.

    `wanted` is (fit, step) and `students` is {fit: step of its teacher}. The value of a seed is `own` of that student.
    Empty if some seed has no snapshot within NEAR.
    """
    found, (fit, at) = _validation(workdir), wanted
    taught: dict[int, float] = {}
    measured = {seed for student in students for seed in own[student]}  # excludes the seeds of a grid of rates
    for seed in sorted({seed for name, seed, step, _ in found if (name, step) == (fit, at)} & measured):
        able = {
            student: abs(found[key] - found[fit, seed, at, "accuracy"])
            for student, step in students.items()
            if (key := (teacher, seed, int(step), "accuracy")) in found and seed in own[student]
        }
        nearest = min(able, key=lambda student, able=able: able[student])
        if able[nearest] > NEAR:
            return {}
        taught[seed] = own[nearest][seed]
    return taught


# ---------------------------------------------------------------------------------------------- features, alphas


def _temperature_claims(values: Mapping[str, Mapping[str, Values]], taus: Mapping[str, float]) -> list[Any]:
    """Return the claims on CNN logits against MLP logits at each temperature, and on each against `distilled`."""
    own, found = taus["distilled"], []
    for label in (label for label in METRICS if label != "ECE"):
        of, sign = values[label], -1 if label == "equivariance error" else 1  # a lower error is better
        for fit, tau in sorted(taus.items(), key=lambda item: item[1]):
            pairs = {"self-distillation at the same tau": "self" if fit == "distilled" else f"self_{fit}"}
            pairs |= {f"tau {own:g}": "distilled"} if fit != "distilled" else {}
            for other, name in pairs.items():
                if {fit, name} <= of.keys():
                    better = combined(lambda a, b, sign=sign: sign * (a - b), of[fit], of[name])
                    found.append(Claim(f"logits at tau {tau:g} beat {other} ({label})", better))
    return found


PAIRS = {
    "the weak teacher beats the strong one": ("from_500", "distilled"),
    "the weak teacher beats the strong one, softened to its entropy": ("from_500", "strong_softened"),
    "the weak teacher beats the strong one (alpha .5)": ("from_500_alpha_0_5", "alpha_0_5"),
    "the weak teacher beats the strong one with label smoothing on the student (alpha .5)": (
        "from_500_alpha_0_5",
        "smoothed_student",
    ),
    "label smoothing on the student beats none (alpha .5)": ("smoothed_student", "alpha_0_5"),
    "the weak teacher beats the strong one with label smoothing on the teacher": ("from_500", "from_smoothing"),
    "the weak teacher beats label smoothing without a teacher": ("from_500", "alone_smoothed"),
    "label smoothing on the teacher beats none": ("from_smoothing", "distilled"),
    "features alone (Type 1) beat logits alone, strong teacher": ("strong_type1", "distilled"),
    "features alone (Type 1) beat both (Type 2), strong teacher": ("strong_type1", "strong_type2"),
    "features alone (Type 1) beat logits alone, weak teacher": ("weak_type1", "from_500"),
    "features alone (Type 1) beat no distillation": ("strong_type1", "alone"),
    "features of the CNN (Type 1) beat those of an MLP": ("strong_type1", "self_type1"),
    "features and logits of the CNN (Type 2) beat those of an MLP": ("strong_type2", "self_type2"),
    "features of the weak CNN (Type 1) beat those of an MLP": ("weak_type1", "self_type1"),
    "logits alone beat no distillation": ("distilled", "alone"),
    "logits alone beat label smoothing without a teacher": ("distilled", "alone_smoothed"),
    "logits alone, softened to the weak teacher's entropy, beat them as they are": ("strong_softened", "distilled"),
    "logits alone, softened to the weak teacher's entropy, beat self-distillation": ("strong_softened", "self"),
    "logits alone beat the same logits shuffled within a class": ("distilled", "shuffled_soft"),
    "logits alone beat self-distillation": ("distilled", "self"),
    "a small alpha (0) beats a large one (0.9)": ("alpha_0", "alpha_0_9"),
    "a small alpha (0) beats a middle one (0.7)": ("alpha_0", "alpha_0_7"),
    "a large alpha (0.9) beats a middle one (0.7)": ("alpha_0_9", "alpha_0_7"),
    "distillation on shifted images without labels beats labels on shifted images": ("distilled_shift", "alone_shift"),
    "labels on shifted images beat distillation on the images as they are": ("alone_shift", "distilled"),
}


def _feature_claims(values: Mapping[str, Mapping[str, Values]]) -> list[Any]:
    labels = ("area under the shift curve", "accuracy, translated", "accuracy, scaled", "accuracy")
    return [
        Claim(f"{text} ({label})", minus(values[label][a], values[label][b]))
        for text, (a, b) in PAIRS.items()
        for label in (*labels, *([VALIDATION] if "Type" in text else []))  # where the poster's Type 1 is best
        if a in values[label] and b in values[label]
    ]


def redraw(name: str) -> None:
    """Redraw the report, the figures and the README's tables of a study from its committed rows alone."""
    with ROWS["unpacked"](HERE / "results" / name) as workdir:
        ROWS["redraw"](workdir, HERE / "figures" / name, SHOWN)
        ROWS["fill"](HERE / "README.md", name, tables(workdir, name))


if __name__ == "__main__":
    ROWS["main"](__doc__, HERE, tuple(STUDIES), study_config, redraw)
