"""All rows of studies as one flat table, for other tools."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from kdib.records import Row
from kdib.report.compare import names_of
from kdib.report.material import fit_and_run, read

COLUMNS = (
    "study", "property", "metric", "split", "group", "coords", "subject", "fit", "run", "seed", "step",
    "other", "other_fit", "other_run", "other_seed", "other_step", "value", "n", "se",
)  # fmt: skip


def write(runs: Sequence[pathlib.Path], path: pathlib.Path) -> pathlib.Path:
    """Write one CSV line per row, joined with its one or two networks; coords as "name=place;name=place".

    Missing entries are empty: the other network of a scalar row, or a value that was not computed.

    Raises:
      FileNotFoundError: if a workdir lacks config.json or task.json, or the folder of `path` does not exist.
      ValueError: if one of these is damaged.
    """
    import pandas as pd

    lines = []
    for name, material in zip(names_of(runs), map(read, runs), strict=True):
        seeds = material.seeds
        lines += [{"study": name, **_line(row, seeds)} for row in material.rows]
    frame = pd.DataFrame(lines, columns=list(COLUMNS))
    whole = dict.fromkeys(("seed", "step", "other_seed", "other_step", "n"), "Int64")  # integers that may be missing
    frame.astype(whole).to_csv(path, index=False)
    return path


def _line(row: Row, seeds: Mapping[str, int]) -> dict[str, Any]:
    other = {f"other_{name}": value for name, value in _network(row.other, seeds).items()} if row.other else {}
    coords = ";".join(f"{name}={place}" for name, place in row.coords)
    return {**row._asdict(), "coords": coords, **_network(row.subject, seeds), **other}


def _network(subject_id: str, seeds: Mapping[str, int]) -> Mapping[str, Any]:
    """The fit, run, seed and step of a network or of an earlier snapshot of its run."""
    run, step = fit_and_run(subject_id), int(subject_id.rpartition("@")[2])
    fit, _, name = run.rpartition("/")
    return {"fit": fit, "run": name, "seed": seeds[run], "step": step}
