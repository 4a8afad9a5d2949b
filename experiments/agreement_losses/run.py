"""Which loss carries what from an LSTM to a Transformer, and what do the controls do without it?

    python experiments/agreement_losses/run.py classification --workdir=runs/losses_classification
    python experiments/agreement_losses/run.py language --workdir=runs/losses_language
    python experiments/agreement_losses/run.py --report-only

The studies are configs/agreement_losses.py and its `:language`. They resume when called again and leave their rows in
results/. `--report-only` writes the README's tables from them.
"""

import runpy
from pathlib import Path
from typing import Any

from kdib.main import load_config

HERE = Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "agreement_losses.py"
ROWS = runpy.run_path(str(HERE.parent / "rows.py"))
VARIANTS = {"classification": "", "language": "language"}


def study_config(name: str, data: Path | None) -> dict[str, Any]:
    """The configuration of a study."""
    del data
    return load_config(str(CONFIG), VARIANTS[name]).to_dict()


def tables(workdir: Path) -> str:
    """Every fit's A-accuracy and ECE, and its difference from self-distillation and from offline forward KL."""
    study = ROWS["read"](workdir)
    accuracy, ece = study.by_fit(ROWS["A_ACCURACY"]), study.by_fit(ROWS["ECE"])
    head = ("fit", "A-accuracy", "A-accuracy − self [95 %]", "− distilled [95 %]", "ECE", "ECE − self [95 %]")
    lines = [
        (
            fit,
            ROWS["plus_minus"](ROWS["spread"](accuracy[fit])),
            _against(accuracy, fit, "self"),
            _against(accuracy, fit, "distilled"),
            ROWS["plus_minus"](ROWS["spread"](ece[fit])),
            _against(ece, fit, "self"),
        )
        for fit in study.config["fits"]
        if fit in accuracy
    ]
    return ROWS["markdown"](head, lines)


def _against(values, fit: str, control: str) -> str:
    return "" if fit == control else ROWS["signed"](ROWS["minus"](values[fit], values[control]))


def redraw(name: str) -> None:
    """The README's table of a study, from its committed rows alone."""
    with ROWS["unpacked"](HERE / "results" / name) as workdir:
        ROWS["fill"](HERE / "README.md", name, tables(workdir))


if __name__ == "__main__":
    ROWS["main"](__doc__, HERE, tuple(VARIANTS), study_config, redraw)
