"""Does a bias matter most where data are few? The study of configs/lstm_to_transformer.py at shares of its data.

    python experiments/agreement_data_size/run.py 3_percent --workdir=runs/size_3
    python experiments/agreement_data_size/run.py --report-only

The other studies are 10_percent, 30_percent and 100_percent. Every fit trains for as many steps as with all data, so
fewer sentences are seen more often: the amount of information changes, the length of training does not. A study
resumes when the command is repeated, and saves its rows in results/. `--report-only` writes the README's tables and
the figure from these rows.
"""

import runpy
from pathlib import Path
from typing import Any

from kdib.main import load_config

HERE = Path(__file__).parent
CONFIG = HERE.parent.parent / "configs" / "lstm_to_transformer.py"
ROWS = runpy.run_path(str(HERE.parent / "rows.py"))
PERCENT = {f"{percent}_percent": percent for percent in (3, 10, 30, 100)}
FITS = ("teacher", "alone", "self", "distilled", "reverse")
CONTRASTS = (("teacher", "alone"), ("distilled", "self"), ("distilled", "alone"), ("reverse", "teacher"))


def study_config(name: str, data: Path | None) -> dict[str, Any]:
    """Return the default study with fewer training sentences, plus `reverse`, an LSTM that learns from the peer."""
    del data
    config = load_config(str(CONFIG), "").to_dict()
    config["title"] += f", {PERCENT[name]} % of the training sentences"
    config["task"]["n_train"] = config["task"]["n_train"] * PERCENT[name] // 100
    config["fits"]["reverse"] = config["fits"]["distilled"] | {"model": "lstm", "teacher": "peer"}
    return config


def table(studies: dict[str, Any], key: tuple[str, str, str]) -> str:
    """Return a table of every fit and every contrast, with one row per share of the data."""
    lines = []
    for name, study in studies.items():
        values = study.by_fit(key)
        levels = [ROWS["plus_minus"](ROWS["spread"](values[fit])) for fit in FITS]
        contrasts = [ROWS["signed"](ROWS["minus"](values[a], values[b])) for a, b in CONTRASTS]
        size = f"{study.facts['sets']['train']['size']:,}"
        lines.append((f"{PERCENT[name]} % ({size})", *levels, *contrasts))
    return ROWS["markdown"](("of the data", *FITS, *(f"{a} − {b} [95 %]" for a, b in CONTRASTS)), lines)


def fewest_against_all(studies: dict[str, Any], key: tuple[str, str, str]) -> str:
    """Return every contrast at the smallest share minus the same at the largest; all shares have the same seeds."""
    few, everything = (list(studies.values())[i].by_fit(key) for i in (0, -1))
    minus, shares = ROWS["minus"], [PERCENT[name] for name in studies]
    lines = [
        (f"{a} − {b}", ROWS["signed"](minus(minus(few[a], few[b]), minus(everything[a], everything[b]))))
        for a, b in CONTRASTS
    ]
    return ROWS["markdown"](("contrast", f"at {shares[0]} % − at {shares[-1]} % [95 %]"), lines)


def draw(studies: dict[str, Any], path: Path) -> None:
    """Plot A-accuracy of every fit, and distilled - self, against the number of training sentences."""
    import matplotlib.pyplot as plt

    from kdib.report.canvas import styles

    sizes = [study.facts["sets"]["train"]["size"] for study in studies.values()]
    values = [study.by_fit(ROWS["A_ACCURACY"]) for study in studies.values()]
    figure, (levels, gain) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for number, (fit, style) in enumerate(styles(FITS).items()):
        _points(levels, sizes, [found[fit] for found in values], 1 + 0.03 * (number - 2), label=fit, style=style)
    gains = [ROWS["minus"](found["distilled"], found["self"]) for found in values]
    _points(gain, sizes, gains, 1, label="distilled − self", style=styles(FITS)["distilled"])
    gain.axhline(0, color="0.6", linewidth=0.8)
    levels.set(title="A-accuracy", ylim=(0, 1.02))
    gain.set(title="A-accuracy, distilled − self")
    levels.legend(frameon=False, fontsize=8)
    for axes in (levels, gain):
        axes.set(xscale="log", xlabel="training sentences (log scale)")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _points(axes, sizes, by_size, dodge: float, *, label: str, style) -> None:
    """Plot means with their 95 % t intervals; `dodge` multiplies the sizes so that fits do not overlap."""
    means = [ROWS["spread"](values) for values in by_size]
    heights = [mean.estimate for mean in means]
    half = [(mean.high - mean.low) / 2 for mean in means]
    at = [size * dodge for size in sizes]
    look = {"color": style.colour, "marker": style.marker, "linestyle": style.line}
    axes.errorbar(at, heights, half, label=label, capsize=3, markersize=4, linewidth=1.2, **look)


def redraw(_name: str) -> None:
    """Write the README's tables and the figure from the committed rows of all shares that were run."""
    import contextlib

    done = [name for name in PERCENT if (HERE / "results" / name).exists()]
    with contextlib.ExitStack() as stack:
        studies = {name: ROWS["read"](stack.enter_context(ROWS["unpacked"](HERE / "results" / name))) for name in done}
    keys = {"A-accuracy": ROWS["A_ACCURACY"], "ECE": ROWS["ECE"]}
    parts = [
        part for label, key in keys.items() for part in (label, table(studies, key), fewest_against_all(studies, key))
    ]
    ROWS["fill"](HERE / "README.md", "sizes", "\n\n".join(parts))
    draw(studies, HERE / "figures" / "data_size.png")


if __name__ == "__main__":
    ROWS["main"](__doc__, HERE, tuple(PERCENT), study_config, redraw)
