"""Agreement as language modelling: predict every word, and compare the two forms of the verb at its position.

Setup of Abnar, Dehghani & Zuidema 2020: the input is <start> w1..wn and the target w1..wn <end>, with one sentence per
row. A test item is a forced choice between the verb's forms at the position of the verb. The prediction for it consists
of two logits, (singular, plural), so all measures for two classes apply.
"""

import re
from collections.abc import Collection

import numpy as np

from kdib.tasks.agreement.encoding import BEGIN, END, Examples, Vocabulary, groups, take
from kdib.tasks.base import Dataset

IRREGULAR = {"is": "are", "was": "were", "has": "have", "does": "do", "goes": "go"}  # singular -> plural
_SINGULAR_OF = {plural: singular for singular, plural in IRREGULAR.items()}
# (ending of a form, ending in the other number), more likely rules first: dies -> die, tries -> try; pushes -> push,
# focuses -> focus, but uses -> use and never us, notes -> note and never not.
_TO_PLURAL = ((r"(..)ies$", r"\1y"), (r"(ss|zz|x|ch|sh)es$", r"\1"), (r"s$", ""), (r"(o|tz|..[ua]s)es$", r"\1"))
_TO_SINGULAR = ((r"([^aeiou])y$", r"\1ies"), (r"(s|z|x|ch|sh|o)$", r"\1es"), (r"$", "s"))


def sentences(examples: Examples, vocab: Vocabulary, max_length: int) -> dict[str, np.ndarray]:
    """The inputs and targets of a language model, right-padded: [N, max_length] except `length` and `id` [N].

    `tokens` are <start> w1..wn and `label` w1..wn <end> (int32). `mask` is True at positions with a token to predict.
    Raises ValueError if a sentence does not fit.
    """
    length_N = np.array([len(words) for words in examples.sentences], np.int32) + 1
    if length_N.max(initial=0) > max_length:
        raise ValueError(
            f"max_length is {max_length}, but the longest sentence has {length_N.max()} tokens with its end token"
        )
    tokens_NxL, label_NxL = np.zeros((2, examples.size, max_length), np.int32)
    for i, length in enumerate(length_N):
        words = [vocab.ids[token] for token in vocab.spell(examples, i)]
        tokens_NxL[i, :length] = [vocab.ids[BEGIN], *words]
        label_NxL[i, :length] = [*words, vocab.ids[END]]
    mask_NxL = np.arange(max_length) < length_N[:, None]
    ids_N = np.arange(examples.size, dtype=np.int32)
    return {"tokens": tokens_NxL, "length": length_N, "label": label_NxL, "mask": mask_NxL, "id": ids_N}


def forced_choices(examples: Examples, vocab: Vocabulary, max_length: int) -> dict[str, np.ndarray]:
    """Test items: `sentences` with the tokens to predict as `target` and the number of the verb as `label`.

    `choices` [N, 2] are the ids of the verb's singular and plural form. `position` [N] is the position whose next token
    is the verb. Raises ValueError for a form that is not in the vocabulary: see `with_known_forms`.
    """
    inputs = sentences(examples, vocab, max_length)
    choices_Nx2 = np.array([_forms(examples, vocab, i) for i in range(examples.size)], np.int32).reshape(-1, 2)
    if (choices_Nx2 < 0).any():
        i = int(np.argmax((choices_Nx2 < 0).any(1)))
        raise ValueError(f"the verb {_verb(examples, i)!r} or its other form is not in the vocabulary")
    return {
        **inputs,
        "target": inputs["label"],
        "label": examples.label,
        "position": examples.verb_index,
        "choices": choices_Nx2,
    }


def with_known_forms(examples: Examples, vocab: Vocabulary) -> tuple[Examples, int]:
    """The sentences for which both forms of the verb are in the vocabulary, and the count of the others.

    The published evaluation counts the others as errors, which costs every network about 3 points.
    """
    kept = [i for i in range(examples.size) if min(_forms(examples, vocab, i)) >= 0]
    return take(examples, kept), examples.size - len(kept)


def evaluation_set(examples: Examples, vocab: Vocabulary, max_length: int, **limits: int) -> Dataset:
    """The Dataset of `forced_choices` and the groups of the same sentences."""
    return Dataset(inputs=forced_choices(examples, vocab, max_length), groups=groups(examples, **limits))


def training_set(examples: Examples, vocab: Vocabulary, max_length: int, **limits: int) -> Dataset:
    """The Dataset of `sentences` and their groups."""
    return Dataset(inputs=sentences(examples, vocab, max_length), groups=groups(examples, **limits))


def other_form(verb: str, label: int, known: Collection[str]) -> str:
    """The present-tense form of a verb for the other number, by spelling rules; "" if no candidate is a known word.

    `label` is the number of `verb` (0 singular). Of the spellings that the rules allow, the most likely one that is in
    `known` is returned: flies -> fly, not flie; uses -> use, not us.

    >>> other_form("tries", 0, {"try", "trie"}), other_form("push", 1, {"pushes"}), other_form("is", 0, {"are"})
    ('try', 'pushes', 'are')
    """
    irregular, rules = (IRREGULAR, _TO_PLURAL) if label == 0 else (_SINGULAR_OF, _TO_SINGULAR)
    if verb in irregular:
        candidates = [irregular[verb]]
    else:
        candidates = [re.sub(end, other, verb) for end, other in rules if re.search(end, verb)]
    # No verb is one character long: without this, 's would stand against the apostrophe, and ms against m.
    return next((form for form in candidates if len(form) > 1 and form in known), "")


def _forms(examples: Examples, vocab: Vocabulary, i: int) -> tuple[int, int]:
    """The ids of the verb's singular and plural form; -1 for a form that is not in the vocabulary."""
    verb, label = _verb(examples, i), int(examples.label[i])
    other = examples.verb_alternative[i] or other_form(verb, label, vocab.words)
    singular, plural = (verb, other) if label == 0 else (other, verb)
    return vocab.ids.get(singular, -1), vocab.ids.get(plural, -1)


def _verb(examples: Examples, i: int) -> str:
    return examples.sentences[i][examples.verb_index[i]]
