"""Which architecture teaches which? Every pair of four networks, as classifiers and as language models.

    python experiments/agreement_grid/run.py classification --workdir=runs/grid_classification
    python experiments/agreement_grid/run.py language --workdir=runs/grid_language
    python experiments/agreement_grid/run.py text --data=FOLDER --workdir=runs/grid_text
    python experiments/agreement_grid/run.py --report-only

The studies are configs/agreement_grid.py with the changes below; FOLDER is that of experiments/agreement_transfer. They
resume when called again and leave their rows in results/. `--report-only` writes the README's tables from them.
"""

import runpy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdib.estimands import Cell, fit_summary
from kdib.main import load_config
from kdib.records import Records, Row, Subject, read_json
from kdib.stats import paired_difference

HERE = Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "agreement_grid.py"
ROWS = runpy.run_path(str(HERE.parent / "rows.py"))
TRANSFER = runpy.run_path(str(HERE.parent / "agreement_transfer" / "run.py"))
STUDIES = ("classification", "language", "text")
A_ACCURACY = ("accuracy", "mean_accuracy", "attractors")
METRICS = {
    "A-accuracy": A_ACCURACY,
    "ECE": ("calibration", "ece", ""),
    "perplexity": ("perplexity", "perplexity", ""),
}
Values = Mapping[int, float]  # by seed


class Claim(NamedTuple):
    """A published claim as a mean over seeds that is positive where the claim holds."""

    text: str
    by_seed: Values


def study_config(name: str, data: Path | None) -> dict[str, Any]:
    """The configuration of a study."""
    if name != "text":
        return load_config(str(CONFIG), "language" if name == "language" else "").to_dict()
    if data is None:
        raise SystemExit("text needs --data=FOLDER")
    config = load_config(str(CONFIG), "corpus").to_dict()
    config["task"] |= TRANSFER["text_paths"](data)
    config["title"] += ", real text"
    return config


def tables(workdir: Path) -> str:
    """The claims with their verdicts, then every pair's scores, as Markdown."""
    config, facts = read_json(workdir / "config.json"), read_json(workdir / "task.json")
    subjects, _ = Records(workdir / "subjects.jsonl", Subject).read()
    rows, _ = Records(workdir / "rows.jsonl", Row).read()
    split = next(name for name in facts["sets"] if name not in ("train", "validation"))
    values = {label: _by_fit(rows, subjects, (*key, split)) for label, key in METRICS.items()}
    values = {label: found for label, found in values.items() if found}
    grid = config["grid"]
    return "\n\n".join(
        [
            _claim_table(claims(grid, values)),
            *(_grid_table(label, grid, rows, subjects, (*METRICS[label], split)) for label in values),
        ]
    )


def _by_fit(rows: Iterable[Row], subjects: Iterable[Subject], key: tuple[str, ...]) -> dict[str, Values]:
    """{fit: {seed: value}} of one cell."""
    who = {subject.id: subject for subject in subjects}
    out: dict[str, dict[int, float]] = {}
    for row in rows:
        if (row.property, row.metric, row.group, row.split) == key and not row.coords and row.value is not None:
            out.setdefault(who[row.subject].fit, {})[who[row.subject].seed] = row.value
    return out


def claims(grid: Mapping[str, Mapping[str, str]], values: Mapping[str, Mapping[str, Values]]) -> list[Claim]:
    """The published claims that these studies can speak to."""
    accuracy, ece = values["A-accuracy"], values["ECE"]
    students = [student for student in grid if "transformer" in student or student == "ut_seq"]
    found = [
        Claim(
            f"an LSTM teaches {s} more A-accuracy than another {s} does", _minus(accuracy, grid[s]["lstm"], grid[s][s])
        )
        for s in students
    ]
    found += [
        Claim(f"self-distillation lowers the A-accuracy of {s}", _minus(accuracy, grid[s]["alone"], grid[s][s]))
        for s in grid
    ]
    if "perplexity" in values:
        found += [
            Claim(
                f"learning from an LSTM worsens the perplexity of {s} (alone, in perplexity)",
                _minus(values["perplexity"], grid[s]["lstm"], s),
            )
            for s in students
        ]
    pairs = [(s, t) for s in grid for t in grid if s != t]
    nearer = [_nearer(ece, grid[s][t], s, t) for s, t in pairs]
    return [*found, Claim("students come nearer to their teacher's ECE (mean over the pairs)", _mean(nearer))]


def _minus(values: Mapping[str, Values], a: str, b: str) -> Values:
    return _combined(lambda x, y: x - y, values[a], values[b])


def _nearer(ece: Mapping[str, Values], taught: str, alone: str, teacher: str) -> Values:
    """By how much the distance to the teacher's ECE shrank."""
    return _combined(lambda d, a, t: abs(a - t) - abs(d - t), ece[taught], ece[alone], ece[teacher])


def _mean(parts: Iterable[Values]) -> Values:
    return _combined(lambda *xs: float(np.mean(xs)), *parts)


def _combined(function: Callable[..., float], *parts: Values) -> Values:
    """Seed by seed, where all have a value."""
    seeds = set.intersection(*(set(part) for part in parts))
    return {seed: function(*(part[seed] for part in parts)) for seed in sorted(seeds)}


def _claim_table(found: Iterable[Claim]) -> str:
    lines = ["| claim | estimate [95 %] | seeds | verdict |", "|---|---|---|---|"]
    for text, by_seed in found:
        values = np.array(list(by_seed.values()))
        (estimate, low, high), n = paired_difference(values, np.zeros_like(values))[0][:3], len(values)
        decided = "holds here" if low > 0 else "the opposite holds here" if high < 0 else "undecided"
        lines.append(f"| {text} | {estimate:+.4f} [{low:+.4f}, {high:+.4f}] | {n} | {decided} |")
    return "\n".join(lines)


def _grid_table(label: str, grid: Mapping, rows: list[Row], subjects: list[Subject], key: tuple[str, ...]) -> str:
    """Students by teachers: mean ± half of the 95 % t interval."""
    prop, metric, group, split = key
    summary = fit_summary([r for r in rows if (r.property, r.split) == (prop, split)], subjects)
    cell = Cell(prop, metric, split, group, ())
    columns = list(next(iter(grid.values())))
    lines = [f"| {label}, {split}: student | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for student, row in grid.items():
        entries = [ROWS["plus_minus"](summary[cell].get(row[column])) for column in columns]
        lines.append(f"| {student} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def redraw(name: str) -> None:
    """The README's tables of a study, from its committed rows alone."""
    with ROWS["unpacked"](HERE / "results" / name) as workdir:
        ROWS["fill"](HERE / "README.md", name, tables(workdir))


if __name__ == "__main__":
    ROWS["main"](__doc__, HERE, STUDIES, study_config, redraw)
