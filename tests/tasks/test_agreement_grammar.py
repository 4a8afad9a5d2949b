"""The generated sentences: what they are made of, and that no artefact explains their labels."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kdib.tasks.agreement import grammar
from kdib.tasks.agreement.lexicon import LEXICON, MARKED_DETERMINERS, PHRASES, _weighted, suffixed
from kdib.tasks.agreement.shapes import Style

NUMBER = {"NN": 0, "NNS": 1, "VBZ": 0, "VBP": 1}
TESTS = ("test", "more_attractors", "longer_distance", "unseen_nouns", "nonce")
PAIRS = list(zip(LEXICON.words, LEXICON.tags, strict=True))
TOKEN = {pair: i for i, pair in enumerate(PAIRS)}
NOUN = {LEXICON.words[form]: i for i, forms in enumerate(LEXICON.nouns) for form in forms}


@pytest.fixture(scope="module")
def sets():
    return grammar.splits(seed=0)


def subject_index(examples):
    return examples.verb_index - examples.distance


def between(examples, i):
    """The numbers of the nouns between subject and verb, recounted from the tags."""
    tags = examples.tags[i][subject_index(examples)[i] + 1 : examples.verb_index[i]]
    return [NUMBER[tag] for tag in tags if tag in ("NN", "NNS")]


def groups(examples):
    """Rows by (n_intervening, n_diff)."""
    kinds = np.stack([examples.n_intervening, examples.n_diff], axis=1)
    return {tuple(kind): np.flatnonzero((kinds == kind).all(1)) for kind in np.unique(kinds, axis=0)}


# ---- the language


def test_lexicon_is_large_and_training_uses_all_of_it(sets):
    train = sets["train"]
    found = set()
    for words, tags in zip(train.sentences, train.tags, strict=True):
        found |= set(zip(words, tags, strict=True))
    assert len({word for word, _ in found}) >= 600
    nouns = [[PAIRS[form] in found for form in forms] for forms in LEXICON.nouns]
    verbs = [[PAIRS[form] in found for form in forms] for forms in LEXICON.verbs]
    assert np.all(nouns, axis=1).sum() >= 120
    assert np.all(verbs, axis=1).sum() >= 60
    tags = {tag for _, tag in found}
    assert {"DT", "PRP$", "JJ", "RB", "IN", "WDT", "VBZ", "VBP", "NN", "NNS", "."} <= tags


def test_inflection():
    assert [suffixed(w) for w in ("box", "city", "key", "church")] == ["boxes", "cities", "keys", "churches"]
    forms = {tuple(LEXICON.words[i] for i in row) for row in (*LEXICON.nouns, *LEXICON.verbs)}
    assert {("child", "children"), ("wolf", "wolves"), ("is", "are"), ("carries", "carry")} <= forms
    assert not {a for a, _ in forms} & {b for _, b in forms}  # no word is singular here and plural there


@pytest.mark.parametrize("name", ("train", "validation", *TESTS))
def test_columns_say_what_the_sentences_are(sets, name):
    examples = sets[name]
    other = {LEXICON.words[a]: LEXICON.words[b] for pair in LEXICON.verbs for a, b in (pair, pair[::-1])}
    for i, (words, tags) in enumerate(zip(examples.sentences, examples.tags, strict=True)):
        verb, label = examples.verb_index[i], examples.label[i]
        assert len(words) == len(tags) and words[-1] == "."
        assert tags[verb] in ("VBZ", "VBP") and NUMBER[tags[verb]] == label
        assert NUMBER[tags[subject_index(examples)[i]]] == label
        assert examples.verb_alternative[i] == other[words[verb]]
        numbers = between(examples, i)
        assert len(numbers) == examples.n_intervening[i]
        assert sum(number != label for number in numbers) == examples.n_diff[i]
    assert all(column.dtype == np.int32 for column in examples if isinstance(column, np.ndarray))


def test_sentences_begin_before_the_subject_and_go_on_after_the_verb(sets):
    train = sets["train"]
    lengths = np.array([len(words) for words in train.sentences])
    assert np.mean(subject_index(train) > 2) > 0.3
    assert np.mean(lengths - train.verb_index > 2) > 0.8


def test_relative_clauses_have_verbs_that_agree_with_their_own_subjects():
    style = Style(relatives=(1, 0), asides=0.0)
    examples = grammar.sample(200, seed=0, n_intervening=1, n_attractors=1, style=style)
    for i, tags in enumerate(examples.tags):
        inner = tags[subject_index(examples)[i] + 1 : examples.verb_index[i]]
        assert [tag for tag in inner if tag in NUMBER] == (["NNS", "VBP"], ["NN", "VBZ"])[examples.label[i]]
        assert inner[0] == "WDT" and inner[-1] in ("VBZ", "VBP", "RB")
    examples = grammar.sample(200, seed=0, n_intervening=1, n_attractors=1, style=replace(style, relatives=(0, 1)))
    for i, tags in enumerate(examples.tags):
        inner = tags[subject_index(examples)[i] + 1 : examples.verb_index[i]]
        assert [tag for tag in inner if tag in NUMBER] == (["VBZ", "NNS"], ["VBP", "NN"])[examples.label[i]]


def test_prepositional_phrases_nest_to_the_depth_asked_for():
    for depth in (1, 2, 4):
        style = Style(depth=depth, relatives=(0, 0), elaboration=(0, 0))
        examples = grammar.sample(300, seed=0, n_intervening=4, n_attractors=2, style=style)
        for i, words in enumerate(examples.sentences):
            start = subject_index(examples)[i]
            classes = [LEXICON.noun_class[NOUN[word]] for word in words[start : examples.verb_index[i] : 3]]
            for m, preposition in enumerate(words[start + 1 : examples.verb_index[i] : 3]):
                head = classes[m] if m % depth else classes[0]
                column = np.flatnonzero(LEXICON.prepositions == TOKEN[preposition, "IN"])[0]
                assert LEXICON.preposition_fits[head, classes[m + 1], column]


def violations(words, tags):
    """How many adjectives do not go with their noun."""
    count = 0
    for word, tag, noun, noun_tag in zip(words, tags, words[1:], tags[1:], strict=False):
        if tag == "JJ" and noun_tag in ("NN", "NNS"):
            column = np.flatnonzero(LEXICON.adjectives == TOKEN[word, "JJ"])[0]
            count += not LEXICON.adjective_fits[LEXICON.noun_class[NOUN[noun]], column]
    return count


def test_training_keeps_the_selectional_restrictions_and_nonce_violates_them(sets):
    for name in ("train", "test", "unseen_nouns"):
        assert not any(map(violations, sets[name].sentences, sets[name].tags))
    nonce = sets["nonce"]
    before = [(nonce.prefix(i), nonce.prefix_tags(i)) for i in range(nonce.size)]
    assert all(violations(*pair) for pair in before)


def test_verbs_take_subjects_of_their_class_but_not_in_nonce(sets):
    verb_of = {LEXICON.words[form]: i for i, forms in enumerate(LEXICON.verbs) for form in forms}

    def fits(examples):
        subjects = [words[i] for words, i in zip(examples.sentences, subject_index(examples), strict=True)]
        verbs = [words[i] for words, i in zip(examples.sentences, examples.verb_index, strict=True)]
        pairs = [(verb_of[verb], LEXICON.noun_class[NOUN[noun]]) for verb, noun in zip(verbs, subjects, strict=True)]
        rows = np.array(pairs)
        return LEXICON.subject_fits[rows[:, 0], rows[:, 1]], LEXICON.subject_fits[rows[:, 0]].all(1)

    assert fits(sets["train"])[0].all()
    fitting, with_all = fits(sets["nonce"])
    assert not fitting[~with_all].any() and np.mean(with_all) < 0.5


# ---- knobs


def test_sample_gives_what_is_asked_for():
    for number in (0, 1):
        examples = grammar.sample(50, seed=1, n_intervening=4, n_attractors=3, subject_number=number)
        assert set(examples.label) == {number}
        assert all(sum(n != number for n in between(examples, i)) == 3 for i in range(50))
    assert grammar.sample(50, seed=1).label.mean() == 0.5
    limited = grammar.sample(50, seed=1, n_intervening=2, style=Style(distance=(9, 12), longest=15, opening_noun=1.0))
    assert limited.distance.min() >= 9 and limited.distance.max() <= 12 and limited.verb_index.max() <= 15
    assert all("NN" in "".join(limited.tags[i][: subject_index(limited)[i]]) for i in range(50))


def test_attractor_shares_are_met_exactly(sets):
    assert np.bincount(sets["train"].n_diff).tolist() == [47_525, 2_000, 350, 100, 25]
    assert np.bincount(sets["validation"].n_diff).tolist() == [1_901, 80, 14, 4, 1]
    none = grammar.splits(seed=0, n_train=100, n_validation=20, n_test_per_group=2, attractor_shares=(1.0, 0, 0, 0, 0))
    assert none["train"].n_diff.max() == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grammar.splits(seed=0, n_test_per_group=3), "n_test_per_group: found 3"),
        (lambda: grammar.splits(seed=0, attractor_shares=(1.0, 0.0)), "attractor_shares: found"),
        (lambda: grammar.splits(seed=0, attractor_shares=(0.0,) * 5), "attractor_shares: found"),
        (lambda: grammar.sample(2, seed=0, n_intervening=1, n_attractors=2), "n_attractors=2, n_intervening=1"),
        (lambda: grammar.sample(2, seed=0, n_intervening=7), "<= 6"),
        (lambda: grammar.sample(2, seed=0, subject_number=2), "subject_number: found 2"),
        (lambda: Style(depth=0), "depth: found 0"),
        (lambda: replace(Style(), subjects="new"), "seen, unseen"),
        (lambda: grammar.sample(2, seed=0, n_intervening=4, style=Style(distance=(1, 5))), "distance in"),
    ],
)
def test_errors_name_the_knob(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- seeds and splits


def test_the_seed_decides_the_sample():
    small: dict[str, Any] = {"n_train": 400, "n_validation": 50, "n_test_per_group": 20}
    first, again, other = (grammar.splits(seed=seed, **small) for seed in (3, 3, 4))
    for name in first:
        assert first[name].sentences == again[name].sentences
        assert len(set(first[name].sentences) & set(other[name].sentences)) < 0.1 * first[name].size
    larger = grammar.splits(seed=3, **{**small, "n_train": 800})
    assert all(larger[name].sentences == first[name].sentences for name in TESTS)


def test_no_input_occurs_twice_in_a_split_or_in_two(sets):
    inputs = Counter(examples.prefix(i) for examples in sets.values() for i in range(examples.size))
    assert max(inputs.values()) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_every_position_and_distance_in_test_is_common_in_training(sets, seed):
    sets = sets if seed == 0 else grammar.splits(seed=seed)
    train = sets["train"]
    furthest = max(sets[name].verb_index.max() for name in TESTS)  # the end marker stands at verb_index
    assert np.sum(train.verb_index >= furthest) >= 500
    counts = np.bincount(train.distance, minlength=17)
    assert sets["test"].distance.max() <= 16
    assert counts[np.unique(sets["test"].distance)].min() >= 500


def test_out_of_distribution_sets_go_beyond_training(sets):
    train = sets["train"]
    assert sets["longer_distance"].distance.min() > train.distance.max()
    assert set(sets["longer_distance"].n_diff) == {0, 1, 2}
    assert set(sets["more_attractors"].n_intervening) == {5, 6} and train.n_diff.max() == 4


def test_unseen_nouns_are_subjects_in_their_own_set_only(sets):
    def subjects(examples):
        return {NOUN[words[i]] for words, i in zip(examples.sentences, subject_index(examples), strict=True)}

    unseen = subjects(sets["unseen_nouns"])
    assert len(unseen) >= 20
    for name in ("train", "validation", "test", "more_attractors", "longer_distance", "nonce"):
        assert not unseen & subjects(sets[name])
    counts = Counter(word for words in sets["train"].sentences for word in words)
    assert all(counts[LEXICON.words[form]] >= 100 for noun in unseen for form in LEXICON.nouns[noun])


def test_unseen_nouns_are_no_agents_of_relative_clauses_either():
    style = Style(relatives=(1, 0), depth=1, asides=0.0)
    unseen = {NOUN[words[i]] for words, i in _subjects(grammar.sample(900, seed=5, style=Style(subjects="unseen")))}
    agents = grammar.sample(2_000, seed=5, n_intervening=1, style=style)
    found = {NOUN[word] for i in range(agents.size) for word in agents.prefix(i)[-3:] if word in NOUN}
    assert len(found) > 50 and not found & unseen


def _subjects(examples):
    return zip(examples.sentences, subject_index(examples), strict=True)


# ---- no artefact


@pytest.mark.parametrize("name", ("train", "validation", *TESTS))
def test_singular_and_plural_are_balanced_in_every_group(sets, name):
    examples = sets[name]
    assert examples.label.mean() == 0.5
    tolerance = 0 if name in TESTS else 1  # training has groups of odd size
    for rows in groups(examples).values():
        assert abs(2 * examples.label[rows].sum() - len(rows)) <= tolerance


@pytest.mark.parametrize("name", TESTS)
def test_every_attractor_group_has_a_twin_of_equal_shape_without_attractors(sets, name):
    examples, by_kind = sets[name], groups(sets[name])
    attracted = [k for k, n_diff in by_kind if n_diff > 0]
    assert attracted
    for k in attracted:
        rows, twins = by_kind[k, k], by_kind[k, 0]
        assert len(rows) == len(twins) == 400
        for column in (examples.verb_index, examples.distance, examples.label):
            np.testing.assert_array_equal(column[rows], column[twins])
        for row, twin in zip(rows, twins, strict=True):
            shapes = [[tag[:2] for tag in examples.prefix_tags(i) if tag not in ("DT", "PRP$")] for i in (row, twin)]
            assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ("train", *TESTS))
def test_nouns_before_the_subject_do_not_tell_its_number(sets, name):
    examples = sets[name]
    pairs = [
        (NUMBER[tag], examples.label[i])
        for i in range(examples.size)
        for tag in examples.tags[i][: subject_index(examples)[i]]
        if tag in ("NN", "NNS")
    ]
    same = np.array([number == label for number, label in pairs])
    assert len(same) > 0.4 * examples.size
    assert abs(same.mean() - 0.5) < 2.5 / np.sqrt(len(same))


def test_most_determiners_of_subjects_do_not_mark_number_but_some_do(sets):
    marked = [set(_weighted(text)) for text in MARKED_DETERMINERS]
    for name in ("train", *TESTS):
        examples, found = sets[name], np.zeros(2)
        for i, at in enumerate(subject_index(examples)):
            determiner = examples.sentences[i][at - 1 - (examples.tags[i][at - 1] == "JJ")]
            found += [determiner in marked[examples.label[i]], determiner in marked[1 - examples.label[i]]]
        assert 0.1 < found[0] / examples.size < 0.18
        assert found[1] == 0


def test_no_other_word_tells_the_number(sets):
    """The, my, adjectives, adverbs, prepositions and past verbs are as common before plural verbs as singular."""
    marked = {word for text in MARKED_DETERMINERS for word in _weighted(text)}
    train = sets["train"]
    counts = {}
    for i in range(train.size):
        for pair in set(zip(train.prefix(i), train.prefix_tags(i), strict=True)):
            counts.setdefault(pair, np.zeros(2))[train.label[i]] += 1
    free = np.array([c for (word, tag), c in counts.items() if tag not in NUMBER and word not in marked])
    assert len(free) > 200
    z = (free[:, 0] - free[:, 1]) / np.sqrt(free.sum(1))
    assert np.abs(z).max() < 4.5
    assert {tag for tag, _ in PHRASES.values()}.isdisjoint({"NN", "NNS", "VBZ", "VBP"})


def test_subject_relatives_that_tell_the_answer_are_rare_in_test(sets):
    for name in TESTS:
        examples = sets[name]
        rows = np.flatnonzero(examples.n_diff > 0)
        telling = [
            examples.tags[i][at + 1] == "WDT" and examples.tags[i][at + 2] in ("VBZ", "VBP")
            for i, at in zip(rows, subject_index(examples)[rows], strict=True)
        ]
        assert np.mean(telling) < 0.05
        verbs = [sum(tag in ("VBZ", "VBP") for tag in examples.prefix_tags(i)) for i in rows]
        assert 0.1 < np.mean(verbs) < 0.4
