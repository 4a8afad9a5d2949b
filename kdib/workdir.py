"""A study's folder: one process at a time, and always the same configuration."""

import contextlib
import fcntl
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from kdib.config import Study, as_dict, difference, parse
from kdib.records import read_json, write_json

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class WorkdirError(Exception):
    """The folder cannot be used for this study; the message says why and what to do."""


@contextlib.contextmanager
def claimed(workdir: Path, study: Study) -> Iterator[None]:
    """Hold the lock of a folder that is new or belongs to this configuration.

    Raises:
      WorkdirError: if another process holds the lock, or the folder belongs to another configuration.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise WorkdirError(f"{workdir} is in use by process {lock.read().strip()}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        _compare(workdir / "config.json", study)
        yield


def _compare(path: Path, study: Study) -> None:
    if not path.exists():
        return
    old = read_json(path)
    if not isinstance(old, dict) or "environment" not in old:
        raise WorkdirError(f"{path} is not a kdib study's (it has no 'environment'): use another --workdir")
    old.pop("environment")
    try:
        before = parse(old)  # a field that was added later had its default
    except ValueError as error:
        raise WorkdirError(f"{path} is not a configuration of this version of kdib: {error}") from error
    changed = difference(as_dict(before), as_dict(study))
    if changed:
        raise WorkdirError(
            f"{path.parent} belongs to another configuration ({'; '.join(changed)}); "
            "use another --workdir or the old configuration"
        )


def sign(workdir: Path, study: Study, *, working: bool) -> None:
    """Write the configuration, after which the folder belongs to this study.

    The versions of the packages that produced the numbers are written too: all of them, if several versions did work.
    A redraw of the report adds none.
    """
    path, versions = workdir / "config.json", environment()
    before = read_json(path)["environment"] if path.exists() else {}
    if before:
        added = {name: [value] if working else [] for name, value in versions.items()}
        versions = {name: ", ".join(dict.fromkeys([*before[name].split(", "), *added[name]])) for name in before}
    write_json(path, {**as_dict(study), "environment": versions})


def environment() -> dict[str, str]:
    """The versions that the numbers depend on."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions, "cores": str(os.cpu_count())}
