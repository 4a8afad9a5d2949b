"""The agreement task in generated or real text: is the verb after these words singular or plural?

The question is that of Linzen, Dupoux & Goldberg 2016, in both setups of Abnar, Dehghani & Zuidema 2020:
"classification" of the words before the verb, and "language_model", which predicts every word and is tested by a choice
between the verb's two forms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdib.fields import known
from kdib.ranges import SEED, SOME, check
from kdib.tasks.agreement import corpus, encoding, grammar, stream
from kdib.tasks.agreement.encoding import Examples, Vocabulary
from kdib.tasks.agreement.sets import PUBLISHED_LIMITS, SETUPS, CorpusSettings, check_left, clean, paths, task_of
from kdib.tasks.agreement.stream import StreamSettings
from kdib.tasks.base import Task

# The published limits are for natural text; two generated sets exceed them on purpose.
LONG = {"max_intervening": 6, "max_distance": 24}
GRAMMAR_LIMITS = {"more_attractors": LONG, "longer_distance": LONG}
ALL_WORDS = 100_000  # more than any grammar has, so that every training word is in the vocabulary


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
        for field in ("n_train", "n_validation", "n_test_per_group"):
            check(f"config.task.{field}", getattr(self, field), SOME)
        check("config.task.data_seed", self.data_seed, SEED)


Settings = GrammarSettings | CorpusSettings | StreamSettings
SOURCES: dict[str, type[Settings]] = {"grammar": GrammarSettings, "corpus": CorpusSettings, "stream": StreamSettings}


def build(settings: Settings) -> Task:
    """Build the task of these settings; equal settings give equal tasks."""
    if isinstance(settings, StreamSettings):
        return stream.build(settings)
    return grammar_task(settings) if isinstance(settings, GrammarSettings) else corpus_task(settings)


def augmentation(name: str, **knobs: float) -> None:
    """Raise ValueError, because there are no augmentations of sentences."""
    raise ValueError(f"augmentation {name!r} is unknown: there are no augmentations of sentences")


# ---- generated sentences


def grammar_task(settings: GrammarSettings) -> Task:
    """The task on generated text; out-of-distribution sets have more attractors, distance, new nouns or nonsense."""
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
    return task_of(
        "agreement/grammar", settings, sets=sets, vocab=vocab, max_length=max_length, limits=limits, removed={}
    )


def _is_whole(settings: Settings) -> bool:
    return settings.setup == "language_model"


def _longest(examples: Examples, whole: bool) -> int:
    """The number of words of the longest input."""
    return max(map(len, examples.sentences)) if whole else int(examples.verb_index.max())


# ---- real text


def corpus_task(settings: CorpusSettings) -> Task:
    """The task on real text: training and validation sets from the training text and one test set per path.

    No input of the training set occurs in another set.

    Raises:
        FileNotFoundError: a path is missing; the message names the setting and the remedies.
        ValueError: a malformed row, a setting out of range, or a set without any sentence left.
    """
    sets, removed = _read(settings, paths(settings))
    vocab = encoding.vocabulary(
        sets["train"], size=settings.vocabulary_size, min_count=settings.min_count, whole=_is_whole(settings)
    )
    for name in [name for name in sets if name != "train"]:
        others = [sets["train"]] if name == "validation" else [sets["train"], sets["validation"]]
        sets[name], counts = _unseen(sets[name], others, vocab)
        removed[name] = {**removed[name], **counts}
    check_left(sets, removed)
    limits, max_length = dict.fromkeys(sets, PUBLISHED_LIMITS), settings.max_length
    return task_of(
        "agreement/corpus", settings, sets=sets, vocab=vocab, max_length=max_length, limits=limits, removed=removed
    )


def _read(settings: CorpusSettings, paths: Mapping[str, str]) -> tuple[dict[str, Examples], dict[str, dict]]:
    """All sets by name, train first, with each input once per set, and the counts of removed sentences by set."""
    whole = _is_whole(settings)
    text, counts = clean(
        encoding.join([corpus.read(path) for path in settings.train]), settings.max_length, whole=whole
    )
    parts = corpus.split(text, settings.ratios, settings.seed)
    names = ("train", "validation", "test") if settings.ratios[2] > 0 else ("train", "validation")
    sets: dict[str, Examples] = dict(zip(names, parts, strict=False))
    removed = {"training_text": counts} | {name: {} for name in names[1:]}
    for name, path in paths.items():
        sets[name], removed[name] = clean(corpus.read(path), settings.max_length, whole=whole, is_asked=True)
    rng = np.random.default_rng(settings.seed)
    return {name: _capped(examples, settings.max_per_set, rng) for name, examples in sets.items()}, removed


def _capped(examples: Examples, limit: int, rng: np.random.Generator) -> Examples:
    if limit == 0 or examples.size <= limit:
        return examples
    return encoding.take(examples, np.sort(rng.permutation(examples.size)[:limit]))


def _unseen(examples: Examples, others: Sequence[Examples], vocab: Vocabulary) -> tuple[Examples, dict[str, int]]:
    """Remove inputs whose words, or whose tokens after replacing rare words by tags, occur in `others`."""
    examples, same_words = corpus.without(examples, others, Examples.prefix)
    examples, same_tokens = corpus.without(examples, others, vocab.spell)
    return examples, {"words_seen_in_training": same_words, "tokens_seen_in_training": same_tokens}
