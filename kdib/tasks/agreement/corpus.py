"""Agreement in real text: read a path into columns, and keep any input from occurring in two splits."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np

from kdib.tasks.agreement.encoding import UNMARKED, Examples, take
from kdib.tasks.agreement.formats import ALIGNED, Entry, entries

PREPARED = "tfds:"  # prefix of the path of a set prepared by TFDS


def read(path: str | Path) -> Examples:
    """The sentences of a Linzen-style table, minimal pairs, a folder of either or of aligned files, or a TFDS set.

    formats.py describes the file formats. A TFDS set is "tfds:kdib_agreement@FOLDER", see tfds.py.

    Raises:
        FileNotFoundError: the path does not exist, or it is a folder without files of a known format.
        ValueError: a row is malformed; the message gives file, line, column, what was found and what was expected.
    """
    if str(path).startswith(PREPARED):
        return _tfds().read(str(path))
    return _columns(_examples(Path(path)))


def blocks(path: str | Path, size: int) -> Iterator[Examples]:
    """The sentences of `read`, at most `size` of them in memory at a time. Raises as `read`, but during iteration."""
    if str(path).startswith(PREPARED):
        yield from _tfds().blocks(str(path), size)
        return
    examples = _examples(Path(path))
    while block := list(islice(examples, size)):
        yield _columns(block)


def key(path: str | Path) -> str:
    """A hash of the contents of all files that `read` reads."""
    if str(path).startswith(PREPARED):
        return _tfds().key(str(path))
    sha = hashlib.sha256()
    for file in _files(Path(path)):
        for part in [file.with_suffix(suffix) for suffix in ALIGNED] if file.suffix == ".gold" else [file]:
            with open(part, "rb") as stream:
                sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()


def _examples(path: Path) -> Iterator[Entry]:
    for file in _files(path):
        yield from entries(file)


def _files(path: Path) -> list[Path]:
    """The file itself, or all files of a folder in the first format that occurs there."""
    if not path.is_dir():
        return [path]
    for patterns in (("*.gold",), ("*.tsv", "*.tsv.gz"), ("*.jsonl",)):
        if files := sorted(file for pattern in patterns for file in path.glob(pattern)):
            return files
    raise FileNotFoundError(f"{path}: a folder without any *.tsv, *.tsv.gz, *.gold or *.jsonl file")


def require(path: str) -> None:
    """Raise FileNotFoundError if `read` finds no files at `path`; takes seconds at most."""
    if path.startswith(PREPARED):
        _tfds().find(path)
    elif not path or not Path(path).exists():
        raise FileNotFoundError(f"no file or folder {path!r}")
    else:
        _files(Path(path))


def _tfds() -> ModuleType:
    try:
        from kdib.tasks.agreement import tfds
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; paths {PREPARED}... need pip install 'kdib[tfds]'") from error
    return tfds


def _columns(examples: Iterable[Entry]) -> Examples:
    words, tags, verb, alternative, label, n_intervening, n_diff, distance, source = _transposed(examples)
    return Examples(
        sentences=words,
        tags=tags,
        verb_index=np.array(verb, np.int32),
        verb_alternative=alternative,
        label=np.array(label, np.int32),
        n_intervening=np.array(n_intervening, np.int32),
        n_diff=np.array(n_diff, np.int32),
        distance=np.array(distance, np.int32),
        source=source,
    )


def _transposed(examples: Iterable[Entry]) -> list[list]:
    columns = [[] for _ in Entry._fields]
    for example in examples:
        for column, value in zip(columns, example, strict=True):
            column.append(value)
    return columns


# ---- one input, one split


def marked(examples: Examples) -> tuple[Examples, int]:
    """The sentences whose verb form marks its number, and the count of the others."""
    rows = np.flatnonzero(examples.label != UNMARKED)
    return take(examples, rows), examples.size - len(rows)


def unique(
    examples: Examples, key: Callable[[Examples, int], Hashable] = Examples.prefix
) -> tuple[Examples, dict[str, int]]:
    """Keep each input once, drop all ambiguous inputs, and count the sentences removed for either reason.

    An input that occurs with both numbers ("the sheep ...") is ambiguous. It has no right answer, and keeping its first
    occurrence would let the order of the file decide, so it is removed from training and test sets. Two sentences have
    the same input if their `key(examples, i)` is equal; the default key is the words before the verb.
    """
    rows_by_input = defaultdict(list)
    for i in range(examples.size):
        rows_by_input[key(examples, i)].append(i)
    clear = [rows for rows in rows_by_input.values() if len(set(examples.label[rows])) == 1]
    kept, n_clear = [rows[0] for rows in clear], sum(map(len, clear))
    return take(examples, kept), {"repeated": n_clear - len(kept), "ambiguous": examples.size - n_clear}


def split(examples: Examples, ratios: Sequence[float], seed: int) -> tuple[Examples, ...]:
    """Split into disjoint random parts with the shares `ratios`, which sum to 1. The same seed gives the same parts."""
    check_ratios(ratios)
    order = np.random.default_rng(seed).permutation(examples.size)
    ends = np.rint(np.cumsum(ratios)[:-1] * examples.size).astype(int)
    return tuple(take(examples, rows) for rows in np.split(order, ends))


def check_ratios(ratios: Sequence[float]) -> None:
    """Raise ValueError unless `ratios` are shares that sum to 1."""
    if min(ratios) < 0 or not np.isclose(sum(ratios), 1):
        raise ValueError(f"config.task.ratios: found {tuple(ratios)}, expected shares >= 0 that add up to 1")


def without(
    examples: Examples, others: Sequence[Examples], key: Callable[[Examples, int], Hashable]
) -> tuple[Examples, int]:
    """Remove `examples` whose `key(examples, i)` occurs in `others`, and count them."""
    known = {key(other, i) for other in others for i in range(other.size)}
    kept = [i for i in range(examples.size) if key(examples, i) not in known]
    return take(examples, kept), examples.size - len(kept)
