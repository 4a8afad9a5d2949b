"""Which architecture teaches which? Every pair of four networks, as classifiers and as language models.

    python experiments/agreement_grid/run.py classification --workdir=runs/grid_classification
    python experiments/agreement_grid/run.py text --data=FOLDER --workdir=runs/grid_text
    python experiments/agreement_grid/run.py language --workdir=runs/grid_language
    python experiments/agreement_grid/run.py language_recursion --workdir=runs/grid_language_recursion
    python experiments/agreement_grid/run.py language_long --workdir=runs/grid_language_long
    python experiments/agreement_grid/run.py language_text --data=FOLDER --workdir=runs/grid_language_text
    python experiments/agreement_grid/run.py language_text_recursion --data=FOLDER --workdir=runs/grid_text_recursion
    python experiments/agreement_grid/run.py --report-only

The studies are configs/agreement_grid.py with the changes below; FOLDER is that of experiments/agreement_transfer. They
resume when called again and leave their rows in results/. `--report-only` writes the README's tables from them.
"""

import runpy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdib.main import load_config

HERE = Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "agreement_grid.py"
ROWS = runpy.run_path(str(HERE.parent / "rows.py"))
TRANSFER = runpy.run_path(str(HERE.parent / "agreement_transfer" / "run.py"))
STUDIES = {
    "classification": "",
    "text": "corpus",
    "language": "language",
    "language_recursion": "language",
    "language_long": "language",
    "language_text": "language,corpus",
    "language_text_recursion": "language,corpus",
}
RATES = (2e-3, 4e-3, 8e-3)  # for every fit the same, chosen by its validation loss
STEPS = {"language": 4_000, "language_long": 8_000, "language_text": 3_000}  # where they are not the config's
TOP_K = "transformer_from_lstm_top_k"  # from its teacher's five likeliest words
KINDS = ("lstm", "ut_seq", "transformer_seq", "transformer")  # each lacks a bias that the one before it has
BIASES = {
    "memory bottleneck": {"lstm", "ut_seq"},
    "recursion": {"ut_seq", "transformer_seq"},
    "sequentiality": {"transformer_seq", "transformer"},
}
# Beside the first test set. BLiMP is not: of its 4,000 pairs these manuals' words leave 56 that can be asked.
SHOWN = {"linzen": "Linzen et al.'s test sentences"}
Values = Mapping[int, float]  # by seed
minus, combined, Claim = ROWS["minus"], ROWS["combined"], ROWS["Claim"]
METRICS = {
    "A-accuracy": ROWS["A_ACCURACY"],
    "mu-accuracy": ("accuracy", "mean_accuracy", "mu"),  # the mean over the one group that "mu" is
    "ECE": ROWS["ECE"],
    "perplexity": ("perplexity", "perplexity", ""),
}


def study_config(name: str, data: Path | None) -> dict[str, Any]:
    """The configuration of a study."""
    config = load_config(str(CONFIG), STUDIES[name]).to_dict()
    if "text" in name:
        if data is None:
            raise SystemExit(f"{name} needs --data=FOLDER")
        config["task"] |= TRANSFER["text_paths"](data)
        config["title"] += ", real text"
    if name in ("classification", "text"):  # at the recipe's one rate a narrow LSTM has not arrived
        config["tune"] = {"learning_rates": RATES, "seeds": 1}
    if name.startswith("language"):
        if name.endswith("recursion"):
            _with("ut_seq", config)
        else:
            _only(("lstm", "transformer"), config)
        config["train"] |= {"buckets": (12, 20), "group_size": 2, "save_every": 500}
        config["train"]["snapshots"] = {"name": "every", "n": 1_000}
    if name in STEPS:
        config["train"]["steps"] = STEPS[name]
    if name in ("language_long", "language_text"):
        config["train"] |= {"group_size": 3, "save_every": 1_000}
    if name == "language_long":  # two of three LSTMs know agreement by then: what do they teach?
        _taught("transformer", config)
    if name == "language":
        kl = {"fn": "top_k_kl", "weight": 1.0, "k": 5, "temperature": 1.0, "where": "batch.mask"}
        config["losses"]["top_k"] = {"kl": kl}
        config["fits"][TOP_K] = config["fits"]["transformer_from_lstm"] | {"loss": "top_k"}
    if name == "language_text_recursion":
        config["seeds"] = 2  # for the time: a look
    if name.startswith("language_text"):
        config["task"]["vocabulary_size"] = 2_000
    return config


def _only(networks: tuple[str, ...], config: dict[str, Any]) -> None:
    """Leaves out the other networks and their cells."""
    config["models"] = {name: config["models"][name] for name in networks}
    config["fits"] = {name: fit for name, fit in config["fits"].items() if fit["model"] in networks}
    config["fits"] = {name: fit for name, fit in config["fits"].items() if not _outside(fit["teacher"], config)}
    config["grid"] = {name: {c: config["grid"][name][c] for c in ("alone", *networks)} for name in networks}


def _with(network: str, config: dict[str, Any]) -> None:
    """Leaves out the pairs that `network` is no part of."""
    grid = {
        s: {c: fit for c, fit in row.items() if network in (s, c) or c == "alone"} for s, row in config["grid"].items()
    }
    shown = {fit for row in grid.values() for fit in row.values()}
    taught_by = {config["fits"][fit]["teacher"] for fit in shown}
    config["fits"] = {name: fit for name, fit in config["fits"].items() if name in shown | taught_by}
    config["grid"] = grid
    config["roles"] |= {"alone": network, "self": grid[network][network], "distilled": grid[network]["lstm"]}


def _taught(student: str, config: dict[str, Any]) -> None:
    """Leaves out every pair with another student."""
    config["grid"] = {s: row if s == student else {"alone": row["alone"]} for s, row in config["grid"].items()}
    shown = {fit for row in config["grid"].values() for fit in row.values()}
    config["fits"] = {name: fit for name, fit in config["fits"].items() if name in shown | {f"{student}_peer"}}


def _outside(teacher: str, config: dict[str, Any]) -> bool:
    return bool(teacher) and teacher not in config["fits"]


def tables(workdir: Path) -> str:
    """The claims with their verdicts, then every pair's scores, as Markdown."""
    study = ROWS["read"](workdir)
    values = _values(study, study.tests[0])
    grid, published = study.config["grid"], study.config["published"]["grid"]
    found = [ROWS["claim_table"](claims(grid, values)), *_biases(study.config, values)]
    found.append(_becomes_its_teacher(study, values["A-accuracy"]))
    if "perplexity" in values:
        found.append(_worse_words_better_agreement(grid, values))
    if TOP_K in values["ECE"]:
        found.append(_five_words(values))
    found += [_grid_table(label, study.tests[0], grid, values[label], published) for label in values]
    return "\n\n".join([*found, *(_elsewhere(study, split) for split in SHOWN if split in study.tests)])


def _values(study: Any, split: str) -> dict[str, Mapping[str, Values]]:
    """{label: {fit: {seed: value}}} of what was measured on a test set."""
    values = {label: study.by_fit(key, split) for label, key in METRICS.items()}
    return {label: found for label, found in values.items() if found}


def _elsewhere(study: Any, split: str) -> str:
    """The same claims on another test set, for which nothing is published here."""
    grid, values = study.config["grid"], _values(study, split)
    found = [ROWS["claim_table"](claims(grid, values)), *_biases(study.config, values)]
    found += [_grid_table(label, split, grid, values[label], {}) for label in values]
    return ROWS["folded"](f"The same on {SHOWN[split]}", "\n\n".join(found))


def claims(grid: Mapping[str, Mapping[str, str]], values: Mapping[str, Mapping[str, Values]]) -> list[Any]:
    """The published claims that these studies can speak to."""
    (name, accuracy), ece = next(iter(values.items())), values["ECE"]
    found = [
        Claim(f"an LSTM teaches {s} more {name} than {other}", _minus(accuracy, grid[s]["lstm"], grid[s][by]))
        for s in grid
        for by, other in ((s, f"another {s} does"), ("alone", "labels do"))
        if s != "lstm" and {"lstm", by} <= grid[s].keys()
    ]
    found += [
        Claim(f"self-distillation lowers the {name} of {s}", _minus(accuracy, grid[s]["alone"], grid[s][s]))
        for s in grid
        if s in grid[s]
    ]
    nearer = {s: [_nearer(ece, grid[s][t], s, t) for t in grid[s] if t not in ("alone", s)] for s in grid}
    of_others = "comes nearer to its teacher's ECE (mean over the others)"
    found += [Claim(f"{s} {of_others}", _mean(parts)) for s, parts in nearer.items() if parts]
    pairs = [values for of_student in nearer.values() for values in of_student]
    return [*found, Claim("students come nearer to their teacher's ECE (mean over the pairs)", _mean(pairs))]


def _biases(config: Mapping[str, Any], values: Mapping[str, Mapping[str, Values]]) -> list[str]:
    """Which bias carries agreement: two networks that differ in it, alone and as teachers of the same others."""
    (name, accuracy), grid = next(iter(values.items())), config["grid"]
    by_kind = {config["models"][network]["preset"].rsplit("_", 1)[0]: network for network in grid}
    lines = []
    for bias, kinds in BIASES.items():
        if kinds <= by_kind.keys():
            has, lacks = (by_kind[kind] for kind in sorted(kinds, key=KINDS.index))
            students = [s for s in grid if s not in (has, lacks) and {has, lacks} <= grid[s].keys()]
            taught = [_minus(accuracy, grid[s][has], grid[s][lacks]) for s in students]
            alone = ROWS["signed"](_minus(accuracy, grid[has]["alone"], grid[lacks]["alone"]))
            lines.append((bias, f"{has} − {lacks}", alone, ROWS["signed"](_mean(taught)) if taught else ""))
    head = (f"{name} by bias", "networks", "alone [95 %]", "as teachers, mean over the other students [95 %]")
    return [ROWS["markdown"](head, lines)] if lines else []


def _worse_words_better_agreement(
    grid: Mapping[str, Mapping[str, str]], values: Mapping[str, Mapping[str, Values]]
) -> str:
    """Perplexity worsens while A-accuracy rises: holds for a pair where both do."""
    lines = []
    for student, teacher in ((s, t) for s in grid for t in grid[s] if t != "alone"):
        parts = [_minus(values[label], grid[student][teacher], student) for label in ("perplexity", "A-accuracy")]
        differences = (ROWS["signed"](part) for part in parts)
        lines.append((f"{student} from {teacher}", *differences, str(len(parts[0])), ROWS["decided"](*parts)))
    head = ("more perplexity and more A-accuracy than alone", "perplexity − alone [95 %]", "A-accuracy − alone [95 %]")
    return ROWS["markdown"]((*head, "seeds", "verdict"), lines)


def _becomes_its_teacher(study: Any, accuracy: Mapping[str, Values]) -> str:
    """How near a student ends to its own teacher, and how much nearer than to that network of other seeds."""
    agreement, lines = _agreements(study), []
    for student, row in study.config["grid"].items():
        for column, fit in row.items():
            teacher = study.config["fits"][fit]["teacher"]
            if column == "alone" or not (found := agreement.get((fit, teacher))):
                continue
            own = {a: value for (a, b), value in found.items() if a == b}
            others = {seed: np.mean([value for (a, b), value in found.items() if a == seed != b]) for seed in own}
            lines.append(
                (
                    f"{student} from {column}",
                    ROWS["signed"](_minus(accuracy, fit, teacher)),
                    ROWS["plus_minus"](ROWS["spread"](own)),
                    ROWS["signed"](minus(own, others)),
                )
            )
    head = ("a student and its own teacher", "A-accuracy − the teacher's [95 %]", "answers in common")
    return ROWS["markdown"]((*head, "− with the same network of other seeds [95 %]"), lines)


def _agreements(study: Any) -> dict[tuple[str, str], dict[tuple[int, int], float]]:
    """{(fit, other fit): {(seed, other seed): share of test answers in common}}."""
    who = {subject.id: subject for subject in study.subjects}
    found: dict[tuple[str, str], dict[tuple[int, int], float]] = {}
    for row in study.rows:
        if (row.property, row.metric, row.split, row.coords) == ("fidelity", "agreement", study.tests[0], ()):
            one, other = who[row.subject], who[str(row.other)]
            found.setdefault((one.fit, other.fit), {})[one.seed, other.seed] = row.value
    return found


def _five_words(values: Mapping[str, Mapping[str, Values]]) -> str:
    """What a Transformer has from the five words that its LSTM finds likeliest, in place of all of them."""
    beside = ("transformer_from_lstm", "transformer")
    lines = [
        (
            label,
            ROWS["plus_minus"](ROWS["spread"](of[TOP_K])),
            *(ROWS["signed"](_minus(of, TOP_K, other)) for other in beside),
        )
        for label, of in values.items()
    ]
    head = ("a transformer from the five likeliest words of an lstm", "mean", "− from all its words [95 %]")
    return ROWS["markdown"]((*head, "− alone [95 %]"), lines)


def _minus(values: Mapping[str, Values], a: str, b: str) -> Values:
    return minus(values[a], values[b])


def _nearer(ece: Mapping[str, Values], taught: str, alone: str, teacher: str) -> Values:
    """By how much the distance to the teacher's ECE shrank."""
    return combined(lambda d, a, t: abs(a - t) - abs(d - t), ece[taught], ece[alone], ece[teacher])


def _mean(parts: Iterable[Values]) -> Values:
    return combined(lambda *xs: float(np.mean(xs)), *parts)


def _grid_table(
    label: str,
    test: str,
    grid: Mapping[str, Mapping[str, str]],
    values: Mapping[str, Values],
    published: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> str:
    """Students by teachers: mean ± half of the 95 % t interval, and in brackets what was published, where it was."""
    theirs = published.get(label, published.get(label.lower(), {}))
    columns = ["alone", *grid]
    lines = []
    for student, row in grid.items():
        ours = [ROWS["plus_minus"](ROWS["spread"](values[row[c]])) if c in row else "" for c in columns]
        told = [theirs.get(student, {}).get(column) if column in row else None for column in columns]
        lines.append((student, *map(_beside, ours, told)))
    return ROWS["markdown"]((f"{label}, {test}: student", *columns), lines)


def _beside(ours: str, published: float | None) -> str:
    if published is None:
        return ours
    return f"{ours} ({published:.3f})" if published < 1 else f"{ours} ({published:.1f})"  # a perplexity has one decimal


def redraw(name: str) -> None:
    """The README's tables of a study, from its committed rows alone."""
    with ROWS["unpacked"](HERE / "results" / name) as workdir:
        ROWS["fill"](HERE / "README.md", name, tables(workdir))


if __name__ == "__main__":
    ROWS["main"](__doc__, HERE, tuple(STUDIES), study_config, redraw)
