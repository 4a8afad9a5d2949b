"""Learning curves: one line per value in metrics.jsonl, and TensorBoard event files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdib.records import RunSpec, is_torn

OPEN_FILES = 32  # maximum number of open writers, because each has a thread


class Logbook:
    """Appends to `workdir/metrics.jsonl` and `workdir/tensorboard/<fit>/<run>`; a context manager.

    A run that resumes after a crash writes some of its steps again, with the same values. Readers take the last one.
    """

    def __init__(self, workdir: Path):
        path = workdir / "metrics.jsonl"
        with path.open("ab+") as file:  # a line cut off by a crash must not be joined with the next one
            file.write(b"\n" * is_torn(file))
        self._file = path.open("a")
        self._tensorboard = workdir / "tensorboard"
        self._writers: dict[Path, Any] = {}

    def write(self, run: RunSpec, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one run at one step, on "train" or "validation"."""
        events = self._events(self._tensorboard / run.fit / run.name)
        for metric, value in metrics.items():
            line = {
                "run": f"{run.fit}/{run.name}",
                "fit": run.fit,
                "seed": run.seed,
                "step": step,
                "split": split,
                "metric": metric,
                "value": value,
            }
            self._file.write(json.dumps(line) + "\n")
            events.add_scalar(f"{split}/{metric}", value, step)
        self._file.flush()

    def _events(self, folder: Path) -> Any:
        """The event writer of one run; the writers of a group stay open together."""
        from tensorboardX import SummaryWriter

        if folder not in self._writers and len(self._writers) >= OPEN_FILES:
            self._close_events()
        if folder not in self._writers:
            self._writers[folder] = SummaryWriter(str(folder))
        return self._writers[folder]

    def _close_events(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, *exception) -> None:
        self._close_events()
        self._file.close()
