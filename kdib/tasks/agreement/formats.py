"""Readers of three published formats of agreement data: Linzen-style tables, line-aligned files and minimal pairs.

- A table is a .tsv or .tsv.gz file with a header. Its columns and 1-based indices are those of Linzen, Dupoux &
  Goldberg 2016 (agr_50_mostcommon_10K.tsv). The reader uses `orig_sentence` (or `sentence`), the columns in NEEDED,
  and `verb_alt` and `source` if present.
- Line-aligned files are those of Gulordava et al. 2018: .text, .pos and .gold files with a common name and 0-based
  indices.
- Minimal pairs are the JSON lines (.jsonl) of BLiMP (Warstadt et al. 2020) whose pairs differ in one word. The reader
  uses the fields in PAIR.

All words are converted to lower case.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from sys import intern
from typing import NamedTuple

from kdib.tasks.agreement.encoding import UNCOUNTED, UNMARKED

LABELS = {"VBZ": 0, "VBP": 1}  # singular, plural
SENTENCE = ("orig_sentence", "sentence")  # the first that exists; `sentence` has tags in place of rare words
NEEDED = ("pos_sentence", "verb_pos", "verb_index", "n_intervening", "n_diff_intervening", "distance")
ALIGNED = (".text", ".pos", ".gold")
PAIR = ("sentence_good", "one_prefix_prefix", "one_prefix_word_good", "one_prefix_word_bad")
NEGATION = "n't"
END_OF_SENTENCE = "<eos>"


def entries(file: Path) -> Iterator["Entry"]:
    """The sentences of one file; its suffix determines the format.

    Raises:
        ValueError: a row is malformed; the message gives file, line, column, what was found and what was expected.
    """
    reader = {".gold": _read_aligned, ".jsonl": _read_pairs}.get(file.suffix, _read_table)
    return reader(file)


class Entry(NamedTuple):
    """One sentence: a value for every column of `Examples`, in the same order."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    verb_index: int
    verb_alternative: str
    label: int
    n_intervening: int
    n_diff: int
    distance: int
    source: str


class _Row(NamedTuple):
    """One line of a file and the names of its fields."""

    file: Path
    line: int
    fields: dict[str, str]

    def error(self, column: str, found: object, expected: str) -> ValueError:
        return _malformed(self.file, self.line, column, found, expected)

    def integer(self, column: str, low: int, high: int) -> int:
        expected = f"an integer from {low} to {high}"
        try:
            value = int(self.fields[column])
        except ValueError:
            raise self.error(column, self.fields[column], expected) from None
        if not low <= value <= high:
            raise self.error(column, value, expected)
        return value


def _malformed(file: Path, line: int, column: str, found: object, expected: str) -> ValueError:
    return ValueError(f"{file}, line {line}, column {column}: found {found!r}, expected {expected}")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """(1-based number, text) of every line. Raises ValueError for a truncated stream or one that is not UTF-8."""
    number = 0
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line.rstrip("\n")
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise _malformed(file, number + 1, "(whole line)", found, "an undamaged file in UTF-8") from error


def _interned(text: str) -> tuple[str, ...]:
    """The words of a text, interned so that repeated words share memory."""
    return tuple(map(intern, text.split(" ")))


# ---- Linzen-style tables


def _read_table(file: Path) -> Iterator[Entry]:
    lines = _lines(file)
    _, header = next(lines, (1, ""))
    columns = _fields(file, 1, header)
    for column in NEEDED:
        if column not in columns:
            raise _malformed(file, 1, column, columns, f"a header with the columns {', '.join(NEEDED)}")
    sentence = next((name for name in SENTENCE if name in columns), None)
    if sentence is None:
        raise _malformed(file, 1, SENTENCE[0], columns, f"a header with {' or '.join(SENTENCE)}")
    for number, line in lines:
        fields = _fields(file, number, line)
        if len(fields) != len(columns):
            raise _malformed(file, number, "(all)", f"{len(fields)} fields", f"{len(columns)}, as in the header")
        yield _table_example(_Row(file, number, dict(zip(columns, fields, strict=True))), sentence)


def _fields(file: Path, number: int, line: str) -> list[str]:
    """The fields of one line. Lines are parsed separately, so that a stray quote affects only its own line."""
    try:
        return next(csv.reader([line], delimiter="\t", strict=True), [])
    except csv.Error as error:
        raise _malformed(file, number, "(all)", f"{error}: {line[:60]}", "CSV quoting, with quotes doubled") from None


def _table_example(row: _Row, sentence: str) -> Entry:
    fields = row.fields
    words, tags = _words(row, sentence), _interned(fields["pos_sentence"])
    if len(words) != len(tags):
        raise row.error("pos_sentence", f"{len(tags)} tags", f"{len(words)}, one per word of {sentence}")
    verb = row.integer("verb_index", 2, len(words)) - 1
    if fields["verb_pos"] not in LABELS:
        raise row.error("verb_pos", fields["verb_pos"], " or ".join(LABELS))
    if fields["verb_pos"] != tags[verb]:
        raise row.error("verb_pos", fields["verb_pos"], f"{tags[verb]}, the tag at verb_index {verb + 1}")
    distance = row.integer("distance", 1, verb)
    n_intervening = row.integer("n_intervening", 0, distance - 1)
    return Entry(
        words=words,
        tags=tags,
        verb_index=verb,
        verb_alternative=fields["verb_alt"].lower() if "verb_alt" in fields else "",
        label=LABELS[tags[verb]],
        n_intervening=n_intervening,
        n_diff=row.integer("n_diff_intervening", 0, n_intervening),
        distance=distance,
        source=intern(fields["source"] if "source" in fields else row.file.name.split(".")[0]),
    )


def _words(row: _Row, column: str) -> tuple[str, ...]:
    """The sentence in lower case, except for the tags that replace rare words in the column `sentence`."""
    text = row.fields[column]
    if column == "orig_sentence":
        return _interned(text.lower())
    tags = set(row.fields["pos_sentence"].split(" "))
    return tuple(word if word in tags else intern(word.lower()) for word in _interned(text))


# ---- line-aligned files


def _read_aligned(gold: Path) -> Iterator[Entry]:
    files = [gold.with_suffix(suffix) for suffix in ALIGNED]
    lengths = [sum(1 for _ in _lines(file)) for file in files]
    if len({*lengths}) != 1:
        counts = ", ".join(f"{file.name} {length}" for file, length in zip(files, lengths, strict=True))
        raise _malformed(gold, lengths[-1], "(all)", f"{counts} lines", "as many lines in each file")
    for (number, text), (_, tags), (_, answer) in zip(*map(_lines, files), strict=True):
        yield _aligned_example(_aligned_row(gold, number, answer), _without_end(text.lower()), _without_end(tags))


def _aligned_row(gold: Path, number: int, answer: str) -> _Row:
    columns = ("index", "correct", "wrong", "n_attractors")
    fields = answer.lower().split("\t")
    if len(fields) != len(columns):
        raise _malformed(gold, number, "(all)", f"{len(fields)} fields", f"{len(columns)}: {', '.join(columns)}")
    return _Row(gold, number, dict(zip(columns, fields, strict=True)))


def _without_end(text: str) -> tuple[str, ...]:
    return _interned(text.strip().removesuffix(END_OF_SENTENCE).rstrip())


def _aligned_example(row: _Row, words: tuple[str, ...], tags: tuple[str, ...]) -> Entry:
    correct, wrong = row.fields["correct"], row.fields["wrong"]
    if len(words) != len(tags):
        raise row.error("pos", f"{len(tags)} tags", f"{len(words)}, one per token of .text")
    verb = row.integer("index", 1, len(words) - 1)
    if words[verb] != correct:
        raise row.error("correct", correct, f"{words[verb]!r}, the token of .text at index {verb}")
    return Entry(
        words=words,
        tags=tags,
        verb_index=verb,
        verb_alternative=wrong,
        label=UNMARKED if correct == wrong else _label_of_forms(row, correct, wrong),
        n_intervening=UNCOUNTED,
        n_diff=row.integer("n_attractors", 0, verb),
        distance=UNCOUNTED,
        source=row.file.stem,
    )


def _label_of_forms(row: _Row, correct: str, wrong: str) -> int:
    """The number that the verb form itself marks: of the two forms, the one ending in -s is singular.

    The tag of the parser is not used. It assigns other tags to 4 % of these verbs, and where it assigns VBZ or VBP it
    agrees with the form on every sentence of the published test set.
    """
    singular = max(correct, wrong, key=lambda form: (form.endswith("s"), len(form)))  # pass, passes
    if not singular.endswith("s"):
        raise row.error("correct", f"{correct} / {wrong}", "two forms of a verb, one of them ending in s")
    return LABELS["VBZ"] if correct == singular else LABELS["VBP"]


# ---- minimal pairs


def _read_pairs(file: Path) -> Iterator[Entry]:
    """The sentences of a .jsonl file. Punctuation and a contracted "not" are split off as words; there are no tags."""
    for number, line in _lines(file):
        try:
            fields = json.loads(line)
        except ValueError:
            raise _malformed(file, number, "(all)", line[:60], "a JSON object") from None
        for column in PAIR:
            if not isinstance(fields, dict) or not isinstance(fields.get(column), str):
                raise _malformed(file, number, column, line[:60], f"a JSON object with the texts {', '.join(PAIR)}")
        yield _pair_example(_Row(file, number, {column: fields[column].lower() for column in PAIR}))


def _pair_example(row: _Row) -> Entry:
    """The good sentence of a pair. Its label is UNMARKED if neither form ends in -s, as in "sing / singing"."""
    sentence, prefix, *forms = (_tokens(row.fields[column]) for column in PAIR)
    (good, *good_rest), (bad, *bad_rest) = forms
    if good_rest != bad_rest or good == bad:
        raise row.error(PAIR[3], row.fields[PAIR[3]], f"another form of {row.fields[PAIR[2]]!r}")
    if sentence[: len(prefix) + 1] != (*prefix, good):
        raise row.error(PAIR[0], row.fields[PAIR[0]], f"a sentence that begins with {' '.join((*prefix, good))!r}")
    marked = good.endswith("s") or bad.endswith("s")
    return Entry(
        words=sentence,
        tags=("",) * len(sentence),
        verb_index=len(prefix),
        verb_alternative=bad,
        label=_label_of_forms(row, good, bad) if marked else UNMARKED,
        n_intervening=UNCOUNTED,
        n_diff=UNCOUNTED,
        distance=UNCOUNTED,
        source=row.file.stem,
    )


def _tokens(text: str) -> tuple[str, ...]:
    spaced = re.sub(r"([.,;:!?])", r" \1 ", text.replace(NEGATION, f" {NEGATION}"))
    return _interned(" ".join(spaced.split()))
