"""The tidy tables of a study: one JSON object per line, appended durably; reading names every fault.

A table survives a writer killed at any byte. Reading names a half-written line and skips it, and the next append starts
on a new line. Only the holder of the workdir's lock may append.
"""

import builtins
import json
import math
import os
import pathlib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

Coords = tuple[tuple[str, float | int | str], ...]


class RunSpec(NamedTuple):
    """One run of a fit: its paired index `seed` and the seeds of its random numbers.

    `init` and `order` seed the parameters and the order of the data. `teacher` is the paired index of the run that it
    learns from, or None if it learns from labels or from all runs of its teacher. `sweep` holds the swept values by
    name.
    """

    fit: str
    seed: int
    init: int
    order: int
    teacher: int | None
    sweep: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        """The name of the run, unique within the fit: `seed0`, `seed100-learning_rate=0.003`."""
        return f"seed{self.seed}" + "".join(f"-{knob}={value}" for knob, value in self.sweep)


class Subject(NamedTuple):
    """A measured snapshot: `id` is `<fit>/<run>@<step>`, `fingerprint` the SHA-256 of its parameters."""

    id: str
    fit: str
    seed: int
    run: str
    step: int
    fingerprint: str

    @property
    def key(self) -> tuple:
        """The part that must be unique in a table."""
        return (self.id,)


class Row(NamedTuple):
    """One number: the value of `property` for `subject`, or for the pair `subject` and `other`.

    `split` names the test set and `group` the column that divides it ("" is the whole set). `coords` is the place
    within the group, such as `(("attractors", 3),)`. A `value` of None means "not computed, too few examples", and `n`
    is their number. `se` is the standard error of `value` over examples, if it has one.
    """

    subject: str
    other: str | None
    property: str
    metric: str
    split: str
    group: str
    coords: Coords
    value: float | None
    n: int
    se: float | None

    @builtins.property  # the plain name is a field here
    def key(self) -> tuple:
        """The part that must be unique in a table: all fields except value, n and se."""
        return self[:-3]


class Record(Protocol):
    """A NamedTuple of JSON scalars and Coords that knows its key, such as Subject and Row."""

    @property
    def key(self) -> tuple: ...  # noqa: D102

    def _asdict(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=Record)


class Records(Generic[R]):
    """A table of `row_type` in the JSON-lines file `path`, which need not exist yet."""

    def __init__(self, path: str | os.PathLike, row_type: type[R]):
        self.path = pathlib.Path(path)
        self._row_type = row_type
        self._kinds = {name: _kind(hint) for name, hint in typing.get_type_hints(row_type).items()}
        self._known: tuple[int, set[tuple]] = (0, set())  # the size of the file, and the keys of its rows

    def read(self) -> tuple[list[R], list[str]]:
        """Return the rows in order, and the damage: one message per line that is not a row of this table."""
        lines, damage = read_lines(self.path)
        rows: dict[tuple, R] = {}
        for number, values in lines:
            try:
                row = self._decode(values)
                if row.key in rows:
                    raise ValueError(f"a second value for {row.key}")
                rows[row.key] = row
            except ValueError as error:
                damage.append(f"{self.path}, line {number}: {error}")
        return list(rows.values()), damage

    def append(self, rows: Iterable[R]) -> None:
        """Add all `rows` and flush them to the disk, or raise and add none.

        Raises: ValueError for a key that the table or `rows` already has, a NaN, an infinity or a wrong type.
        """
        new, stored, added = list(rows), self.keys(), set()
        for row in new:
            _check(row._asdict(), self._kinds)
            if row.key in stored or row.key in added:
                raise ValueError(f"{self.path} already has a value for {row.key}")
            added.add(row.key)
        append_lines(self.path, (_encode(row) for row in new))
        self._known = (self._size(), stored | added)

    def keys(self) -> set[tuple]:
        """The keys of all rows; the file is read again only if its size has changed since this table's last access."""
        if self._known[0] != self._size():
            self._known = (self._size(), {row.key for row in self.read()[0]})
        return self._known[1]

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _decode(self, values: dict[str, Any]) -> R:
        if values.keys() != self._kinds.keys():
            missing, unknown = self._kinds.keys() - values.keys(), values.keys() - self._kinds.keys()
            raise ValueError(f"missing fields {sorted(missing)}, unknown fields {sorted(unknown)}")
        fields = {n: tuple(v.items()) if isinstance(v, dict) else v for n, v in values.items()}
        _check(fields, self._kinds)
        return self._row_type(**fields)


def _encode(row: Record) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, tuple) else value for name, value in row._asdict().items()}


class _Kind(NamedTuple):
    """The type of a field: Coords, or one of `types`; a float field accepts an int too."""

    hint: Any
    types: tuple[type, ...]


def _kind(hint: Any) -> _Kind:
    of = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
    return _Kind(hint, tuple(of | ({int} if float in of else set())))


PLACE = _kind(float | int | str)


def _check(fields: Mapping[str, Any], kinds: Mapping[str, _Kind]) -> None:
    """Raise ValueError unless every field has its type and every number is finite."""
    for name, value in fields.items():
        kind = kinds[name]
        fits = _are_coords(value) if kind.hint == Coords else _is_scalar(value, kind)
        if not fits:
            raise ValueError(f"{name} is {value!r} ({type(value).__name__}), expected a finite {kind.hint}")


def _is_scalar(value: Any, kind: _Kind) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, kind.types) and not isinstance(value, bool)


def _are_coords(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value)
        and all(isinstance(name, str) and _is_scalar(place, PLACE) for name, place in value)
        and len(dict(value)) == len(value)
    )


def read_lines(path: str | os.PathLike) -> tuple[list[tuple[int, dict[str, Any]]], list[str]]:
    """Read JSON lines: ([(line number, object)], damage). An absent file counts as empty."""
    path = pathlib.Path(path)
    if not path.exists():
        return [], []
    objects, damage = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            objects.append((number, _parse(line)))
        except ValueError as error:
            damage.append(f"{path}, line {number}: {error}")
    return objects, damage


def _parse(line: bytes) -> dict[str, Any]:
    value = _DECODER.decode(line.decode())
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {value!r}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that can be stored")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)  # made once, because json.loads makes one per line


def append_lines(path: str | os.PathLike, objects: Iterable[Mapping[str, Any]]) -> None:
    """Append one line per object and flush them to the disk; raises ValueError for NaN and infinity."""
    text = "".join(json.dumps(value, allow_nan=False) + "\n" for value in objects)
    with open(path, "ab+") as file:
        file.write(b"\n" * is_torn(file) + text.encode())
        file.flush()
        os.fsync(file.fileno())


def is_torn(file: typing.BinaryIO) -> bool:
    """Whether the last line is incomplete because its writer died."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 1, 0))
    return file.read(1) not in (b"", b"\n")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` atomically: a reader finds the old file or the new one; raises ValueError for NaN and infinity."""
    path = pathlib.Path(path)
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_json(path: str | os.PathLike) -> Any:
    """Read what `write_json` wrote; raises a ValueError that names the file if it is damaged."""
    try:
        return _DECODER.decode(pathlib.Path(path).read_bytes().decode())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
