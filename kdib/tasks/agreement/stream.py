"""Real text that does not need to fit into memory: read block by block, encoded once, then memory-mapped from files.

Three passes over the training text build the task. The first computes a digest of every input. The digests alone
determine which inputs are repeated or ambiguous and which set each input belongs to, so a repetition can never be in
another set. The second pass counts the words of the training set and collects the small sets. The third encodes the
training set. Memory grows with the text by a few bytes per sentence (its set, and a sixteenth of the digests at a time)
and by the number of distinct words.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kdib.tasks import columns
from kdib.tasks.agreement import corpus, encoding, sets
from kdib.tasks.agreement.encoding import Examples, Vocabulary
from kdib.tasks.base import Dataset, Task

CACHE = Path.home() / ".cache" / "kdib" / "sets"
BLOCK = 10_000  # sentences in memory at a time
SLICE_BITS = 4  # leading bits of a digest that define a slice; slices are sorted one after another
CHUNK = 2**20  # digests that are processed together
NOWHERE, TRAIN, VALIDATION, TEST = range(4)


@dataclass(frozen=True)
class StreamSettings(sets.CorpusSettings):
    """Real text of any size.

    The set of an input depends only on its own words and `seed`, apart from the limit `max_per_set`. Sentences that are
    too long are removed before repetitions are searched. `max_per_set` limits every set except the training set, and
    the sample of the training set that is used for the baselines and described in the facts. The encoded sets are kept
    in `cache` (by default in the user's cache folder), rebuilt for other settings or text, and checked when opened.
    """

    max_per_set: int = 10_000
    cache: str = ""

    def __post_init__(self):
        super().__post_init__()
        if self.max_per_set < 1:
            raise ValueError(
                f"config.task.max_per_set must be at least 1, as these sets are kept in memory, got {self.max_per_set}"
            )

    @property
    def whole(self) -> bool:
        """Whether the input of a model is the whole sentence."""
        return self.setup == "language_model"


def build(settings: StreamSettings) -> Task:
    """Build the task of these settings, with memory-mapped training inputs.

    Raises:
        FileNotFoundError: a path is missing; the message names the setting and the remedies.
        ValueError: as `corpus.read`, or for a setting out of range, an empty set or a damaged cache.
    """
    tests = sets.paths(settings)
    corpus.check_ratios(settings.ratios)
    described = {name: value for name, value in asdict(settings).items() if name != "cache"}
    cache = Path(settings.cache).expanduser() if settings.cache else CACHE

    def sources() -> list[str]:
        return [corpus.key(path) for path in (*settings.train, *tests.values())]

    def prepare(folder: Path) -> Task:
        task = _prepare(settings, tests, folder)
        if sources() != about["sources"]:  # the passes may have read different sentences
            raise ValueError(f"config.task: a file of {settings.train} or of the tests changed while it was read")
        return task

    about = {"settings": described, "sources": sources()}
    return columns.kept(cache, about, prepare)


def _prepare(settings: StreamSettings, tests: dict[str, str], folder: Path) -> Task:
    """Write the training inputs into `folder` and return the task with an empty training set."""
    counts = _write_keys(settings, folder / "keys")
    empty = (folder / "keys").stat().st_size == 0  # an empty file cannot be mapped
    keys_M = np.zeros(0, np.uint64) if empty else np.memmap(folder / "keys", np.uint64, "r")
    part_M, doubled = divide(keys_M, settings.ratios)
    _cap(part_M, settings)
    parts, seen = _pick(settings, part_M)
    vocab = encoding.vocabulary_of(
        seen, size=settings.vocabulary_size, min_count=settings.min_count, whole=settings.whole
    )
    removed = {"training_text": counts | doubled} | {name: {} for name in parts if name != "train"}
    for name, path in tests.items():
        parts[name], removed[name] = _other(path, settings, keys_M, part_M)
    (folder / "keys").unlink()
    sets.check_left(parts, removed)

    wanted = {row for name in parts if name != "train" for row in _rows(parts[name], vocab, settings)}
    found: set[bytes] = set()
    n_train = int(np.sum(part_M == TRAIN))
    columns.write(folder, "train", n_train, _encoded(settings, part_M, vocab, wanted, found))
    validation = set(_rows(parts["validation"], vocab, settings)) - found
    for name in [name for name in parts if name != "train"]:
        taken = found if name == "validation" else found | validation
        rows = [i for i, row in enumerate(_rows(parts[name], vocab, settings)) if row not in taken]
        removed[name]["tokens_seen_in_training"] = parts[name].size - len(rows)
        parts[name] = encoding.take(parts[name], rows)
    sets.check_left(parts, removed)

    limits = dict.fromkeys(parts, sets.PUBLISHED_LIMITS)
    task = sets.task_of(
        "agreement/stream",
        settings,
        sets=parts,
        vocab=vocab,
        max_length=settings.max_length,
        limits=limits,
        removed=removed,
    )
    train_facts = {**task.facts["sets"]["train"], "size": n_train, "described": parts["train"].size}
    facts = {**task.facts, "sets": {**task.facts["sets"], "train": train_facts}}
    return task._replace(train=Dataset({}, {}), facts=facts)


# ---- the first pass: assign sentences to sets


def _blocks(settings: StreamSettings) -> Iterator[tuple[Examples, Counter[str]]]:
    """Blocks of the training text without unmarked or too long sentences, and the counts of removed sentences."""
    for path in settings.train:
        for block in corpus.blocks(path, BLOCK):
            marked, unmarked = corpus.marked(block)
            fitting = encoding.fitting(marked, settings.max_length, whole=settings.whole)
            too_long = marked.size - fitting.size
            yield fitting, Counter(read=block.size, unmarked=unmarked, too_long=too_long)


def keys_of(examples: Examples, seed: int) -> np.ndarray:
    """63 bits of a digest of the words before the verb, with the label in the lowest bit: [N] uint64."""
    salt = seed.to_bytes(8, "little", signed=True)
    texts = (" ".join(examples.prefix(i)).encode() for i in range(examples.size))
    digests = b"".join(hashlib.blake2b(text, digest_size=8, salt=salt).digest() for text in texts)
    return np.frombuffer(digests, np.uint64) >> 1 << 1 | examples.label.astype(np.uint64)


def _write_keys(settings: StreamSettings, file: Path) -> dict[str, int]:
    counts: Counter[str] = Counter()
    with open(file, "wb") as stream:
        for block, counted in _blocks(settings):
            stream.write(keys_of(block, settings.seed).tobytes())
            counts.update(counted)
    return dict(counts)


def divide(keys_M: np.ndarray, ratios: Sequence[float]) -> tuple[np.ndarray, dict[str, int]]:
    """The set of every sentence [M] uint8, NOWHERE for ambiguous and repeated inputs, and the counts of these two.

    As in `corpus.unique`, the first sentence of a repeated input is kept, and an input that occurs with both numbers is
    in no set. `ratios` divide [0, 1) into intervals; the interval in which a digest, scaled to [0, 1), lies is its set.
    """
    part_M = np.zeros(len(keys_M), np.uint8)
    n_clear = 0
    for number in range(2**SLICE_BITS):
        rows = np.concatenate(
            [np.zeros(0, np.int64)]
            + [
                start + np.flatnonzero(keys_M[start : start + CHUNK] >> (64 - SLICE_BITS) == number)
                for start in range(0, len(keys_M), CHUNK)
            ]
        )
        rows = rows[np.argsort(keys_M[rows] >> 1, kind="stable")]
        digest, label = keys_M[rows] >> 1, keys_M[rows] & 1
        starts = np.flatnonzero(np.diff(digest, prepend=~digest[:1]))
        if not len(starts):
            continue
        clear = np.minimum.reduceat(label, starts) == np.maximum.reduceat(label, starts)
        n_clear += int(np.diff(starts, append=len(rows))[clear].sum())
        share = digest[starts[clear]] / 2.0**63
        part_M[rows[starts[clear]]] = TRAIN + np.searchsorted(np.cumsum(ratios)[:-1], share, side="right")
    kept = int(np.count_nonzero(part_M))
    return part_M, {"repeated": n_clear - kept, "ambiguous": len(keys_M) - n_clear}


def _cap(part_M: np.ndarray, settings: StreamSettings) -> None:
    """Assign sentences of validation and test in excess of `max_per_set` to NOWHERE."""
    rng = np.random.default_rng(settings.seed)
    for part in (VALIDATION, TEST):
        part_M[rng.permutation(np.flatnonzero(part_M == part))[settings.max_per_set :]] = NOWHERE


# ---- the second pass: count words and collect the small sets


def _divided(settings: StreamSettings, part_M: np.ndarray) -> Iterator[tuple[Examples, np.ndarray]]:
    """The blocks again, each with its part of `part_M`."""
    start = 0
    for block, _ in _blocks(settings):
        yield block, part_M[start : start + block.size]
        start += block.size
    if start != len(part_M):
        raise ValueError(f"found {start} sentences, expected {len(part_M)} as in the first pass: did the text change?")


def _pick(settings: StreamSettings, part_M: np.ndarray) -> tuple[dict[str, Examples], Counter[tuple[str, str]]]:
    """A sample of the training set, all of validation and test, and the frequency of (word, tag) pairs in training."""
    n_train, seen = int(np.sum(part_M == TRAIN)), Counter()
    size = min(n_train, settings.max_per_set)
    sample = np.random.default_rng(settings.seed).choice(n_train, size, replace=False)
    picked: dict[int, list[Examples]] = {part: [] for part in (TRAIN, VALIDATION, TEST)}
    first = 0
    for block, part_B in _divided(settings, part_M):
        training = encoding.take(block, np.flatnonzero(part_B == TRAIN))
        seen.update(encoding.pairs(training, whole=settings.whole))
        ranks = first + np.arange(training.size)
        picked[TRAIN].append(encoding.take(training, np.flatnonzero(np.isin(ranks, sample))))
        first += training.size
        for part in (VALIDATION, TEST):
            picked[part].append(encoding.take(block, np.flatnonzero(part_B == part)))
    names = {"train": TRAIN, "validation": VALIDATION} | ({"test": TEST} if settings.ratios[2] > 0 else {})
    return {name: encoding.join(picked[part]) for name, part in names.items()}, seen


def _other(
    path: str, settings: StreamSettings, keys_M: np.ndarray, part_M: np.ndarray
) -> tuple[Examples, dict[str, int]]:
    """An out-of-distribution set without the inputs of training and validation, and the counts of removed sentences."""
    fitting, counts = sets.clean(corpus.read(path), settings.max_length, whole=settings.whole, is_asked=True)
    keys = keys_of(fitting, settings.seed) >> 1
    known_N = np.zeros(len(keys), bool)
    for start in range(0, len(keys_M), CHUNK):
        used = np.isin(part_M[start : start + CHUNK], (TRAIN, VALIDATION))
        known_N |= np.isin(keys, keys_M[start : start + CHUNK][used] >> 1)
    rows = np.random.default_rng(settings.seed).permutation(np.flatnonzero(~known_N))[: settings.max_per_set]
    return encoding.take(fitting, np.sort(rows)), {**counts, "words_seen_in_training": int(known_N.sum())}


# ---- the third pass: encode the training set


def _encoded(
    settings: StreamSettings, part_M: np.ndarray, vocab: Vocabulary, wanted: set[bytes], found: set[bytes]
) -> Iterator[dict[str, np.ndarray]]:
    """The training inputs in blocks; rows of tokens that are in `wanted` are added to `found`."""
    first = 0
    for block, part_B in _divided(settings, part_M):
        training = encoding.take(block, np.flatnonzero(part_B == TRAIN))
        inputs = dict(_inputs(training, vocab, settings))
        found |= wanted.intersection(row.tobytes() for row in inputs["tokens"])
        inputs["id"] = inputs["id"] + np.int32(first)
        first += training.size
        yield inputs


def _inputs(examples: Examples, vocab: Vocabulary, settings: StreamSettings):
    return sets.dataset("train", examples, vocab, settings.max_length, sets.PUBLISHED_LIMITS).inputs


def _rows(examples: Examples, vocab: Vocabulary, settings: StreamSettings) -> list[bytes]:
    """The input tokens of every sentence as bytes, for comparison."""
    return [row.tobytes() for row in _inputs(examples, vocab, settings)["tokens"]]
