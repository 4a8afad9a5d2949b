"""Choose the default sizes: the LSTM's lead over the Transformer on a development grammar, by size.

    python experiments/agreement_transfer/sizes.py --workdir=runs/agreement_sizes
    python experiments/agreement_transfer/sizes.py --report-only

Trains `teacher` and `alone` of configs/lstm_to_transformer.py with 3 seeds at every width, depth and number of steps
in SIZES, and prints teacher - alone in A-accuracy with its 95 % t interval. No study uses this grammar's seed, so
choosing sizes on it does not bias the tests of the studies. The same command resumes an interrupted run.

A student cannot learn what it cannot represent. The last sizes therefore train on sentences with 0 to 4 attractors in
equal shares, which tests a network's capacity rather than its bias.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from kdib.main import load_config
from kdib.records import Records, Row, Subject
from kdib.stats import paired_difference

HERE = Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "lstm_to_transformer.py"
RESULTS = HERE / "results" / "sizes.json"
WIDTHS, LAYERS, STEPS = (32, 64), (1, 2), (200, 400, 800)
NATURAL, BALANCED = (0.95, 0.04, 0.007, 0.002, 0.0005), (0.2, 0.2, 0.2, 0.2, 0.2)
SIZES = [(NATURAL, steps, layers, width) for steps, layers, width in product(STEPS, LAYERS, WIDTHS)]
SIZES += [(BALANCED, 800, layers, 32) for layers in LAYERS]


def study_config(shares: tuple[float, ...], steps: int, layers: int, width: int) -> dict[str, Any]:
    """Return the default study with the fits `teacher` and `alone` only, on the development grammar."""
    config = load_config(str(CONFIG), "").to_dict()
    config["fits"] = {name: config["fits"][name] for name in ("teacher", "alone")}
    config["roles"] = {"teacher": "teacher", "alone": "alone", "self": "alone", "distilled": "alone"}
    config["task"] |= {"data_seed": 1_000, "attractor_shares": shares}
    config["models"]["lstm"] |= {"hidden_size": width, "layers": layers}
    config["models"]["transformer"] |= {"width": width, "layers": layers}
    config["train"] |= {"steps": steps, "snapshots": {"name": "every", "n": 100}}
    config["properties"] = ("accuracy",)
    return config


def lead(workdir: Path) -> dict[str, Any]:
    """Return the A-accuracy of both fits by seed, and the paired difference as (estimate, low, high)."""
    subjects, _ = Records(workdir / "subjects.jsonl", Subject).read()
    rows, _ = Records(workdir / "rows.jsonl", Row).read()
    cell = ("mean_balanced_accuracy", "test", "attractors")
    values = {row.subject: row.value for row in rows if (row.metric, row.split, row.group) == cell}
    teacher, alone = (
        [values[s.id] for s in sorted(subjects, key=lambda s: s.seed) if s.fit == fit] for fit in ("teacher", "alone")
    )
    difference, _ = paired_difference(np.array(teacher), np.array(alone))
    return {"teacher": teacher, "alone": alone, "difference": difference[:3]}


def run(workdir: Path) -> None:
    """Train and measure every size; the results file is written after each one."""
    from kdib import study, tasks
    from kdib.config import parse
    from kdib.main import use_compilation_cache, use_devices
    from kdib.teaching import open_lab

    use_compilation_cache()
    use_devices(3)
    found = []
    for shares, steps, layers, width in SIZES:
        settings = parse(study_config(shares, steps, layers, width))
        training = "balanced" if shares == BALANCED else "natural"
        folder = workdir / f"{training}_{width}x{layers}_{steps}"
        folder.mkdir(parents=True, exist_ok=True)
        lab = open_lab(settings, tasks.build(settings.task), folder)
        study.train(lab)
        study.measure(lab)
        found.append({"training": training, "width": width, "layers": layers, "steps": steps, **lead(folder)})
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def report() -> str:
    """Return the committed numbers as a Markdown table."""
    lines = ["| training | width | layers | steps | teacher | alone | teacher - alone [95 %] |", "|---" * 7 + "|"]
    for row in json.loads(RESULTS.read_text()):
        estimate, low, high = row["difference"]
        means = [f"{np.mean(row[fit]):.3f}" for fit in ("teacher", "alone")]
        size = [str(row[name]) for name in ("training", "width", "layers", "steps")]
        lines.append("| " + " | ".join([*size, *means, f"{estimate:+.3f} [{low:+.3f}, {high:+.3f}]"]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--report-only", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report_only:
        if arguments.workdir is None:
            parser.error("give a --workdir, or --report-only")
        run(arguments.workdir)
    print(report())
