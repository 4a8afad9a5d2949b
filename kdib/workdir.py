"""A study's folder: one process at a time, one configuration for good."""

import contextlib
import fcntl
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from kdib.config import Study, as_dict, difference
from kdib.records import read_json, write_json

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")


class WorkdirError(Exception):
    """The folder cannot be used for this study; the message says why and what to do."""


@contextlib.contextmanager
def claimed(workdir: Path, study: Study) -> Iterator[None]:
    """Holds the folder's lock, with the study's configuration written in it.

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
        _claim(workdir / "config.json", study)
        yield


def _claim(path: Path, study: Study) -> None:
    new = as_dict(study)
    if path.exists():
        old = read_json(path)
        old.pop("environment")
        changed = difference(old, new)
        if changed:
            raise WorkdirError(
                f"{path.parent} was made with another configuration ({'; '.join(changed)}); "
                "use another --workdir, or the old configuration"
            )
    write_json(path, {**new, "environment": environment()})


def environment() -> dict[str, str]:
    """The versions that the numbers depend on."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions, "cores": str(os.cpu_count())}
