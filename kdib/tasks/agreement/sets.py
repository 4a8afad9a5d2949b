"""Code shared by the sources of the agreement task: settings, paths, and the step from sets of sentences to a task."""

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
    "give the path of a Linzen-style .tsv or .tsv.gz file, of a BLiMP .jsonl file, of a folder with files of either "
    "kind, of a folder with .text, .pos and .gold files, or 'tfds:kdib_agreement@FOLDER' for a prepared set; the "
    "published corpus is agr_50_mostcommon_10K.tsv of Linzen, Dupoux & Goldberg 2016 "
    "(github.com/TalLinzen/rnn_agreement describes it; its original URL, tallinzen.net/media/rnn_agreement, has been "
    "unavailable since 2024, mirrors are best effort); or set source='grammar', which needs no file"
)
NUMBERS = ("singular", "plural")
SETUPS = ("classification", "language_model")


@dataclass(frozen=True)
class CorpusSettings:
    """Real text. `train` lists paths, and `tests` out-of-distribution sets as "name=path", in the order of the report.

    - A path is anything that `corpus.read` accepts, including "tfds:kdib_agreement@FOLDER".
    - `ratios` divide the training text into training, validation and in-distribution test set. The latter is called
      "test" and comes first. If its share is 0, the first of `tests` counts as the in-distribution test set.
    - The vocabulary consists of the `vocabulary_size` most common words that occur at least `min_count` times.
    - Inputs of more than `max_length` tokens, including the end token, are removed and counted. In the setup
      "language_model" the same holds for validation and test sentences if a form of the verb is not in the vocabulary,
      or if a word before the verb has neither an entry in the vocabulary nor a tag to replace it.
    - `max_per_set` > 0 limits each set to a random sample of that size.
    - `seed` determines the splits and these samples.
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


# The limits of the published analysis of natural text.
PUBLISHED_LIMITS = {"max_intervening": 4, "max_distance": 16}


def paths(settings: Any) -> dict[str, str]:
    """The paths of the test sets by name, after checking that they and the paths of `train` exist."""
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
            "config.task.tests: found none, expected 'name=path' because ratios leave no share for a test set"
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
    """Keep each input once, remove ambiguous, unmarked and too long ones, and count the sentences read and removed.

    An input consists of the words before the verb, also for a language model. Thus both setups train on the same
    sentences, and a language model sees only the first of several sentences with the same words before the verb. In a
    test set from a path of its own (`is_asked`), a language model treats a different verb after the same words as a
    different item.
    """
    marked, unmarked = corpus.marked(examples)
    once, counts = corpus.unique(marked, _item if whole and is_asked else Examples.prefix)
    fitting = encoding.fitting(once, max_length, whole=whole)
    return fitting, {"read": examples.size, "unmarked": unmarked, **counts, "too_long": once.size - fitting.size}


def _item(examples: Examples, i: int) -> tuple[tuple[str, ...], frozenset[str]]:
    """The words before the verb and the two forms between which a language model chooses."""
    return examples.prefix(i), frozenset((examples.sentences[i][examples.verb_index[i]], examples.verb_alternative[i]))


def check_left(sets: Mapping[str, Examples], removed: Mapping[str, Mapping[str, int]]) -> None:
    """Raise ValueError for a set without any sentence left."""
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
    """The task of these sets, train first; its facts describe the sets and count what was removed from each."""
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
    """Remove test and validation items with unknown words or verb forms, and count them."""
    asked, counts = {"train": sets["train"]}, dict(removed)
    for key in [key for key in sets if key != "train"]:
        readable, unknown = encoding.readable(sets[key], vocab)
        asked[key], form_unknown = language.with_known_forms(readable, vocab)
        counts[key] = {**removed.get(key, {}), "word_unknown": unknown, "verb_form_unknown": form_unknown}
        if not asked[key].size:
            expected = "one with known words before the verb and two known verb forms; see vocabulary_size, min_count"
            raise ValueError(f"no sentence is left in the set {key!r}; removed: {counts[key]}; expected {expected}")
    return asked, counts


def dataset(key: str, examples: Examples, vocab: Vocabulary, max_length: int, limits: Mapping[str, int]) -> Dataset:
    """The set `key` in the setup of the vocabulary. For a language model, all but "train" are forced choices."""
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
    """The size of every group of a column, by number; keys are strings, as JSON requires."""
    return {str(value): _by_number(label[column == value]) for value in np.unique(column[column >= 0])}


def _marked(examples: Examples, i: int) -> str:
    """Sentence `i` with its verb in brackets."""
    words = list(examples.sentences[i])
    words[examples.verb_index[i]] = f"[{words[examples.verb_index[i]]}]"
    return " ".join(words)
