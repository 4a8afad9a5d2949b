"""Fill the slots of shapes with words, for all sentences at once, obeying or violating the selectional restrictions."""

from typing import NamedTuple

import numpy as np

from kdib.tasks.agreement.lexicon import CLASSES, LEXICON
from kdib.tasks.agreement.shapes import AT, MAX_INTERVENING, MODIFIER_SLOTS, Shape, Style

C = len(CLASSES)


class Plan(NamedTuple):
    """The requested properties of the sentences, with one row per sentence; singular is 0, plural 1.

    The columns are the number of the subject (`label`), the count of intervening nouns, the count of attractors among
    them (`n_diff`), and the number of the first noun before the subject (`opening`), which is balanced over the labels.
    """

    label: np.ndarray
    n_intervening: np.ndarray
    n_diff: np.ndarray
    opening: np.ndarray

    def take(self, rows: np.ndarray) -> "Plan":
        """The rows `rows`."""
        return Plan(*(column[rows] for column in self))


class Menu(NamedTuple):
    """The options in each of R situations: the first `count` [R] of `items` [R, M]."""

    items: np.ndarray
    count: np.ndarray

    def pick(self, rng: np.random.Generator, row: np.ndarray) -> np.ndarray:
        """Draw one item uniformly for every row number."""
        return self.items[row, (rng.random(len(row)) * self.count[row]).astype(int)]


def _menu(fits: np.ndarray, items: np.ndarray | None = None) -> Menu:
    """The menu of fits [R, M], which marks the `items` (by default 0..M-1) that are allowed in each situation."""
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
    """The menus of words that obey the restrictions of the lexicon or, for nonce sentences, violate them."""
    words = LEXICON

    def allowed(fits: np.ndarray, among: np.ndarray | bool = True) -> np.ndarray:
        violated = ~fits & among
        return np.where(violated.any(-1, keepdims=True) & style.nonce, violated, fits & among)

    pair = allowed(words.subject_fits.T[:, None, :] & words.object_fits.T[None, :, :])
    frames = np.stack([allowed(words.subject_fits.T, words.frame == frame) for frame in range(3)])
    in_class = np.eye(C, dtype=bool)[:, words.noun_class]
    objects = words.object_fits | (words.frame > 0)[:, None]  # unused for these frames, but a menu must not be empty
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
    """Sentences under construction, whose `tokens` [n, slots] are being filled."""

    rng: np.random.Generator
    plan: Plan
    shape: Shape
    choices: Choices
    tokens: np.ndarray

    def number(self) -> np.ndarray:
        """[n] random grammatical numbers, independent of everything else."""
        return self.rng.integers(2, size=len(self.tokens))

    def put_noun(self, slots: tuple[str, str, str], noun: np.ndarray, number: np.ndarray) -> None:
        """Fill the slots of a determiner, an adjective and a noun."""
        det, adj, head = (AT[slot] for slot in slots)
        self.tokens[:, det] = self.choices.determiners.pick(self.rng, number)
        self.tokens[:, adj] = self.choices.adjectives.pick(self.rng, LEXICON.noun_class[noun])
        self.tokens[:, head] = LEXICON.nouns[noun, number]

    def relative_verb(self, agent_class: np.ndarray, patient_class: np.ndarray, number) -> np.ndarray:
        """[n] verbs that fit these classes and agree with their own subject, as in natural English."""
        verb = self.choices.relative_verbs.pick(self.rng, agent_class * C + patient_class)
        return LEXICON.verbs[verb, number]


def fill(rng: np.random.Generator, plan: Plan, shape: Shape, choices: Choices) -> np.ndarray:
    """[n, slots] tokens of the lexicon, 0 in the empty slots of a shape."""
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
    """Fill the slots before the subject, with nouns whose numbers are independent of the subject's."""
    rng, choices = draft.rng, draft.choices
    outer, inner = rng.integers(C, size=(2, len(draft.tokens)))
    draft.tokens[:, AT["opening"]] = choices.opening.pick(rng, outer)
    draft.tokens[:, AT["within"]] = choices.prepositions.pick(rng, outer * C + inner)
    slots = [(f"{name}_det", f"{name}_adj", f"{name}_noun") for name in ("opening", "within")]
    draft.put_noun(slots[0], choices.nouns.pick(rng, outer), draft.plan.opening)
    draft.put_noun(slots[1], choices.nouns.pick(rng, inner), draft.number())


def _fill_modifiers(draft: Draft, subject_class: np.ndarray) -> None:
    """Fill the prepositional phrases and relative clauses, which modify the subject or the preceding noun."""
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
    """[n] classes of the noun in a modifier: in a relative clause some verb must fit it, elsewhere any class does."""
    any_class = draft.rng.integers(C, size=len(head_class))
    of_patient = draft.choices.patient_class.pick(draft.rng, head_class)
    of_agent = draft.choices.agent_class.pick(draft.rng, head_class)
    return np.where(patient, of_patient, np.where(agent, of_agent, any_class))


def _attractors(rng: np.random.Generator, plan: Plan) -> np.ndarray:
    """[n, 6] 0/1: a random choice of `n_diff` of the first `n_intervening` modifiers."""
    order = rng.random((len(plan.label), MAX_INTERVENING))
    order[np.arange(MAX_INTERVENING)[None, :] >= plan.n_intervening[:, None]] = 2  # sorts after all existing modifiers
    rank = np.argsort(np.argsort(order, axis=1), axis=1)
    return (rank < plan.n_diff[:, None]).astype(int)


def _fill_predicate(draft: Draft, subject_class: np.ndarray) -> None:
    """Fill the main verb and the slots after it."""
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
