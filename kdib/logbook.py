"""Learning curves: one line a value in metrics.jsonl, and TensorBoard event files."""

import json
from collections.abc import Mapping
from pathlib import Path

from kdib.records import RunSpec


class Logbook:
    """Appends to `workdir/metrics.jsonl` and `workdir/tensorboard/<fit>/<run>`; a context manager.

    A run resumed after a crash writes some of its steps again, with the same values: readers take the last one.
    """

    def __init__(self, workdir: Path):
        path = workdir / "metrics.jsonl"
        torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a")
        if torn:  # a line that a crash cut off must not swallow the next one
            self._file.write("\n")
        self._tensorboard = workdir / "tensorboard"
        self._writer, self._writer_of = None, None

    def write(self, fit: str, run: RunSpec, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """The metrics of one run at one step, on "train" or "validation"."""
        for metric, value in metrics.items():
            line = {
                "run": f"{fit}/{run.name}",
                "fit": fit,
                "seed": run.seed,
                "step": step,
                "split": split,
                "metric": metric,
                "value": value,
            }
            self._file.write(json.dumps(line) + "\n")
            self._events(fit, run).add_scalar(f"{split}/{metric}", value, step)
        self._file.flush()

    def _events(self, fit: str, run: RunSpec):
        from tensorboardX import SummaryWriter

        if self._writer_of != (fit, run.name):
            self._close_events()
            self._writer = SummaryWriter(str(self._tensorboard / fit / run.name))
            self._writer_of = (fit, run.name)
        return self._writer

    def _close_events(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, *exception) -> None:
        self._close_events()
        self._file.close()
