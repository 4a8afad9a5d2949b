"""The agreement task: which number does the verb take after these words? Generated or in real text.

Both set-ups of Abnar, Dehghani & Zuidema 2020 on the question of Linzen, Dupoux & Goldberg 2016: "classification" of
the words before the verb, and "language_model", which predicts every word and is asked for the verb's two forms.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kdib.config import known
from kdib.tasks.agreement import baselines, corpus, encoding, grammar, language
from kdib.tasks.agreement.encoding import UNCOUNTED, Examples, Vocabulary
from kdib.tasks.base import Dataset, Task

REMEDIES = (
    "give the path of a Linzen-style .tsv or .tsv.gz, of a folder of them, of a folder of .text, .pos and .gold "
    "files, or 'tfds:kdib_agreement@FOLDER' for a prepared set; the published corpus is agr_50_mostcommon_10K.tsv "
    "of Linzen, Dupoux & Goldberg 2016 (its first URL is gone since 2024, mirrors are best effort); or set "
    "source='grammar', which needs no file"
)
NUMBERS = ("singular", "plural")
# The limits of the published analysis hold for natural text; two generated sets exceed them on purpose.
PUBLISHED_LIMITS = {"max_intervening": 4, "max_distance": 16}
LONG = {"max_intervening": 6, "max_distance": 24}
GRAMMAR_LIMITS = {"more_attractors": LONG, "longer_distance": LONG}
SETUPS = ("classification", "language_model")
ALL_WORDS = 100_000  # more than any grammar has: every word that training shows is known


@dataclass(frozen=True)
class GrammarSettings:
    """Generated English. `attractor_shares[k]` is the share of training sentences with k attractors."""

    data_seed: int = 0
    n_train: int = 50_000
    n_validation: int = 4_000
    n_test_per_group: int = 1_000
    attractor_shares: tuple[float, ...] = (0.95, 0.04, 0.007, 0.002, 0.0005)
    setup: str = "classification"

    def __post_init__(self):
        known("config.task.setup", self.setup, SETUPS)


@dataclass(frozen=True)
class CorpusSettings:
    """Real text. `train` are paths; `tests` are "name=path", out of distribution, in the report's order.

    A path is what `corpus.read` takes, "tfds:kdib_agreement@FOLDER" too. `ratios` divide the training text into
    train, validation and the test set "test", which comes first. With no share for it, the first of `tests` is
    the one in distribution. The `vocabulary_size` most common words that occur at least `min_count` times are
    known to the models. Inputs of more than `max_length` tokens, end included, are left out and counted; so are, in
    the language-model set-up, test items whose verb is not known in both numbers. `max_per_set` > 0 caps each set by
    a random choice. `seed` rules the splits and that choice.
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


Settings = GrammarSettings | CorpusSettings
SOURCES: dict[str, type[GrammarSettings] | type[CorpusSettings]] = {
    "grammar": GrammarSettings,
    "corpus": CorpusSettings,
}


def build(settings: Settings) -> Task:
    """The task of these settings; the same settings give the same task."""
    return grammar_task(settings) if isinstance(settings, GrammarSettings) else corpus_task(settings)


# ---- generated sentences


def grammar_task(settings: GrammarSettings) -> Task:
    """Sets of one grammar; out of distribution are more attractors, distance, new nouns and nonsense."""
    sets = grammar.splits(
        seed=settings.data_seed,
        n_train=settings.n_train,
        n_validation=settings.n_validation,
        n_test_per_group=settings.n_test_per_group,
        attractor_shares=settings.attractor_shares,
    )
    vocab = encoding.vocabulary(sets["train"], size=ALL_WORDS, whole=_is_whole(settings))
    max_length = 1 + max(_longest(examples, vocab.whole) for examples in sets.values())
    limits = {name: GRAMMAR_LIMITS.get(name, PUBLISHED_LIMITS) for name in sets}
    return _task(
        "agreement/grammar", settings, sets=sets, vocab=vocab, max_length=max_length, limits=limits, removed={}
    )


def _is_whole(settings: Settings) -> bool:
    return settings.setup == "language_model"


def _longest(examples: Examples, whole: bool) -> int:
    """The number of words of the longest input."""
    return max(map(len, examples.sentences)) if whole else int(examples.verb_index.max())


# ---- real text


def corpus_task(settings: CorpusSettings) -> Task:
    """Train and validation from the training text, a test set per path; no input of training is in another set.

    Raises:
        FileNotFoundError: a path is missing; the message names the setting and the remedies.
        ValueError: a malformed row, a setting out of range, or a set in which nothing is left.
    """
    paths = _paths(settings)
    sets, removed = _read(settings, paths)
    vocab = encoding.vocabulary(
        sets["train"], size=settings.vocabulary_size, min_count=settings.min_count, whole=_is_whole(settings)
    )
    for name in [name for name in sets if name != "train"]:
        others = [sets["train"]] if name == "validation" else [sets["train"], sets["validation"]]
        sets[name], counts = _unseen(sets[name], others, vocab)
        removed[name] = {**removed[name], **counts}
    for name, examples in sets.items():
        if examples.size == 0:
            raise ValueError(f"no sentence is left in the set {name!r}; removed: {removed}; see ratios, max_length")
    limits, max_length = dict.fromkeys(sets, PUBLISHED_LIMITS), settings.max_length
    return _task(
        "agreement/corpus", settings, sets=sets, vocab=vocab, max_length=max_length, limits=limits, removed=removed
    )


def _paths(settings: CorpusSettings) -> dict[str, str]:
    """The path of every test set by its name, after all paths, those of `train` too, were found to exist."""
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


def _read(settings: CorpusSettings, paths: Mapping[str, str]) -> tuple[dict[str, Examples], dict[str, dict]]:
    """All sets by name, train first, each input once within its set; and what was removed from each."""
    text, counts = _clean(encoding.join([corpus.read(path) for path in settings.train]), settings)
    parts = corpus.split(text, settings.ratios, settings.seed)
    names = ("train", "validation", "test") if settings.ratios[2] > 0 else ("train", "validation")
    sets: dict[str, Examples] = dict(zip(names, parts, strict=False))
    removed = {"training_text": counts} | {name: {} for name in names[1:]}
    for name, path in paths.items():
        sets[name], removed[name] = _clean(corpus.read(path), settings)
    rng = np.random.default_rng(settings.seed)
    return {name: _capped(examples, settings.max_per_set, rng) for name, examples in sets.items()}, removed


def _clean(examples: Examples, settings: CorpusSettings) -> tuple[Examples, dict[str, int]]:
    once, counts = corpus.unique(examples)
    fitting = encoding.fitting(once, settings.max_length, whole=_is_whole(settings))
    return fitting, {"read": examples.size, **counts, "too_long": once.size - fitting.size}


def _capped(examples: Examples, limit: int, rng: np.random.Generator) -> Examples:
    if limit == 0 or examples.size <= limit:
        return examples
    return encoding.take(examples, np.sort(rng.permutation(examples.size)[:limit]))


def _unseen(examples: Examples, others: Sequence[Examples], vocab: Vocabulary) -> tuple[Examples, dict[str, int]]:
    """Without inputs that are in `others` by their words, or by their tokens once rare words are tags."""
    examples, same_words = corpus.without(examples, others, Examples.prefix)
    examples, same_tokens = corpus.without(examples, others, vocab.spell)
    return examples, {"words_seen_in_training": same_words, "tokens_seen_in_training": same_tokens}


# ---- both


def _task(
    name: str,
    settings: Settings,
    *,
    sets: Mapping[str, Examples],
    vocab: Vocabulary,
    max_length: int,
    limits: Mapping[str, Mapping[str, int]],
    removed: Mapping[str, Mapping[str, int]],
) -> Task:
    if vocab.whole:
        sets, removed = _askable(sets, vocab, removed)
    data = {key: _dataset(key, sets[key], vocab, max_length, limits[key]) for key in sets}
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
    )


def _askable(
    sets: Mapping[str, Examples], vocab: Vocabulary, removed: Mapping[str, Mapping[str, int]]
) -> tuple[dict[str, Examples], dict[str, Mapping[str, int]]]:
    """The sets, all but the training set without items whose verb's forms are not known, and what was removed."""
    asked, counts = {"train": sets["train"]}, dict(removed)
    for key in [key for key in sets if key != "train"]:
        asked[key], unknown = language.with_known_forms(sets[key], vocab)
        counts[key] = {**removed.get(key, {}), "verb_form_unknown": unknown}
        if not asked[key].size:
            raise ValueError(f"no sentence of {key!r} has a verb whose two forms are in the vocabulary; see min_count")
    return asked, counts


def _dataset(key: str, examples: Examples, vocab: Vocabulary, max_length: int, limits: Mapping[str, int]) -> Dataset:
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
