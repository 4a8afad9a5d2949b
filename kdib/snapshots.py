"""The Orbax index of a run's snapshots, by step and by metric, each with the SHA-256 of its contents.

A snapshot is an Orbax step of two items. `record` is JSON: the table of leaves, the fingerprint, the metrics and the
caller's meta, with a hash of the record itself. `arrays` is one uint8 array with all leaves one after another, because
Orbax takes two milliseconds per leaf, refuses empty leaves, and casts silently to a template's dtype.

Orbax neither notices a flipped bit nor locks. Therefore every load hashes what it read, and whoever opens an index for
writing must hold the lock of its workdir. A reader needs no lock and writes nothing.
"""

import contextlib
import hashlib
import inspect
import json
import math
import operator
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import orbax.checkpoint as ocp

from kdib import trees
from kdib.ranges import COUNT, check
from kdib.trees import fingerprint

__all__ = [
    "SCHEDULES",
    "SnapshotError",
    "SnapshotIndex",
    "dense_then_sparse",
    "every",
    "explicit",
    "fingerprint",
    "powers_of_two_epochs",
    "schedule",
]

_DELETED = "deleted"


class SnapshotError(Exception):
    """A snapshot is absent, damaged or not of the template's form; the message names it."""


class SnapshotIndex:
    """The snapshots under `path`, a context manager.

    Opened for writing, it creates `path` and removes the partial files of a killed writer. Open the index of another
    workdir with `read_only=True`: it then writes nothing, needs no lock, and raises SnapshotError if `path` is absent.
    `keep` limits the index to the newest `keep` steps; None keeps all.
    """

    def __init__(self, path: str | os.PathLike, *, read_only: bool = False, keep: int | None = None):
        self.path = pathlib.Path(path).resolve()
        self.read_only = read_only
        if keep is not None and keep < 1:
            raise SnapshotError(f"{self.path}: keep must be None or at least 1, got {keep}")
        if read_only and not self.path.is_dir():
            raise SnapshotError(f"no snapshots to read: {self.path} is not a directory")
        options = ocp.CheckpointManagerOptions(
            enable_async_checkpointing=False,
            preservation_policy=_Newest(keep),
            # A deletion becomes one rename. Orbax's own, if killed half-way, would leave a step with files missing.
            todelete_subdir=_DELETED,
            # Otherwise Orbax reads the metadata of every step, and a single damaged step prevents opening.
            lightweight_initialize=True,
        )
        self._manager = ocp.CheckpointManager(self.path, options=options, item_names=("arrays", "record"))
        self._sweep()

    def __enter__(self) -> "SnapshotIndex":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End Orbax's threads."""
        self._manager.close()

    def save(
        self,
        step: int,
        tree: Any,
        *,
        metrics: Mapping[str, float],
        meta: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Write `tree`, a pytree of arrays, as `step`; the write is atomic and on the disk when the call returns.

        Saving the same content again does nothing. Different content replaces the step, because a run resumed in
        another layout may differ in the last bits. `metrics` go into `table`; `meta` is any JSON.
        Raises: SnapshotError if the index is read-only or the tree cannot be stored.
        """
        if self.read_only:
            raise SnapshotError(f"{self.path} is open with read_only=True; step {step} was not saved")
        if operator.index(step) < 0:
            raise SnapshotError(f"{self.path}: a step must be at least 0, got {step}")
        with self._naming(step):
            record, packed = _record(operator.index(step), tree, metrics, meta)
        exists = step in self.steps()
        if exists and self._holds(step, record):
            return
        arrays, record = ocp.args.StandardSave({"bytes": packed}), ocp.args.JsonSave(record)
        with self._naming(step):
            if exists:
                self._manager.delete(step)
            # Without force Orbax silently skips a step before the latest.
            self._manager.save(step, args=ocp.args.Composite(arrays=arrays, record=record), force=True)
        self._sweep()

    def steps(self) -> list[int]:
        """The committed steps, ascending; a damaged step is included and raises when it is read."""
        # Uncommitted steps have a suffix. Orbax's own listing reads every step and takes a thread for each.
        return sorted(int(entry.name) for entry in self.path.iterdir() if entry.name.isdigit())

    def table(self) -> list[dict[str, Any]]:
        """One row per step: {"step", "fingerprint", **metrics}."""
        records = [self._sealed(step) for step in self.steps()]
        return [{"step": r["step"], "fingerprint": r["fingerprint"], **r["metrics"]} for r in records]

    def nearest(self, step: int) -> int:
        """The saved step nearest to `step`; of two, the earlier one."""
        steps = self.steps()
        if not steps:
            raise SnapshotError(f"there are no snapshots in {self.path}")
        return min(steps, key=lambda saved: (abs(saved - step), saved))

    def best(self, metric: str, mode: Literal["min", "max"] = "min") -> int:
        """The first step with the smallest (or largest) `metric`, among the steps where it is finite."""
        if mode not in ("min", "max"):
            raise SnapshotError(f"mode is {mode!r}, expected 'min' or 'max'")
        sign = 1 if mode == "min" else -1
        ranked = [(sign * self._metric(row, metric), row["step"]) for row in self.table()]
        finite = [pair for pair in ranked if math.isfinite(pair[0])]
        if not finite:
            raise SnapshotError(f"{self.path}: {metric!r} is finite at none of the steps {self.steps()}")
        return min(finite)[1]

    def where(self, predicate: Callable[[dict[str, Any]], bool]) -> list[int]:
        """The steps whose row of `table` satisfies `predicate`."""
        return [row["step"] for row in self.table() if predicate(row)]

    def fingerprint(self, step: int) -> str:
        """The recorded fingerprint of `step`; `load` checks the arrays against it."""
        return self._sealed(step)["fingerprint"]

    def meta(self, step: int) -> dict[str, Any]:
        """The `meta` that was saved with `step`."""
        return self._sealed(step)["meta"]

    def load(self, step: int, template: Any = None) -> Any:
        """Load the tree of `step` as new arrays on the default device, with exactly the stored dtypes.

        A `template` of arrays or ShapeDtypeStructs gives the tree its structure and must agree in paths, dtypes and
        shapes. Without a template NamedTuples come back as dicts, tuples as lists, and empty containers are lost.
        Arrays are JAX's, except that 64-bit arrays are NumPy's while x64 is off.
        Raises: SnapshotError if the step is absent, damaged or not of the template's form.
        """
        table, leaves = self._read(step)
        with self._naming(step):
            return trees.build(table, leaves, template)

    def load_many(self, steps: Sequence[int], template: Any = None) -> Any:
        """Load the trees of `steps`, stacked along a new leading axis; `template` is that of a single step."""
        read = [self._read(step) for step in steps]
        if not read:
            raise SnapshotError(f"{self.path}: no steps to load; there are {self.steps()}")
        table = read[0][0]
        for step, (other, _) in zip(steps, read, strict=True):
            if other != table:
                raise SnapshotError(f"{self.path}: steps {steps[0]} and {step} hold different trees")
        stacked = [np.stack(column) for column in zip(*(leaves for _, leaves in read), strict=True)]
        with self._naming(steps[0]):
            return trees.build(table, stacked, template)

    def _metric(self, row: dict[str, Any], metric: str) -> float:
        if metric not in row:
            known = sorted(row.keys() - {"step", "fingerprint"})
            raise SnapshotError(f"{self.path}, step {row['step']}: no metric {metric!r}; known: {known}")
        return row[metric]

    def _holds(self, step: int, record: dict[str, Any]) -> bool:
        try:
            self._read(step)
            return self._sealed(step)["seal"] == record["seal"]
        except SnapshotError:
            return False  # damaged, so it is replaced

    def _read(self, step: int) -> tuple[trees.Table, list[np.ndarray]]:
        """Return (table, leaves on the host) after checking the arrays against the fingerprint."""
        record = self._sealed(step)
        packed = self._restore(step, arrays=ocp.args.StandardRestore())["arrays"]["bytes"]
        with self._naming(step):
            if trees.digest(record["leaves"], packed) != record["fingerprint"]:
                raise ValueError("its arrays were altered: their fingerprint is not the recorded one")
            return record["leaves"], trees.unpack(record["leaves"], packed)

    def _sealed(self, step: int) -> dict[str, Any]:
        record = self._restore(step, record=ocp.args.JsonRestore())["record"]
        with self._naming(step):
            if not _is_sealed(record):
                raise ValueError("its record was altered: its hash is not the recorded one")
            if record["step"] != step:
                raise ValueError(f"it was saved as step {record['step']} and moved here")
        return record

    def _restore(self, step: int, **items: ocp.args.CheckpointArgs) -> Any:
        if not (self.path / str(step)).exists():
            raise SnapshotError(f"no snapshot of step {step} in {self.path}; there are {self.steps()}")
        with self._naming(step):
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    @contextlib.contextmanager
    def _naming(self, step: int) -> Iterator[None]:
        """Turn any error of Orbax and TensorStore into a SnapshotError that names the snapshot."""
        try:
            yield
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise SnapshotError(f"snapshot {self.path / str(step)}: {cause}") from error

    def _sweep(self) -> None:
        if not self.read_only:
            # Orbax's own clean-up runs in a thread that may outlive this index and interfere with the next one.
            for rest in (self.path / _DELETED, *self.path.glob("*.orbax-checkpoint-tmp*")):
                shutil.rmtree(rest, ignore_errors=True)


class _Newest:
    """Preserve the highest `keep` steps; Orbax's LatestN preserves the steps that were saved last."""

    def __init__(self, keep: int | None):
        self.keep = keep

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        newest = sorted((info.step for info in checkpoints), reverse=True)[: self.keep]
        return [info.step in newest for info in checkpoints]


def _record(
    step: int, tree: Any, metrics: Mapping[str, float], meta: Mapping[str, Any]
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the JSON record of `tree`, with a hash of the record itself, and the bytes of `tree`."""
    table, packed = trees.pack(tree)
    if not packed.size:
        raise ValueError("the tree holds no numbers")
    if reserved := metrics.keys() & {"step", "fingerprint"}:
        raise ValueError(f"metrics must not be named {sorted(reserved)}: the table already has these columns")
    record = {
        "step": step,
        "fingerprint": trees.digest(table, packed),
        "metrics": {name: float(value) for name, value in metrics.items()},
        "meta": dict(meta),
        "leaves": table,
    }
    as_read = json.loads(json.dumps(record))
    return {**as_read, "seal": _seal(as_read)}, packed


def _seal(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _is_sealed(record: Any) -> bool:
    if not isinstance(record, dict) or "seal" not in record:
        return False
    return _seal({name: value for name, value in record.items() if name != "seal"}) == record["seal"]


# Schedules: the steps at which a run is saved. Each is sorted, lies in [0, total_steps] and includes both ends.


def every(total_steps: int, steps_per_epoch: int, *, n: int) -> tuple[int, ...]:
    """0, n, 2n, ..., total_steps."""
    del steps_per_epoch
    return _with_ends(_stride(0, total_steps, n), total_steps)


def powers_of_two_epochs(total_steps: int, steps_per_epoch: int) -> tuple[int, ...]:
    """Epochs 0, 1, 2, 4, 8, ..., last (Abnar et al. 2020, arXiv:2006.00555, released code)."""
    powers = (steps_per_epoch * 2**k for k in range(total_steps.bit_length()))
    return _with_ends((step for step in powers if step < total_steps), total_steps)


def dense_then_sparse(
    total_steps: int, steps_per_epoch: int, *, dense: int = 50, until: int = 500, sparse: int = 500
) -> tuple[int, ...]:
    """Every `dense` steps up to `until`, then every `sparse` steps (Wong et al., leveled distillation, poster)."""
    del steps_per_epoch
    early = _stride(0, min(until, total_steps), dense)
    return _with_ends([*early, *_stride(until, total_steps, sparse)], total_steps)


def explicit(total_steps: int, steps_per_epoch: int, *, steps: Iterable[int]) -> tuple[int, ...]:
    """The given `steps` and both ends; raises ValueError for a step outside [0, total_steps]."""
    del steps_per_epoch
    return _with_ends(steps, total_steps)


def _stride(start: int, stop: int, n: int) -> range:
    if n < 1:
        raise ValueError(f"snapshots every {n} steps: expected a positive number")
    return range(start, stop, n)


def _with_ends(steps: Iterable[int], total_steps: int) -> tuple[int, ...]:
    sorted_steps = tuple(sorted({0, total_steps, *steps}))
    outside = [step for step in sorted_steps if not 0 <= step <= total_steps]
    if outside:
        raise ValueError(f"snapshot steps {outside} are outside [0, total_steps={total_steps}]")
    return sorted_steps


SCHEDULES: dict[str, Callable[..., tuple[int, ...]]] = {
    "every": every,
    "powers_of_two_epochs": powers_of_two_epochs,
    "dense_then_sparse": dense_then_sparse,
    "explicit": explicit,
}


def schedule(name: str, total_steps: int, steps_per_epoch: int, **knobs: Any) -> tuple[int, ...]:
    """The steps of the schedule `name`; raises ValueError for an unknown name or knob and lists the known ones."""
    if name not in SCHEDULES:
        raise ValueError(f"unknown snapshot schedule {name!r}; known: {sorted(SCHEDULES)}")
    signature = inspect.signature(SCHEDULES[name])
    try:
        bound = signature.bind(total_steps, steps_per_epoch, **knobs)
    except TypeError as error:
        known = list(signature.parameters)[2:]
        raise ValueError(f"snapshot schedule {name!r}: {error}; its knobs: {known}") from error
    for knob, value in knobs.items():
        if knob == "steps" and not isinstance(value, list | tuple):
            raise ValueError(f"snapshot schedule {name!r}: steps must be several, such as (100, 200), got {value!r}")
        for number in value if isinstance(value, list | tuple) else (value,):
            check(f"snapshot schedule {name!r}: {knob}", number, COUNT)
    return SCHEDULES[name](*bound.args, **bound.kwargs)
