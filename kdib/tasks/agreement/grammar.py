"""Generated English sentences for subject-verb agreement: seeded, numpy only, 50,000 sentences in a few seconds.

`shapes` decides which slots of a sentence are filled, `wording` fills them with words, and this module decides how many
sentences of each kind a data set contains. Every attractor sentence of a test set has a *twin* of the same shape whose
intervening nouns all have the number of the subject.

Reference: Linzen, Dupoux & Goldberg 2016 (attractors, intervening nouns, distance); Gulordava et al. 2018.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from kdib.tasks.agreement import shapes
from kdib.tasks.agreement.encoding import Examples, join
from kdib.tasks.agreement.lexicon import CLASSES, LEXICON
from kdib.tasks.agreement.shapes import MAX_INTERVENING, ROUNDS, SUBJECT, VERB, Shape, Style
from kdib.tasks.agreement.wording import Choices, Plan, choices_of, fill

TRAINING = Style()
# Nine of ten test sentences have a noun before the subject, so the first noun says almost nothing about the label.
TEST = Style(relatives=(0.25, 0.04), opening_noun=0.9, distance=(1, 16), longest=29)
MORE_ATTRACTORS = replace(TEST, distance=(1, 24))
LONGER_DISTANCE = replace(TEST, distance=(21, 24), asides=0.85, elaboration=(0.0, 0.4))
UNSEEN_NOUNS = replace(TEST, subjects="unseen")
NONCE = replace(TEST, nonce=True)

# Shares of 0, 1, 2, ... intervening nouns with the subject's number, in sentences without and with attractors.
SAME_NUMBER_ALONE = (0.56, 0.18, 0.1, 0.06, 0.04, 0.03, 0.03)
SAME_NUMBER_BESIDE_ATTRACTORS = (0.8, 0.15, 0.05)

# A word with two tags, such as "outside", is two tokens here but a single word to a model.
_WORDS, _TAGS = np.array(LEXICON.words, object), np.array(LEXICON.tags, object)
_SPELLING = np.unique(LEXICON.words, return_inverse=True)[1].astype(np.int16)


def splits(
    *,
    seed: int,
    n_train: int = 50_000,
    n_validation: int = 2_000,
    n_test_per_group: int = 400,
    attractor_shares: tuple[float, ...] = (0.9505, 0.04, 0.007, 0.002, 0.0005),
) -> dict[str, Examples]:
    """Training, validation and test sets. No sequence of words before a verb occurs twice, within or across sets.

    `attractor_shares[k]` is the relative share of training and validation sentences with k = 0..4 attractors. For
    each number of attractors, a test set has `n_test_per_group` sentences, half of them plural, in which all
    intervening nouns are attractors. Each sentence with attractors has a twin of the same shape without attractors:

    - test: 0..4 attractors, distance up to 16;
    - more_attractors: 5 and 6 attractors;
    - longer_distance: 0..2 attractors, distance larger than in any training sentence;
    - unseen_nouns: 0..4 attractors, with subject nouns that training has in other roles only;
    - nonce: 0..4 attractors, with semantically random words;
    - natural: `n_validation` sentences drawn like the training set, without groups or twins.

    At the default size, every position in a test input occurs at least 500 times in training, and so does every
    distance in "test". The test sets do not depend on `n_train`. A different seed gives a different sample of all sets.

    Raises:
        ValueError: `n_test_per_group` is odd, or `attractor_shares` are not five values >= 0 with a positive sum.
    """
    _check_splits(n_test_per_group, attractor_shares)
    few, more, less = (_test_plan(k, n_test_per_group) for k in (range(5), (5, 6), range(3)))
    groups = {
        "test": (TEST, few),
        "more_attractors": (MORE_ATTRACTORS, more),
        "longer_distance": (LONGER_DISTANCE, less),
        "unseen_nouns": (UNSEEN_NOUNS, few),
        "nonce": (NONCE, few),
    }
    unseen, taken = _unseen_nouns(seed), set()
    tests = {
        name: _grouped(np.random.default_rng((seed, 1, i)), plan, style, unseen, taken)
        for i, (name, (style, plan)) in enumerate(groups.items())
    }
    validation, train, natural = (
        _natural(np.random.default_rng((seed, 2, i)), n, attractor_shares, unseen, taken)
        for i, n in enumerate((n_validation, n_train, n_validation))
    )
    return {"train": train, "validation": validation, **tests, "natural": natural}


def sample(
    n: int,
    *,
    seed: int,
    n_intervening: int = 0,
    n_attractors: int = 0,
    subject_number: int | None = None,
    style: Style = TRAINING,
) -> Examples:
    """`n` different sentences with `n_intervening` intervening nouns, `n_attractors` of which are attractors.

    `subject_number` is 0 for singular, 1 for plural, and None for half of each. `style` holds the other knobs.

    Raises:
        ValueError: a count is out of range or incompatible with `style`.
    """
    if not 0 <= n_attractors <= n_intervening <= MAX_INTERVENING:
        raise ValueError(
            f"expected 0 <= n_attractors <= n_intervening <= {MAX_INTERVENING}, "
            f"found n_attractors={n_attractors}, n_intervening={n_intervening}"
        )
    if subject_number not in (None, 0, 1):
        raise ValueError(f"subject_number: found {subject_number!r}, expected 0, 1 or None")
    plan = _plan([(n_intervening, n_attractors)], [n])
    if subject_number is not None:
        plan = plan._replace(label=np.full(n, subject_number))
    rng = np.random.default_rng((seed, 0))
    choices = choices_of(style, _unseen_nouns(seed))
    return _realise(rng, plan, shapes.draw(rng, plan.n_intervening, style), choices, set())


def _check_splits(n_test_per_group: int, attractor_shares: tuple[float, ...]) -> None:
    if n_test_per_group % 2:
        raise ValueError(f"n_test_per_group: found {n_test_per_group}, expected an even number, as half are plural")
    if len(attractor_shares) != 5 or min(attractor_shares) < 0 or sum(attractor_shares) <= 0:
        raise ValueError(f"attractor_shares: found {attractor_shares}, expected five values >= 0 with a positive sum")


def _unseen_nouns(seed: int) -> np.ndarray:
    """[nouns] bool: the sixth of each class that is never a subject (or agent of a relative clause) in training."""
    rank = np.random.default_rng((seed, 3)).random(len(LEXICON.noun_class))
    chosen = np.zeros(len(rank), bool)
    for c in range(len(CLASSES)):
        members = np.flatnonzero(LEXICON.noun_class == c)
        chosen[members[np.argsort(rank[members])[: len(members) // 6]]] = True
    return chosen


# ---- plans: how many sentences of which kind


def _plan(kinds: list[tuple[int, int]], counts: list[int]) -> Plan:
    """`counts[i]` sentences with (n_intervening, n_diff) = `kinds[i]`; numbers alternate, so that they are balanced."""
    n_intervening, n_diff = np.repeat(np.array(kinds), counts, axis=0).T
    row = np.arange(sum(counts))
    return Plan(label=row % 2, n_intervening=n_intervening, n_diff=n_diff, opening=row // 2 % 2)


def _apportion(total: int, shares: tuple[float, ...]) -> list[int]:
    """Integers with the sum `total`, proportional to `shares` by the method of largest remainders."""
    exact = np.array(shares) / sum(shares) * total
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts.tolist()


def _natural(rng: np.random.Generator, n: int, attractor_shares, unseen: np.ndarray, taken: set) -> Examples:
    """Sentences as in training: few attractors, but up to six intervening nouns with the subject's number."""
    kinds, counts = [], []
    for n_diff, total in enumerate(_apportion(n, attractor_shares)):
        extra = SAME_NUMBER_ALONE if n_diff == 0 else SAME_NUMBER_BESIDE_ATTRACTORS
        kinds += [(n_diff + same, n_diff) for same in range(len(extra))]
        counts += _apportion(total, extra)
    plan = _plan(kinds, counts).take(rng.permutation(n))
    shape = shapes.draw(rng, plan.n_intervening, TRAINING)
    return _realise(rng, plan, shape, choices_of(TRAINING, unseen), taken)


def _test_plan(attractors: Iterable[int], n: int) -> Plan:
    """`n` sentences for each number of attractors, in which all intervening nouns are attractors."""
    kinds = [(k, k) for k in attractors]
    return _plan(kinds, [n] * len(kinds))


def _grouped(rng: np.random.Generator, plan: Plan, style: Style, unseen: np.ndarray, taken: set[bytes]) -> Examples:
    """The sentences of `plan`, followed by the twins of those with attractors, in the same order."""
    choices, shape = choices_of(style, unseen), shapes.draw(rng, plan.n_intervening, style)
    twins = np.flatnonzero(plan.n_diff > 0)
    twin_plan = plan.take(twins)._replace(n_diff=np.zeros(len(twins), int))
    attracted = _realise(rng, plan, shape, choices, taken)
    return join([attracted, _realise(rng, twin_plan, shape.take(twins), choices, taken)])


# ---- sentences


def _realise(rng: np.random.Generator, plan: Plan, shape: Shape, choices: Choices, taken: set[bytes]) -> Examples:
    """Sentences of these shapes whose inputs are not in `taken`; their inputs are added to `taken`."""
    tokens = np.zeros(shape.present.shape, np.int16)
    rows = np.arange(len(tokens))
    for _ in range(ROUNDS):
        tokens[rows] = fill(rng, plan.take(rows), shape.take(rows), choices)
        rows = rows[_claim(tokens[rows], taken)]
        if not len(rows):
            return _examples(tokens, plan)
    raise ValueError(
        f"{len(rows)} of {len(tokens)} sentences still repeat an input after {ROUNDS} draws, for example with "
        f"n_intervening={plan.n_intervening[rows[0]]}; request fewer sentences or a more elaborate style"
    )


def _claim(tokens: np.ndarray, taken: set[bytes]) -> np.ndarray:
    """[n] bool: whether the input (the words before the verb) is already in `taken`; all inputs are added to it."""
    before = tokens[:, :VERB]
    ends = 2 * (before > 0).sum(1).cumsum()
    text = _SPELLING[before[before > 0]].tobytes()
    repeated = np.zeros(len(tokens), bool)
    for row, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        key = text[start:end]
        repeated[row] = key in taken
        taken.add(key)
    return repeated


def _examples(tokens: np.ndarray, plan: Plan) -> Examples:
    present = tokens > 0
    ends = present.sum(1).cumsum()
    spans = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    words, tags = _WORDS[tokens[present]].tolist(), _TAGS[tokens[present]].tolist()
    return Examples(
        sentences=[tuple(words[span]) for span in spans],
        tags=[tuple(tags[span]) for span in spans],
        verb_index=present[:, :VERB].sum(1).astype(np.int32),
        verb_alternative=_WORDS[_other_form(tokens[:, VERB])].tolist(),
        label=plan.label.astype(np.int32),
        n_intervening=plan.n_intervening.astype(np.int32),
        n_diff=plan.n_diff.astype(np.int32),
        distance=present[:, SUBJECT + 1 : VERB + 1].sum(1).astype(np.int32),
        source=["grammar"] * len(tokens),
    )


def _other_form(verb: np.ndarray) -> np.ndarray:
    """The token of the verb form for the other number."""
    other = np.zeros(len(LEXICON.words), int)
    other[LEXICON.verbs] = LEXICON.verbs[:, ::-1]
    return other[verb]
