"""Shared code of the experiments: run a study, keep its rows beside the script, and read them back without training.

The scripts load it by path: `runpy.run_path(str(HERE.parent / "rows.py"))`.
"""

import argparse
import contextlib
import gzip
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdib.records import Records, Row, Subject, read_json
from kdib.stats import mean_interval

FILES = ("config.json", "task.json", "failures.json", "subjects.jsonl", "rows.jsonl", "metrics.jsonl")
# Keys are (property, metric, group). Accuracy is balanced because three quarters of the text sentences without
# attractors are singular: a constant prediction reaches an unbalanced A-accuracy of 0.64. Generated test sets have as
# many singular as plural sentences, so there balanced and unbalanced A-accuracy are the same.
A_ACCURACY, ECE = ("accuracy", "mean_balanced_accuracy", "attractors"), ("calibration", "ece", "")
Values = Mapping[int, float]  # by seed


class Tables(NamedTuple):
    """The configuration, facts, subjects and rows of a finished study."""

    config: dict[str, Any]
    facts: dict[str, Any]
    subjects: list[Subject]
    rows: list[Row]

    @property
    def tests(self) -> list[str]:
        """The names of the test sets, the in-distribution one first."""
        return [name for name in self.facts["sets"] if name not in ("train", "validation", "shifted")]

    def by_fit(self, key: tuple[str, str, str], split: str = "") -> dict[str, Values]:
        """Return {fit: {seed: value}} of (property, metric, group) on `split`, by default the in-distribution set."""
        who, cell = {subject.id: subject for subject in self.subjects}, (*key, split or self.tests[0])
        out: dict[str, dict[int, float]] = {}
        for row in self.rows:
            found = (row.property, row.metric, row.group, row.split)
            if found == cell and not row.coords and row.other is None and row.value is not None:
                out.setdefault(who[row.subject].fit, {})[who[row.subject].seed] = row.value
        return out

    def likeness(self, key: tuple[str, str, str], teacher: str) -> dict[str, Values]:
        """Return {fit: {seed: value}} of a likeness to the run of `teacher` with the same seed, in distribution."""
        who, cell = {subject.id: subject for subject in self.subjects}, (*key, self.tests[0])
        out: dict[str, dict[int, float]] = {}
        for row in self.rows:
            if (row.property, row.metric, row.group, row.split) != cell or row.coords or row.value is None:
                continue
            one, other = who[row.subject], who[str(row.other)]
            if (other.fit, other.seed) == (teacher, one.seed):
                out.setdefault(one.fit, {})[one.seed] = row.value
        return out


def read(workdir: Path) -> Tables:
    """Read the tables of a workdir."""
    return Tables(
        read_json(workdir / "config.json"),
        read_json(workdir / "task.json"),
        Records(workdir / "subjects.jsonl", Subject).read()[0],
        Records(workdir / "rows.jsonl", Row).read()[0],
    )


def combined(function: Callable[..., float], *parts: Values) -> Values:
    """Apply `function` seed by seed, over the seeds for which all `parts` have a value."""
    seeds = set.intersection(*(set(part) for part in parts))
    return {seed: function(*(part[seed] for part in parts)) for seed in sorted(seeds)}


def minus(a: Values, b: Values) -> Values:
    """Return a - b, seed by seed."""
    return combined(lambda x, y: x - y, a, b)


def spread(values: Values) -> Any:
    """Return the mean over seeds with its 95 % t interval."""
    return mean_interval(np.array(list(values.values())))


def signed(values: Values) -> str:
    """Format the mean of a difference, with its interval if the seeds define one."""
    mean = spread(values)
    limits = "" if math.isnan(mean.high) else f" [{with_sign(mean.low)}, {with_sign(mean.high)}]"
    return f"{with_sign(mean.estimate)}{limits}"


def with_sign(number: float) -> str:
    """Format a number with its sign; a zero has the same one whatever the last bits of a mean are."""
    return f"{round(number, 9) + 0.0:+.3f}"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines))


def run(config: dict[str, Any], workdir: Path, target: Path, *, data: Path | None = None) -> None:
    """Train and measure what is missing, then keep the rows in `target`, with paths relative to the folder `data`."""
    from kdib import study
    from kdib.fit import Stopped
    from kdib.main import use_compilation_cache, use_devices

    use_compilation_cache()
    use_devices(config["train"]["group_size"])
    try:
        study.run(config, workdir)
    except Stopped:
        raise SystemExit("stopped and saved; run the same command again to continue") from None
    target.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        content = (workdir / file).read_bytes().replace(f"{data}/".encode(), b"")
        (target / f"{file}.gz").write_bytes(gzip.compress(content, mtime=0))


@contextlib.contextmanager
def unpacked(target: Path) -> Iterator[Path]:
    """Yield a temporary workdir with the kept rows; it is deleted when the context ends."""
    with tempfile.TemporaryDirectory() as folder:
        for file in FILES:
            (Path(folder) / file).write_bytes(gzip.decompress((target / f"{file}.gz").read_bytes()))
        yield Path(folder)


def redraw(workdir: Path, figures: Path, shown: Sequence[str] = ()) -> None:
    """Write the report of an unpacked workdir and keep its PNG figures: those in `shown`, or all if it is empty."""
    from kdib import report

    report.write(workdir)
    shutil.rmtree(figures, ignore_errors=True)
    shutil.copytree(workdir / "report" / "figures", figures, ignore=shutil.ignore_patterns("*.svg"))
    for figure in figures.iterdir():
        if shown and figure.stem not in shown:
            figure.unlink()


def fill(readme: Path, name: str, text: str) -> None:
    """Replace the text between the README's two markers of a study.

    Raises:
      ValueError: if the README lacks one of the markers.
    """
    begin, end = f"<!-- {name}: written by run.py -->", f"<!-- {name}: end -->"
    before, found, rest = readme.read_text().partition(begin)
    if not found or end not in rest:
        raise ValueError(f"{readme}: found no place for {name!r}, expected the lines {begin!r} and {end!r}")
    readme.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


class Claim(NamedTuple):
    """A published claim, with one value per seed that is positive if the claim holds."""

    text: str
    by_seed: Values


def claim_table(found: Sequence[Claim]) -> str:
    """Return the claims with their estimates, intervals and verdicts as a Markdown table."""
    head = ("claim", "estimate [95 %]", "seeds", "verdict")
    return markdown(head, [(c.text, signed(c.by_seed), str(len(c.by_seed)), decided(c.by_seed)) for c in found])


def decided(*parts: Values) -> str:
    """Return the verdict on a claim whose parts must all hold; the values of a part are positive if it holds."""
    means = [spread(values) for values in parts]
    if all(mean.low > 0 for mean in means):
        return "holds here"
    if any(mean.high < 0 for mean in means):
        return "the opposite holds here" if len(parts) == 1 else "does not hold here"
    return "undecided"


def folded(title: str, text: str) -> str:
    """Return Markdown that is folded until the reader opens it."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def plus_minus(interval: Any) -> str:
    """Format a mean ± half of its interval; None becomes "too small"."""
    if interval is None:
        return "too small"
    if math.isnan(interval.high):  # the seeds do not differ, so there is no interval
        return f"{interval.estimate:.3f}"
    return f"{interval.estimate:.3f} ± {(interval.high - interval.low) / 2:.3f}"


def main(
    doc: str | None,
    here: Path,
    studies: Sequence[str],
    study_config: Callable[[str, Path | None], dict[str, Any]],
    redraw_study: Callable[[str], None],
    after: Callable[[Path, Path], None] = lambda workdir, target: None,
) -> None:
    """The command line: run a study and keep its rows in `here`/results; then redraw every study kept there.

    With `--report-only`, nothing is run. `after(workdir, target)` may measure what no property measures, and keep it
    beside the rows.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", choices=studies)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--report-only", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report_only:
        if arguments.study is None or arguments.workdir is None:
            parser.error("name a study and its --workdir, or give --report-only")
        config = study_config(arguments.study, arguments.data)
        target = here / "results" / arguments.study
        run(config, arguments.workdir, target, data=arguments.data)
        after(arguments.workdir, target)
    for name in studies:
        if (here / "results" / name).exists():
            redraw_study(name)
