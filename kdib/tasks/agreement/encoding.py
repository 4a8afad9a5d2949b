"""Examples of subject-verb agreement and their encoding as token ids."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from kdib.tasks.base import Dataset

# They contain spaces, so no word of a text can equal one of them.
PAD, UNKNOWN, END = "<no word>", "<unknown word>", "<end of input>"
SPECIAL = (PAD, UNKNOWN, END)  # their ids are 0, 1, 2
BEGIN = "<start of input>"  # id 3, in vocabularies of whole sentences only
UNCOUNTED = -1  # for corpora without the number of intervening nouns or the distance
UNMARKED = -1  # the label of a verb with one form for both numbers


class Examples(NamedTuple):
    """Sentences as parallel columns with one entry per sentence, from which data sets are made.

    `sentences` (lower case) and `tags` (one part of speech per word) cover the whole sentence. `verb_index` [N] is
    0-based. `label` [N] is 0 for singular (VBZ) and 1 for plural (VBP); directly after reading it is UNMARKED (-1) if
    the verb form does not mark its number. `verb_alternative` is the verb's other form, or "" if unknown.
    `n_intervening` nouns stand between subject and verb; `n_diff` of them, the attractors, have the other number.
    `distance` is verb_index - subject index. All arrays are int32; UNCOUNTED (-1) means unknown.
    """

    sentences: list[tuple[str, ...]]
    tags: list[tuple[str, ...]]
    verb_index: np.ndarray
    verb_alternative: list[str]
    label: np.ndarray
    n_intervening: np.ndarray
    n_diff: np.ndarray
    distance: np.ndarray
    source: list[str]

    @property
    def size(self) -> int:
        """N, the number of sentences."""
        return len(self.sentences)

    def prefix(self, i: int) -> tuple[str, ...]:
        """The words before the verb of sentence `i`, which are the input of a classifier."""
        return self.sentences[i][: self.verb_index[i]]

    def prefix_tags(self, i: int) -> tuple[str, ...]:
        """The tags of `prefix(i)`."""
        return self.tags[i][: self.verb_index[i]]


def take(examples: Examples, rows: Iterable[int]) -> Examples:
    """The sentences `rows`, in that order."""
    rows_M = np.fromiter(rows, np.int64)

    def taken(column: Any) -> Any:
        return column[rows_M] if isinstance(column, np.ndarray) else [column[i] for i in rows_M]

    return Examples(*map(taken, examples))


def join(parts: Sequence[Examples]) -> Examples:
    """All sentences of `parts`, one after another."""

    def joined(*columns: Any) -> Any:
        return np.concatenate(columns) if isinstance(columns[0], np.ndarray) else list(chain(*columns))

    return Examples(*map(joined, *parts))


class Vocabulary(NamedTuple):
    """The id of every token: special tokens, then `words`, then the tags that replace all other words.

    `whole` is True if the input of a model is the whole sentence, and False if it is the words before the verb.
    """

    ids: Mapping[str, int]
    words: frozenset[str]
    whole: bool

    @property
    def size(self) -> int:
        """The number of ids, including special tokens."""
        return len(self.ids)

    @property
    def n_special(self) -> int:
        """The number of special tokens, which have the lowest ids."""
        return len(SPECIAL) + self.whole

    def spell(self, examples: Examples, i: int) -> tuple[str, ...]:
        """The input tokens of sentence `i`, without start and end token: unknown words are replaced by tags."""
        seen = _pairs(examples, i, self.whole)
        return tuple(word if word in self.words else tag if tag in self.ids else UNKNOWN for word, tag in seen)


def vocabulary(train: Examples, *, size: int, min_count: int = 1, whole: bool = False) -> Vocabulary:
    """The `size` most common words of the training inputs that occur at least `min_count` times, and tags.

    The tags are those that replace at least one training word. A word that has neither an id nor such a tag becomes
    UNKNOWN, which `coverage` counts. If all training words have tags, UNKNOWN does not occur in training. Its embedding
    then keeps its initial value, and the output of a network for it does not reflect anything learned. With `whole`
    the inputs are whole sentences with a start token, otherwise the words before the verb.
    Reference: Linzen, Dupoux & Goldberg 2016, section 3 (10,000 words, all others replaced by their tag).
    """
    return vocabulary_of(pairs(train, whole=whole), size=size, min_count=min_count, whole=whole)


def pairs(examples: Examples, *, whole: bool) -> Counter[tuple[str, str]]:
    """The frequency of every (word, tag) pair in the inputs."""
    return Counter(chain.from_iterable(_pairs(examples, i, whole) for i in range(examples.size)))


def vocabulary_of(seen: Mapping[tuple[str, str], int], *, size: int, min_count: int, whole: bool) -> Vocabulary:
    """`vocabulary` from the counts of `pairs`."""
    counts: Counter[str] = Counter()
    for (word, _), count in seen.items():
        counts[word] += count
    by_rank = sorted(counts, key=lambda word: (-counts[word], word))
    words = [word for word in by_rank[:size] if counts[word] >= min_count]
    known = frozenset(words)
    replaced = {tag for word, tag in seen if word not in known}
    special = (*SPECIAL, BEGIN) if whole else SPECIAL
    names = dict.fromkeys((*special, *words, *sorted(replaced - known)))
    return Vocabulary({name: i for i, name in enumerate(names)}, known, whole)


def _pairs(examples: Examples, i: int, whole: bool) -> Iterable[tuple[str, str]]:
    """The (word, tag) pairs of sentence `i`, or of the part before its verb."""
    end = None if whole else examples.verb_index[i]
    return zip(examples.sentences[i][:end], examples.tags[i][:end], strict=True)


def coverage(tokens_NxL: np.ndarray, vocab: Vocabulary) -> dict[str, float]:
    """The shares of encoded words that are in the vocabulary, that became tags, and that are unknown."""
    first_tag = vocab.n_special + len(vocab.words)
    counts = {
        "words": np.sum((tokens_NxL >= vocab.n_special) & (tokens_NxL < first_tag)),
        "tags": np.sum(tokens_NxL >= first_tag),
        "unknown": np.sum(tokens_NxL == vocab.ids[UNKNOWN]),
    }
    total = max(1, sum(counts.values()))
    return {kind: float(count / total) for kind, count in counts.items()}


def fitting(examples: Examples, max_length: int, *, whole: bool = False) -> Examples:
    """The sentences whose input fits into `max_length` tokens, including the end token; no input is truncated."""
    words_N = np.array([len(words) for words in examples.sentences]) if whole else examples.verb_index
    return take(examples, np.flatnonzero(words_N < max_length))


def readable(examples: Examples, vocab: Vocabulary) -> tuple[Examples, int]:
    """The sentences without UNKNOWN before the verb, and the count of the others.

    An unknown word may be the subject, and UNKNOWN does not occur in training, so a network cannot interpret it. It is
    rare in texts with tags, which replace words outside the vocabulary. Minimal pairs have no tags.
    """
    before = examples.verb_index
    rows = [i for i in range(examples.size) if UNKNOWN not in vocab.spell(examples, i)[: before[i]]]
    return take(examples, rows), examples.size - len(rows)


def encode(examples: Examples, vocab: Vocabulary, max_length: int) -> dict[str, np.ndarray]:
    """The int32 inputs of a classifier: tokens [N, max_length], right-padded with 0; length, label and id [N].

    A row of tokens is the words before the verb and the end token; `length` counts both. Raises ValueError if a row
    does not fit.
    """
    longest = int(examples.verb_index.max(initial=0)) + 1
    if longest > max_length:
        raise ValueError(f"max_length is {max_length}, but the longest input has {longest} tokens with its end token")
    tokens_NxL = np.zeros((examples.size, max_length), np.int32)
    for i in range(examples.size):
        spelled = (*vocab.spell(examples, i), END)
        tokens_NxL[i, : len(spelled)] = [vocab.ids[token] for token in spelled]
    return {
        "tokens": tokens_NxL,
        "length": examples.verb_index + np.int32(1),
        "label": examples.label,
        "id": np.arange(examples.size, dtype=np.int32),
    }


def groups(examples: Examples, *, max_intervening: int = 4, max_distance: int = 16) -> dict[str, np.ndarray]:
    """The groups by which accuracy is split, as columns [N] int32; -1 means no group.

    - mu: 0 for every sentence with at most `max_intervening` intervening nouns and a distance of at most
      `max_distance` words. All other sentences are in no group of any column. UNCOUNTED exceeds no limit.
    - attractors: the number of attractors, for sentences in which every intervening noun is one. If a corpus counts
      attractors but not all intervening nouns, its sentences are grouped by its own count, as published.
    - same_number: the number of intervening nouns, for sentences without attractors (twins of equal length).
    - distance: words from subject to verb (1 = adjacent). UNCOUNTED ones are in no group of this column.
    """
    n, n_diff = examples.n_intervening, examples.n_diff
    within = (np.maximum(n, n_diff) <= max_intervening) & (examples.distance <= max_distance)
    alike = (n == n_diff) | (n == UNCOUNTED)
    columns = {
        "mu": np.where(within, 0, -1),
        "attractors": np.where(within & alike, n_diff, -1),
        "same_number": np.where(within & (n_diff == 0), n, -1),
        "distance": np.where(within, examples.distance, -1),
    }
    return {name: column.astype(np.int32) for name, column in columns.items()}


def dataset(
    examples: Examples,
    vocab: Vocabulary,
    max_length: int,
    *,
    max_intervening: int = 4,
    max_distance: int = 16,
) -> Dataset:
    """The Dataset of `encode` and `groups` of the same sentences."""
    limits = {"max_intervening": max_intervening, "max_distance": max_distance}
    return Dataset(inputs=encode(examples, vocab, max_length), groups=groups(examples, **limits))
