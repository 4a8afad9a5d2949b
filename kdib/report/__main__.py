"""Redraw the report of a study, or compare several studies: `python -m kdib.report RUN [RUN ...]`.

Nothing is trained or measured. A study's page is drawn from the files of its workdir, into its report/ or into `--out`.
Several studies are shown side by side on one page, property by property; their own pages are not changed.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

FAILED = 2  # the exit code of argparse, too


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default that of the process) and return the exit code."""
    options = _parser().parse_args(argv)
    runs = [pathlib.Path(os.path.abspath(run)) for run in options.runs]
    try:
        for run in runs:
            _check(run)
        if options.csv:
            from kdib.report import export

            print(f"rows: {export.write(runs, pathlib.Path(options.csv))}")
        path, problems = _draw(runs, pathlib.Path(options.out) if options.out else None)
    except (ValueError, OSError) as error:
        if os.environ.get("KDIB_TRACEBACK"):
            raise
        print(f"error: {error} (KDIB_TRACEBACK=1 shows where)", file=sys.stderr)
        return FAILED
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    print(f"report: {path}")
    return 0


def _draw(runs: Sequence[pathlib.Path], out: pathlib.Path | None) -> tuple[pathlib.Path, Sequence[str]]:
    from kdib.report import compare, page  # matplotlib and jinja2

    if len(runs) == 1:
        return page.write(runs[0], out or runs[0] / "report")
    return compare.write(runs, out or pathlib.Path("comparison"))


def _check(run: pathlib.Path) -> None:
    """Raise ValueError unless `run` looks like the workdir of a study."""
    if not run.is_dir():
        raise ValueError(f"{run} is no folder: expected the --workdir of a study")
    if missing := [name for name in ("config.json", "task.json") if not (run / name).is_file()]:
        raise ValueError(f"{run} is no study's workdir: it has no {' and no '.join(missing)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m kdib.report",
        description="Redraw the report of one study (its report/index.html), or compare several on one page.",
        epilog="exit code: 0 if a page was written, else 2.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the workdir of a study")
    parser.add_argument(
        "--out", metavar="FOLDER", help="where to write the page (default: RUN/report, or ./comparison for several)"
    )
    parser.add_argument("--csv", metavar="FILE", help="also write all rows, joined with their networks, as CSV")
    return parser


if __name__ == "__main__":
    sys.exit(main())
