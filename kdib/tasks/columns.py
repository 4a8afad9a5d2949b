"""Tasks cached on disk: sets as .npy files in a folder with a manifest, with memory-mapped training inputs.

A folder appears only when it is complete, and every byte of its files is checked when it is opened.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdib.tasks.base import Dataset, Task

MANIFEST = "manifest.json"
FIELDS = ("name", "num_classes", "input_digest", "facts", "shapes")  # the fields of a Task that the manifest stores


def kept(cache: Path, about: Mapping[str, Any], prepare: Callable[[Path], Task]) -> Task:
    """The cached task that `about` (JSON) describes. If its folder in `cache` does not exist, `prepare` fills it.

    `prepare` writes the training inputs by `write(folder, "train", ...)` and returns the rest of the task. A second
    process waits for the first. The incomplete folder of a killed process is deleted.

    Raises:
        ValueError: the folder is damaged or was made for other settings; the message names it.
    """
    key = hashlib.sha256(json.dumps([_code(), about], sort_keys=True).encode()).hexdigest()
    folder, partial = cache / key[:16], cache / f"{key[:16]}.partial"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{key[:16]}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                _store(partial, key, prepare(partial))
            except BaseException:
                shutil.rmtree(partial)
                raise
            os.replace(partial, folder)
    return _open(folder, key)


def write(folder: Path, stem: str, size: int, blocks: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Write columns [size, ...] to `<stem>.<name>.npy` from blocks of consecutive rows, one block in memory at a time.

    Raises ValueError if the blocks do not have `size` rows in total.
    """
    with contextlib.ExitStack() as stack:
        files: dict[str, Any] = {}
        written: Counter[str] = Counter()
        for block in blocks:
            for name, values in block.items():
                written[name] += len(values)
                if name not in files:
                    files[name] = stack.enter_context(open(folder / f"{stem}.{name}.npy", "wb"))
                    shape, kind = (size, *values.shape[1:]), np.lib.format.dtype_to_descr(values.dtype)
                    header = {"descr": kind, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(files[name], header)
                files[name].write(values.tobytes())
    if wrong := {name: rows for name, rows in written.items() if rows != size}:
        raise ValueError(f"{folder}: found columns {stem}.* of {wrong} rows, expected {size}: did the text change?")


def _code() -> str:
    """A hash of the code that builds tasks, so that the cache of another version is not used."""
    sha = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        sha.update(file.read_bytes())
    return sha.hexdigest()


def _store(folder: Path, key: str, task: Task) -> None:
    """Write all sets except the training inputs, which are already written, and the manifest of all files."""
    held = {"validation": task.validation, **task.tests}
    for number, data in enumerate(held.values()):
        write(folder, f"{number}.inputs", data.size, [data.inputs])
        write(folder, f"{number}.groups", data.size, [data.groups])
    files = {file.name: _digest(file) for file in sorted(folder.iterdir())}
    described = {field: getattr(task, field) for field in FIELDS}
    manifest = {"key": key, "sets": list(held), "files": files, "task": described, "words": task.validation.words}
    manifest["seal"] = _seal(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _open(folder: Path, key: str) -> Task:
    manifest = _checked(folder, key)

    def columns(stem: str, mode: Any = None) -> dict[str, np.ndarray]:
        names = (
            name.removeprefix(f"{stem}.").removesuffix(".npy")
            for name in manifest["files"]
            if name.startswith(f"{stem}.")
        )
        return {name: np.load(folder / f"{stem}.{name}.npy", mmap_mode=mode, allow_pickle=False) for name in names}

    held = {
        name: Dataset(columns(f"{number}.inputs"), columns(f"{number}.groups"), tuple(manifest["words"]))
        for number, name in enumerate(manifest["sets"])
    }
    validation = held.pop("validation")
    return Task(train=Dataset(columns("train", "r"), {}), validation=validation, tests=held, **manifest["task"])


def _checked(folder: Path, key: str) -> dict[str, Any]:
    """The manifest, after checking that no file in it has changed."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest.pop("seal") != _seal(manifest):
            raise ValueError(f"{MANIFEST} that does not match its own hash")
        if manifest["key"] != key:
            raise ValueError(f"a folder made for the settings and text {manifest['key'][:12]}, expected {key[:12]}")
        for name, digest in manifest["files"].items():
            if (found := _digest(folder / name)) != digest:
                raise ValueError(f"{name} with SHA-256 {found[:12]}, expected {digest[:12]}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: found {error!r}; delete the folder to rebuild it") from error
    return manifest


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
