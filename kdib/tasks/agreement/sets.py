"""What the sources of the agreement task share: their paths, and how sets of sentences become a task."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kdib.fields import known
from kdib.ranges import COUNT, SEED, SOME, check
from kdib.tasks.agreement import baselines, corpus, encoding, language
from kdib.tasks.agreement.encoding import UNCOUNTED, Examples, Vocabulary
from kdib.tasks.base import Dataset, Task

REMEDIES = (
    "give the path of a Linzen-style .tsv or .tsv.gz, of BLiMP's .jsonl, of a folder of either, of a folder of .text, "
    ".pos and .gold files, or 'tfds:kdib_agreement@FOLDER' for a prepared set; the published corpus is "
    "agr_50_mostcommon_10K.tsv "
    "of Linzen, Dupoux & Goldberg 2016 (github.com/TalLinzen/rnn_agreement describes it; its first URL, "
    "tallinzen.net/media/rnn_agreement, is gone since 2024, mirrors are best effort); or set "
    "source='grammar', which needs no file"
)
NUMBERS = ("singular", "plural")
SETUPS = ("classification", "language_model")


@dataclass(frozen=True)
class CorpusSettings:
    """Real text. `train` are paths; `tests` are "name=path", out of distribution, in the report's order.

    A path is what `corpus.read` takes, "tfds:kdib_agreement@FOLDER" too. `ratios` divide the training text into
    train, validation and the test set "test", which comes first. With no share for it, the first of `tests` is
    the one in distribution. The `vocabulary_size` most common words that occur at least `min_count` times are
    known to the models. Inputs of more than `max_length` tokens, end included, are left out and counted; so are, in
    the language-model set-up, test items whose verb is not known in both numbers, or with a word before it that is
    neither known nor has a tag that stands for it. `max_per_set` > 0 caps each set by a
    random choice. `seed` rules the splits and that choice.
    """

    train: tuple[str, ...]
    tests: tuple[str, ...] = ()
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)
    vocabulary_size: int = 10_000
    min_count: int = 2
    max_length: int = 40
    max_per_set: int = 0
    seed: int = 0
    setup: str = "classification"

    def __post_init__(self):
        known("config.task.setup", self.setup, SETUPS)
        corpus.check_ratios(self.ratios)
        for field in ("vocabulary_size", "min_count", "max_length"):
            check(f"config.task.{field}", getattr(self, field), SOME)
        check("config.task.max_per_set", self.max_per_set, COUNT)
        check("config.task.seed", self.seed, SEED)


# The limits of the published analysis hold for natural text.
PUBLISHED_LIMITS = {"max_intervening": 4, "max_distance": 16}


def paths(settings: Any) -> dict[str, str]:
    """The path of every test set by its name, after those of `settings`, of `train` too, were found to exist."""
    for path in settings.train:
        _require("train", path)
    if not settings.train:
        raise ValueError(f"config.task.train: found no path, expected at least one; {REMEDIES}")
    named = [entry.partition("=") for entry in settings.tests]
    reserved = {"train", "validation", "test"} if settings.ratios[2] > 0 else {"train", "validation"}
    for name, equals, path in named:
        if not (name and equals) or name in reserved or [other for other, _, _ in named].count(name) > 1:
            expected = f"'name=path', each name once and none of {', '.join(sorted(reserved))}"
            raise ValueError(f"config.task.tests: found {name + equals + path!r}, expected {expected}")
        _require("tests", path)
    if settings.ratios[2] == 0 and not named:
        raise ValueError(
            "config.task.tests: found none, expected 'name=path' where ratios leave no share for a test set"
        )
    return {name: path for name, _, path in named}


def _require(setting: str, path: str) -> None:
    try:
        corpus.require(path)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"config.task.{setting}: {error}; {REMEDIES}") from None


def clean(
    examples: Examples, max_length: int, *, whole: bool, is_asked: bool = False
) -> tuple[Examples, dict[str, int]]:
    """Every input once, but for what is ambiguous, unmarked or too long; and how many sentences were read and went.

    An input is the words before the verb, of a language model too: so the two set-ups train on the same sentences, and
    of those that begin alike a language model sees the first only. Where it `is_asked` alone, in a test set of its own,
    another verb after the same words is another item.
    """
    marked, unmarked = corpus.marked(examples)
    once, counts = corpus.unique(marked, _item if whole and is_asked else Examples.prefix)
    fitting = encoding.fitting(once, max_length, whole=whole)
    return fitting, {"read": examples.size, "unmarked": unmarked, **counts, "too_long": once.size - fitting.size}


def _item(examples: Examples, i: int) -> tuple[tuple[str, ...], frozenset[str]]:
    """The words before the verb, and the forms between which a language model chooses."""
    return examples.prefix(i), frozenset((examples.sentences[i][examples.verb_index[i]], examples.verb_alternative[i]))


def check_left(sets: Mapping[str, Examples], removed: Mapping[str, Mapping[str, int]]) -> None:
    """Raises ValueError for a set in which nothing is left."""
    for name, examples in sets.items():
        if examples.size == 0:
            raise ValueError(f"no sentence is left in the set {name!r}; removed: {removed}; see ratios, max_length")


def task_of(
    name: str,
    settings: Any,
    *,
    sets: Mapping[str, Examples],
    vocab: Vocabulary,
    max_length: int,
    limits: Mapping[str, Mapping[str, int]],
    removed: Mapping[str, Mapping[str, int]],
) -> Task:
    """The task of these sets, train first; its facts say what they are and what was removed from each."""
    if vocab.whole:
        sets, removed = _askable(sets, vocab, removed)
    words = tuple(vocab.ids)
    data = {key: dataset(key, sets[key], vocab, max_length, limits[key])._replace(words=words) for key in sets}
    tests = {key: data[key] for key in sets if key not in ("train", "validation")}
    fitted = baselines.fit(sets["train"])
    facts = {
        "settings": asdict(settings),
        "vocabulary_size": vocab.size,
        "max_length": max_length,
        "removed": removed,
        "sets": {key: _set_facts(sets[key], data[key], vocab, limits[key]) for key in sets},
        "baselines": {key: baselines.baseline_accuracies(fitted, sets[key], tests[key].groups) for key in tests},
    }
    return Task(
        name,
        data["train"],
        data["validation"],
        tests,
        num_classes=None if vocab.whole else len(NUMBERS),
        input_digest=hashlib.sha256(json.dumps(vocab.ids).encode()).hexdigest(),
        facts=facts,
        shapes={"vocab_size": vocab.size, "max_length": max_length},
    )


def _askable(
    sets: Mapping[str, Examples], vocab: Vocabulary, removed: Mapping[str, Mapping[str, int]]
) -> tuple[dict[str, Examples], dict[str, Mapping[str, int]]]:
    """The sets, all but the training set without items of words that are not known, and what was removed."""
    asked, counts = {"train": sets["train"]}, dict(removed)
    for key in [key for key in sets if key != "train"]:
        readable, unknown = encoding.readable(sets[key], vocab)
        asked[key], form_unknown = language.with_known_forms(readable, vocab)
        counts[key] = {**removed.get(key, {}), "word_unknown": unknown, "verb_form_unknown": form_unknown}
        if not asked[key].size:
            expected = "one whose words before the verb, and its two forms, are known; see vocabulary_size, min_count"
            raise ValueError(f"no sentence is left in the set {key!r}; removed: {counts[key]}; expected {expected}")
    return asked, counts


def dataset(key: str, examples: Examples, vocab: Vocabulary, max_length: int, limits: Mapping[str, int]) -> Dataset:
    """The set `key` ("train" is shown, the others are asked) in the set-up of the vocabulary."""
    if not vocab.whole:
        return encoding.dataset(examples, vocab, max_length, **limits)
    build_set = language.training_set if key == "train" else language.evaluation_set
    return build_set(examples, vocab, max_length, **limits)


def _set_facts(examples: Examples, data: Dataset, vocab: Vocabulary, limits: Mapping[str, int]) -> dict[str, Any]:
    return {
        "size": examples.size,
        "labels": _by_number(examples.label),
        "coverage": encoding.coverage(data.inputs["tokens"], vocab),
        "uncounted": int(np.sum(examples.n_intervening == UNCOUNTED)),
        "limits": dict(limits),
        "groups": {name: _group_sizes(column, examples.label) for name, column in data.groups.items()},
        "examples": [_marked(examples, i) for i in range(min(3, examples.size))],
    }


def _by_number(label: np.ndarray) -> dict[str, int]:
    return {name: int(np.sum(label == k)) for k, name in enumerate(NUMBERS)}


def _group_sizes(column: np.ndarray, label: np.ndarray) -> dict[str, dict[str, int]]:
    """The size of every group of a column, by number; keys are strings, as JSON has it."""
    return {str(value): _by_number(label[column == value]) for value in np.unique(column[column >= 0])}


def _marked(examples: Examples, i: int) -> str:
    """Sentence `i` with its verb in brackets."""
    words = list(examples.sentences[i])
    words[examples.verb_index[i]] = f"[{words[examples.verb_index[i]]}]"
    return " ".join(words)
