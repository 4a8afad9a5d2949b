"""The shape of a generated sentence: which slots are filled, before any word is chosen.

A sentence is one row of a table with a column for every slot that can hold a word, from the opening clause to the full
stop. Thousands of sentences are drawn at once. Sentences of equal shape have equal length, so an attractor sentence and
its twin differ in words only.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

MAX_INTERVENING = 6
ROUNDS = 1_000  # redraws of sentences that do not fit or repeat; the default sets need fewer than 100

# Slot, the slot that it requires (- for none), and its probability given that slot. Probabilities below 1 are
# multiplied by the elaboration of the sentence. "modifiers" stands for six copies of the slots in MODIFIER, which
# `_modifiers` fills.
_SLOTS = """
clause - .5 | clause_who clause 1 | clause_adverb clause .6 | clause_verb clause 1 | clause_place clause .6 |
clause_time clause .5 | clause_comma clause 1 |
remark - .2 | remark_comma remark 1 |
opening - .8 | opening_det opening 1 | opening_adj opening .5 | opening_noun opening 1 |
within opening .5 | within_det within 1 | within_adj within .5 | within_noun within 1 |
opening_comma opening 1 |
det - 1 | adj - .7 | subject - 1 |
modifiers - .6 |
that - .5 | that_who that 1 | that_adverb that .6 | that_verb that 1 | that_and that .6 |
that_and_adverb that_and .7 | that_and_verb that_and 1 | that_place that .5 | that_time that .5 |
aside - .4 | aside_adverb aside 1 | aside_verb aside 1 | aside_by aside .6 | aside_whom aside_by 1 |
aside_and aside 1 | aside_now aside .6 | aside_rarely aside 1 | aside_and_verb aside 1 |
aside_and_by aside .4 | aside_and_whom aside_and_by 1 | aside_comma aside 1 |
perhaps - .4 | often - .6 | verb - 1 |
very - .5 | object_det - 1 | object_adj - .5 | object - 1 | manner - .5 |
at - .7 | at_det at 1 | at_noun at 1 | stop - 1
"""
MODIFIER = ("link", "agrees", "det", "adj", "noun", "closes")


class Slots(NamedTuple):
    """The columns of the table: their names, the column that each requires (-1 for none), and their probabilities."""

    names: tuple[str, ...]
    needs: tuple[int, ...]
    probability: np.ndarray


def _parse_slots() -> Slots:
    entries: list[tuple[str, str, float]] = []
    for name, needs, probability in (entry.split() for entry in _SLOTS.split("|")):
        if name == "modifiers":
            entries += [(f"{part}{i}", needs, float(probability)) for i in range(MAX_INTERVENING) for part in MODIFIER]
        else:
            entries.append((name, needs, float(probability)))
    names = tuple(entry[0] for entry in entries)
    needed = tuple(-1 if entry[1] == "-" else names.index(entry[1]) for entry in entries)
    return Slots(names, needed, np.array([entry[2] for entry in entries]))


SLOTS = _parse_slots()
AT = {name: column for column, name in enumerate(SLOTS.names)}
MODIFIER_SLOTS = {part: [AT[f"{part}{i}"] for i in range(MAX_INTERVENING)] for part in MODIFIER}
SUBJECT, VERB = AT["subject"], AT["verb"]
_ASIDES = slice(AT["that"], VERB)
_VARIED = [AT[name] for name in ("clause", "opening", "adj", "that", "aside")]


@dataclass(frozen=True)
class Style:
    """The knobs of the grammar, except the numbers of sentences, intervening nouns and attractors.

    - depth: nesting depth of modifiers; "the key to the door of the house" has 2; None draws 1..6 per sentence.
    - relatives: the shares of object and of subject relative clauses among sentences with modifiers.
    - opening_noun: the share of sentences with a noun before the subject; None leaves it to `elaboration`.
    - asides: the probability of each noun-free phrase between subject and verb; None leaves it to `elaboration`.
    - elaboration: range of the factor on the probabilities of optional slots, drawn once per sentence.
    - distance: smallest and largest distance from subject to verb in words; adjacent = 1.
    - longest: largest number of words before the verb.
    - subjects: "seen", or "unseen" for the nouns that are never subjects in training.
    - nonce: if True, words violate the selectional restrictions of the lexicon.
    """

    depth: int | None = None
    relatives: tuple[float, float] = (0.2, 0.06)
    opening_noun: float | None = None
    asides: float | None = None
    elaboration: tuple[float, float] = (0.0, 1.0)
    distance: tuple[int, int] = (1, 20)
    longest: int = 32
    subjects: Literal["seen", "unseen"] = "seen"
    nonce: bool = False

    def __post_init__(self):
        """Raise ValueError for an invalid `depth` or `subjects`."""
        if self.depth is not None and self.depth < 1:
            raise ValueError(f"depth: found {self.depth}, expected None or at least 1")
        if self.subjects not in ("seen", "unseen"):
            raise ValueError(f"subjects: found {self.subjects!r}, expected one of seen, unseen")


class Shape(NamedTuple):
    """The structure of sentences without their words, with one row per sentence.

    `present` [n, slots] marks the slots that are filled. For modifier i, `nested` [n, 6] is True if it modifies the
    noun of modifier i-1 and False if it modifies the subject. `subject_relative` and `object_relative` [n, 6] give its
    kind; if both are False it is a prepositional phrase. `closes` [n, 6] is the modifier whose object relative clause
    ends after modifier i, or -1. `frame` [n] is 0 for a transitive main verb, 1 for intransitive and 2 for a copula.
    """

    present: np.ndarray
    nested: np.ndarray
    subject_relative: np.ndarray
    object_relative: np.ndarray
    closes: np.ndarray
    frame: np.ndarray

    def take(self, rows: np.ndarray) -> "Shape":
        """The rows `rows`."""
        return Shape(*(column[rows] for column in self))


def draw(rng: np.random.Generator, n_intervening: np.ndarray, style: Style) -> Shape:
    """Draw shapes, and redraw those outside the limits of the style until all are within."""
    shape = _any_shape(rng, n_intervening, style)
    for _ in range(ROUNDS):
        redraw = np.flatnonzero(~_within_limits(shape, style))
        if not len(redraw):
            return shape
        again = _any_shape(rng, n_intervening[redraw], style)
        for column, new in zip(shape, again, strict=True):
            column[redraw] = new
    raise ValueError(
        f"no sentence with n_intervening={n_intervening[redraw[0]]} has distance in {style.distance} "
        f"and at most longest={style.longest} words before the verb, after {ROUNDS} draws"
    )


def _within_limits(shape: Shape, style: Style) -> np.ndarray:
    distance = shape.present[:, SUBJECT + 1 : VERB + 1].sum(1)
    before = shape.present[:, :VERB].sum(1)
    return (style.distance[0] <= distance) & (distance <= style.distance[1]) & (before <= style.longest)


def _any_shape(rng: np.random.Generator, n_intervening: np.ndarray, style: Style) -> Shape:
    n = len(n_intervening)
    present = _coins(rng, n, style)
    modifiers = _modifiers(rng, n_intervening, style)
    exists = np.arange(MAX_INTERVENING)[None, :] < n_intervening[:, None]
    for part in ("link", "det", "noun"):
        present[:, MODIFIER_SLOTS[part]] = exists
    present[:, MODIFIER_SLOTS["adj"]] &= exists
    present[:, MODIFIER_SLOTS["agrees"]] = modifiers["subject_relative"]
    present[:, MODIFIER_SLOTS["closes"]] = modifiers["closes"] >= 0
    relative = (modifiers["subject_relative"] | modifiers["object_relative"]).any(1)
    present[:, AT["that"]] &= ~relative  # at most one relative clause per sentence
    # There are few sentences as short as "the keys": an adjective adds enough variety to avoid repetitions.
    present[:, AT["adj"]] |= style.nonce | ((n_intervening == 0) & ~present[:, _VARIED].any(1))
    frame = rng.choice(3, size=n, p=(0.5, 0.25, 0.25))
    _keep_frame(present, frame)
    _keep_needs(present)
    return Shape(present=present, frame=frame, **modifiers)


def _coins(rng: np.random.Generator, n: int, style: Style) -> np.ndarray:
    """[n, slots] bool: draw every slot independently with its probability."""
    elaboration = rng.uniform(*style.elaboration, size=n)
    probability = np.where(SLOTS.probability == 1, 1, SLOTS.probability * elaboration[:, None])
    if style.opening_noun is not None:
        probability[:, AT["opening"]] = style.opening_noun
    if style.asides is not None:
        probability[:, _ASIDES] = np.where(SLOTS.probability[_ASIDES] == 1, 1, style.asides)
    return rng.random((n, len(SLOTS.names))) < probability


def _modifiers(rng: np.random.Generator, n_intervening: np.ndarray, style: Style) -> dict[str, np.ndarray]:
    """The structure of the modifiers: chains of `depth`, with at most one relative clause per sentence."""
    n, i = len(n_intervening), np.arange(MAX_INTERVENING)[None, :]
    depth = rng.integers(1, MAX_INTERVENING + 1, n) if style.depth is None else np.full(n, style.depth)
    kind, at = rng.random(n), (rng.random(n) * n_intervening).astype(int)
    is_object = kind < style.relatives[0]
    is_subject = ~is_object & (kind < sum(style.relatives))
    here = (i == at[:, None]) & (n_intervening > 0)[:, None]
    # A modifier nested in an object relative clause precedes the verb: "that the man near the doors likes".
    last = np.minimum(n_intervening - 1, at + depth - 1 - at % depth)
    return {
        "nested": np.broadcast_to(i % depth[:, None] > 0, here.shape).copy(),
        "subject_relative": here & is_subject[:, None],
        "object_relative": here & is_object[:, None],
        "closes": np.where((i == last[:, None]) & is_object[:, None], at[:, None], -1),
    }


def _keep_frame(present: np.ndarray, frame: np.ndarray) -> None:
    """Select the slots after the verb by frame: an object, an adverb and a place, or an adjective."""
    for name in ("object_det", "object"):
        present[:, AT[name]] = frame == 0
    present[:, AT["object_adj"]] = ((frame == 0) & present[:, AT["object_adj"]]) | (frame == 2)
    present[:, AT["manner"]] &= frame != 2
    present[:, AT["at"]] &= frame == 1
    present[:, AT["very"]] &= frame == 2


def _keep_needs(present: np.ndarray) -> None:
    for column, needed in enumerate(SLOTS.needs):
        if needed >= 0:
            present[:, column] &= present[:, needed]
