"""Train and measure LSTM -> Transformer on agreement: does the LSTM's bias transfer, on generated and on real text?

    python experiments/agreement_transfer/run.py generated --workdir=runs/agreement_generated
    python experiments/agreement_transfer/run.py text --data=FOLDER --workdir=runs/agreement_text
    python experiments/agreement_transfer/run.py text_as_wide --data=FOLDER --workdir=runs/agreement_text_as_wide
    python experiments/agreement_transfer/run.py --report-only

FOLDER holds docs/{git,python,linux,postgresql}.tsv.gz, ud/, speeches/ and linzen_testset/, in the formats of
kdib/tasks/agreement/formats.py. The studies are `:full` of configs/lstm_to_transformer.py with the changes in
`study_config`. The same command resumes an interrupted study. A finished study leaves its rows in results/;
`--report-only` writes the README's tables and the figures from these rows.
"""

import runpy
from pathlib import Path
from typing import Any

from kdib.estimands import TRANSFER_SCORE, Effect, fit_summary, study_effects
from kdib.main import load_config
from kdib.properties import of_task
from kdib.records import Records, Row, Subject, read_json
from kdib.verdict import headline

HERE = Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "lstm_to_transformer.py"
PROPERTIES = ("accuracy", "calibration", "fidelity")  # experiments/properties measures the others
ROWS = runpy.run_path(str(HERE.parent / "rows.py"))


def study_config(name: str, data: Path | None) -> dict[str, Any]:
    """Return the configuration of a study; the studies on text need the folder `data`."""
    if name == "generated":
        return load_config(str(CONFIG), "full").to_dict() | {"properties": PROPERTIES}
    if data is None:
        raise SystemExit(f"{name} needs --data=FOLDER")
    config = load_config(str(CONFIG), "full,corpus").to_dict()
    config["title"] += ", real text"
    config["seeds"] = 3
    config["properties"] = PROPERTIES
    config["task"] |= text_paths(data)
    if name == "text_as_wide":  # Control: does the LSTM lead by its architecture, or by its wider embedding?
        config["title"] += ", words as wide as in the Transformer"
        config["models"]["lstm"]["embedding_size"] = config["models"]["transformer"]["width"]
    return config


def text_paths(data: Path) -> dict[str, Any]:
    """Return the task fields: train on three manuals, validate on a tenth, test on a fourth and on other text."""
    return {
        "train": tuple(str(data / "docs" / f"{manual}.tsv.gz") for manual in ("git", "python", "linux")),
        "tests": (
            f"postgresql={data / 'docs' / 'postgresql.tsv.gz'}",  # first, so it counts as in distribution
            f"ud={data / 'ud'}",
            f"speeches={data / 'speeches'}",
            f"linzen={data / 'linzen_testset'}",
        ),
        "ratios": (0.9, 0.1, 0.0),
    }


def redraw(name: str) -> None:
    """Write the report, the figures and the README's tables of a study from its committed rows."""
    with ROWS["unpacked"](HERE / "results" / name) as workdir:
        ROWS["redraw"](workdir, HERE / "figures" / name)
        ROWS["fill"](HERE / "README.md", name, tables(workdir))


def tables(workdir: Path) -> str:
    """Return the headline, the effects, and every fit's accuracy by number of attractors, as Markdown."""
    config, facts = read_json(workdir / "config.json"), read_json(workdir / "task.json")
    subjects, _ = Records(workdir / "subjects.jsonl", Subject).read()
    rows, _ = Records(workdir / "rows.jsonl", Row).read()
    splits = [name for name in facts["sets"] if name not in ("train", "validation")]
    failed = [f"{failure['fit']}/{failure['run']}" for failure in read_json(workdir / "failures.json")]
    properties = of_task(config["task"]["name"])
    declared_properties = {name: properties[name] for name in config["properties"]}  # Holm's family is these
    effects = study_effects(
        rows, subjects, config["roles"], declared_properties, in_distribution=splits[0], failed=failed
    )
    declared = [e for e in effects if e.family != "exploratory" and ": " not in e.estimand]
    elsewhere = [e for e in effects if e.family == "exploratory" and _is_headline(e, effects)]
    likeness = [e for e in effects if e.family == "secondary" and ": " in e.estimand]
    accuracy = [_accuracy_table(rows, subjects, config, split) for split in splits]
    return "\n\n".join(
        [
            f"**{headline(effects, properties[config['properties'][0]])}**",
            _effect_table(declared),
            *accuracy,
            ROWS["folded"]("The same estimands on the other test sets (exploratory)", _effect_table(elsewhere)),
            ROWS["folded"](
                "Likeness of the other students to the teacher of their seed, and to its siblings",
                _effect_table(likeness),
            ),
        ]
    )


def _is_headline(effect: Effect, effects: list[Effect]) -> bool:
    """Whether an exploratory effect is a headline estimand of a primary metric, on another test set."""
    cells = {(e.property, e.metric, e.group, e.coords) for e in effects if e.family == "primary"}
    names = ("distilled - self", "distilled - alone", "teacher - alone", TRANSFER_SCORE, "own - sibling")
    return (effect.property, effect.metric, effect.group, effect.coords) in cells and effect.estimand in names


def _effect_table(effects: list[Effect]) -> str:
    head = "| family | property, metric | test set | estimand | estimate [95 %] | Holm p | seeds |\n" + "|---" * 7 + "|"
    return "\n".join([head, *map(_effect_line, effects)])


def _effect_line(effect: Effect) -> str:
    low, estimate, high = map(ROWS["with_sign"], (effect.low, effect.estimate, effect.high))
    interval = f"[{low}, {high}]" if effect.bounded else "undecided"
    metric = f"{effect.property}, {effect.metric}" + (f" by {effect.group}" if effect.group else "")
    p = "" if effect.p_holm is None else f"{effect.p_holm:.3g}"
    return (
        f"| {effect.family} | {metric} | {effect.split} | {effect.estimand} | "
        f"{estimate} {interval} | {p} | {effect.n_seeds} |"
    )


def _accuracy_table(rows: list[Row], subjects: list[Subject], config: dict[str, Any], split: str) -> str:
    """Balanced accuracy of every fit by number of attractors: the mean ± half of the 95 % t interval."""
    own = [
        r
        for r in rows
        if (r.property, r.metric, r.group, r.split) == ("accuracy", "balanced_accuracy", "attractors", split)
    ]
    summary = fit_summary(own, subjects)
    cells = sorted(summary, key=lambda cell: cell.coords)
    counts = [str(dict(cell.coords)["attractors"]) for cell in cells]
    lines = [
        f"| {split}: fit | " + " | ".join(f"{k} attractors" for k in counts) + " |",
        "|---" * (len(cells) + 1) + "|",
    ]
    for fit in config["fits"]:
        values = [summary[cell].get(fit) for cell in cells]
        lines.append(f"| {fit} | " + " | ".join(map(ROWS["plus_minus"], values)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    ROWS["main"](__doc__, HERE, ("generated", "text", "text_as_wide"), study_config, redraw)
    ROWS["fill"](HERE / "README.md", "sizes", runpy.run_path(str(HERE / "sizes.py"))["report"]())
