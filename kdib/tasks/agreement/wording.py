"""From shapes to words: every slot is filled for all sentences at once, by or against the restrictions."""

from typing import NamedTuple

import numpy as np

from kdib.tasks.agreement.lexicon import CLASSES, LEXICON
from kdib.tasks.agreement.shapes import AT, MAX_INTERVENING, MODIFIER_SLOTS, Shape, Style

C = len(CLASSES)


class Plan(NamedTuple):
    """What is asked for, a row a sentence; singular is 0, plural 1.

    The subject's number (`label`), the intervening nouns, how many of them are attractors (`n_diff`), and the
    number of the first noun before the subject (`opening`): dealt out, so that it cannot tell the label.
    """

    label: np.ndarray
    n_intervening: np.ndarray
    n_diff: np.ndarray
    opening: np.ndarray

    def take(self, rows: np.ndarray) -> "Plan":
        """The rows `rows`."""
        return Plan(*(column[rows] for column in self))


class Menu(NamedTuple):
    """For each of R situations the things to choose from: the first `count` [R] of `items` [R, M]."""

    items: np.ndarray
    count: np.ndarray

    def pick(self, rng: np.random.Generator, row: np.ndarray) -> np.ndarray:
        """One item for every row number, uniformly."""
        return self.items[row, (rng.random(len(row)) * self.count[row]).astype(int)]


def _menu(fits: np.ndarray, items: np.ndarray | None = None) -> Menu:
    """From fits [R, M]: which of `items` (by default 0..M-1) goes with which situation."""
    first_fitting = np.argsort(~fits, axis=1, kind="stable")
    return Menu(first_fitting if items is None else items[first_fitting], fits.sum(1))


class Choices(NamedTuple):
    """All menus.

    Their rows are semantic classes C, except for `prepositions` (head * C + complement), `relative_verbs`
    (subject * C + object), `verbs` (frame * C + subject), `objects` (a verb) and `determiners` (a number).
    """

    subjects: Menu
    agents: Menu
    nouns: Menu
    adjectives: Menu
    opening: Menu
    prepositions: Menu
    relative_verbs: Menu
    agent_class: Menu
    patient_class: Menu
    verbs: Menu
    objects: Menu
    determiners: Menu


def choices_of(style: Style, unseen: np.ndarray) -> Choices:
    """The lexicon's restrictions as menus, or, for nonce sentences, their violations."""
    words = LEXICON

    def allowed(fits: np.ndarray, among: np.ndarray | bool = True) -> np.ndarray:
        violated = ~fits & among
        return np.where(violated.any(-1, keepdims=True) & style.nonce, violated, fits & among)

    pair = allowed(words.subject_fits.T[:, None, :] & words.object_fits.T[None, :, :])
    frames = np.stack([allowed(words.subject_fits.T, words.frame == frame) for frame in range(3)])
    in_class = np.eye(C, dtype=bool)[:, words.noun_class]
    objects = words.object_fits | (words.frame > 0)[:, None]  # unused there, but a menu must not be empty
    n_forms = max(map(len, words.determiners))
    determiners = np.stack([np.pad(d, (0, n_forms - len(d))) for d in words.determiners])
    return Choices(
        subjects=_menu(in_class & (unseen if style.subjects == "unseen" else ~unseen)),
        agents=_menu(in_class & ~unseen),
        nouns=_menu(in_class),
        adjectives=_menu(allowed(words.adjective_fits), words.adjectives),
        opening=_menu(allowed(words.opening_fits), words.prepositions),
        prepositions=_menu(allowed(words.preposition_fits).reshape(C * C, -1), words.prepositions),
        relative_verbs=_menu(pair.reshape(C * C, -1)),
        agent_class=_menu(pair.max(-1).T),
        patient_class=_menu(pair.max(-1)),
        verbs=_menu(frames.reshape(3 * C, -1)),
        objects=_menu(allowed(objects)),
        determiners=Menu(determiners, np.array([len(d) for d in words.determiners])),
    )


class Draft(NamedTuple):
    """Sentences in the making: `tokens` [n, slots] are being filled."""

    rng: np.random.Generator
    plan: Plan
    shape: Shape
    choices: Choices
    tokens: np.ndarray

    def number(self) -> np.ndarray:
        """[n] numbers that nothing depends on."""
        return self.rng.integers(2, size=len(self.tokens))

    def put_noun(self, slots: tuple[str, str, str], noun: np.ndarray, number: np.ndarray) -> None:
        """Fill the slots of a determiner, an adjective and a noun."""
        det, adj, head = (AT[slot] for slot in slots)
        self.tokens[:, det] = self.choices.determiners.pick(self.rng, number)
        self.tokens[:, adj] = self.choices.adjectives.pick(self.rng, LEXICON.noun_class[noun])
        self.tokens[:, head] = LEXICON.nouns[noun, number]

    def relative_verb(self, agent_class: np.ndarray, patient_class: np.ndarray, number) -> np.ndarray:
        """[n] verbs between these classes; they agree with their own subject, as in natural English."""
        verb = self.choices.relative_verbs.pick(self.rng, agent_class * C + patient_class)
        return LEXICON.verbs[verb, number]


def fill(rng: np.random.Generator, plan: Plan, shape: Shape, choices: Choices) -> np.ndarray:
    """[n, slots] tokens of the lexicon, 0 where the shape leaves a slot empty."""
    draft = Draft(rng, plan, shape, choices, np.zeros(shape.present.shape, np.int16))
    for slot, items in LEXICON.phrases.items():
        draft.tokens[:, AT[slot]] = items[rng.integers(len(items), size=len(draft.tokens))]
    subject_class = rng.integers(C, size=len(draft.tokens))
    _fill_opening(draft)
    draft.put_noun(("det", "adj", "subject"), choices.subjects.pick(rng, subject_class), plan.label)
    _fill_modifiers(draft, subject_class)
    _fill_predicate(draft, subject_class)
    return np.where(shape.present, draft.tokens, 0)


def _fill_opening(draft: Draft) -> None:
    """Before the subject: nouns whose numbers have nothing to do with the subject's."""
    rng, choices = draft.rng, draft.choices
    outer, inner = rng.integers(C, size=(2, len(draft.tokens)))
    draft.tokens[:, AT["opening"]] = choices.opening.pick(rng, outer)
    draft.tokens[:, AT["within"]] = choices.prepositions.pick(rng, outer * C + inner)
    slots = [(f"{name}_det", f"{name}_adj", f"{name}_noun") for name in ("opening", "within")]
    draft.put_noun(slots[0], choices.nouns.pick(rng, outer), draft.plan.opening)
    draft.put_noun(slots[1], choices.nouns.pick(rng, inner), draft.number())


def _fill_modifiers(draft: Draft, subject_class: np.ndarray) -> None:
    """Prepositional phrases and relative clauses, each on the subject or on the noun before it."""
    rng, plan, shape, choices, tokens = draft
    number = plan.label[:, None] ^ _attractors(rng, plan)
    clause_verb = np.zeros((len(tokens), MAX_INTERVENING), np.int16)
    before_class, before_number = subject_class, plan.label
    for i in range(MAX_INTERVENING):
        head_class = np.where(shape.nested[:, i], before_class, subject_class)
        head_number = np.where(shape.nested[:, i], before_number, plan.label)
        patient, agent = shape.subject_relative[:, i], shape.object_relative[:, i]
        own_class = _class_beside(draft, head_class, patient, agent)
        noun = np.where(agent, choices.agents.pick(rng, own_class), choices.nouns.pick(rng, own_class))
        draft.put_noun((f"det{i}", f"adj{i}", f"noun{i}"), noun, number[:, i])
        preposition = choices.prepositions.pick(rng, head_class * C + own_class)
        tokens[:, AT[f"link{i}"]] = np.where(patient | agent, LEXICON.relative, preposition)
        tokens[:, AT[f"agrees{i}"]] = draft.relative_verb(head_class, own_class, head_number)
        clause_verb[:, i] = draft.relative_verb(own_class, head_class, number[:, i])
        before_class, before_number = own_class, number[:, i]
    tokens[:, MODIFIER_SLOTS["closes"]] = np.take_along_axis(clause_verb, shape.closes.clip(0), axis=1)


def _class_beside(draft: Draft, head_class: np.ndarray, patient: np.ndarray, agent: np.ndarray) -> np.ndarray:
    """[n] classes of a modifier's noun: in a relative clause some verb must fit, else any class will do."""
    any_class = draft.rng.integers(C, size=len(head_class))
    of_patient = draft.choices.patient_class.pick(draft.rng, head_class)
    of_agent = draft.choices.agent_class.pick(draft.rng, head_class)
    return np.where(patient, of_patient, np.where(agent, of_agent, any_class))


def _attractors(rng: np.random.Generator, plan: Plan) -> np.ndarray:
    """[n, 6] 0/1: `n_diff` of the first `n_intervening` modifiers, at random."""
    order = rng.random((len(plan.label), MAX_INTERVENING))
    order[np.arange(MAX_INTERVENING)[None, :] >= plan.n_intervening[:, None]] = 2  # after all that exist
    rank = np.argsort(np.argsort(order, axis=1), axis=1)
    return (rank < plan.n_diff[:, None]).astype(int)


def _fill_predicate(draft: Draft, subject_class: np.ndarray) -> None:
    """The main verb and what follows it."""
    rng, plan, shape, choices, tokens = draft
    verb = choices.verbs.pick(rng, shape.frame * C + subject_class)
    tokens[:, AT["verb"]] = LEXICON.verbs[verb, plan.label]
    object_class = np.where(shape.frame == 2, subject_class, choices.objects.pick(rng, verb))
    slots = ("object_det", "object_adj", "object")
    draft.put_noun(slots, choices.nouns.pick(rng, object_class), draft.number())
    place, number = np.full(len(tokens), CLASSES.index("L")), draft.number()
    tokens[:, AT["at"]] = choices.opening.pick(rng, place)
    tokens[:, AT["at_det"]] = choices.determiners.pick(rng, number)
    tokens[:, AT["at_noun"]] = LEXICON.nouns[choices.nouns.pick(rng, place), number]
