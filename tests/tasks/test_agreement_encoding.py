"""Vocabulary, token ids, padding and groups, on sentences small enough to check by eye."""

import numpy as np
import pytest

from kdib.tasks.agreement import encoding
from kdib.tasks.agreement.encoding import END, PAD, UNCOUNTED, UNKNOWN, Examples


def sentences(*rows: tuple[str, str, int]) -> Examples:
    """Examples from (words, tags, verb_index); the columns that encoding does not read are arbitrary."""
    n = len(rows)
    zeros = np.zeros(n, np.int32)
    return Examples(
        sentences=[tuple(words.split()) for words, _, _ in rows],
        tags=[tuple(tags.split()) for _, tags, _ in rows],
        verb_index=np.array([verb for _, _, verb in rows], np.int32),
        verb_alternative=[""] * n,
        label=np.array([0, 1] * n, np.int32)[:n],
        n_intervening=zeros,
        n_diff=zeros,
        distance=zeros + 1,
        source=["here"] * n,
    )


def counted(n_intervening, n_diff, distance) -> Examples:
    """Examples of which only the columns that make groups matter."""
    blank = sentences(*[("the key is", "DT NN VBZ", 2)] * len(n_diff))
    columns = {"n_intervening": n_intervening, "n_diff": n_diff, "distance": distance}
    return blank._replace(**{name: np.array(column, np.int32) for name, column in columns.items()})


TRAIN = sentences(
    ("the key to the cabinet is here", "DT NN IN DT NN VBZ RB", 5),
    ("the keys to the door are there", "DT NNS IN DT NN VBP RB", 5),
    ("a key is red", "DT NN VBZ JJ", 2),
)


def test_take_and_join_are_inverse():
    parts = [encoding.take(TRAIN, [0]), encoding.take(TRAIN, [1, 2])]
    joined = encoding.join(parts)
    assert joined.size == 3
    assert joined.sentences == TRAIN.sentences and joined.source == TRAIN.source
    np.testing.assert_array_equal(joined.verb_index, TRAIN.verb_index)
    assert encoding.take(TRAIN, [2, 0]).prefix(0) == ("a", "key")


def test_vocabulary_ranks_prefix_words_by_frequency_and_then_by_name():
    vocab = encoding.vocabulary(TRAIN, size=4)
    assert list(vocab.ids) == [PAD, UNKNOWN, END, "the", "key", "to", "a", "NN", "NNS"]
    assert list(vocab.ids.values()) == list(range(vocab.size))


@pytest.mark.parametrize("whole", [False, True])
def test_a_word_that_neither_it_nor_its_tag_is_known_makes_a_sentence_unreadable(whole):
    """Before the verb only: the verb and what follows are not what the answer rests on."""
    asked = sentences(
        ("the key is", "DT NN VBZ", 2),
        ("the safe is", "DT NN VBZ", 2),  # its tag stands for it
        ("the safe is", "DT XX VBZ", 2),
        ("the key rusts overnight", "DT NN XX XX", 2),
        ("oh the key is", "XX DT NN VBZ", 3),
    )
    readable, unknown = encoding.readable(asked, encoding.vocabulary(TRAIN, size=4, whole=whole))
    assert unknown == 2
    assert readable.sentences == [asked.sentences[i] for i in (0, 1, 3)]


def test_words_at_or_after_the_verb_are_not_in_the_vocabulary():
    vocab = encoding.vocabulary(TRAIN, size=100)
    assert not {"is", "are", "here", "red", "VBZ", "VBP"} & vocab.ids.keys()


def test_min_count_turns_rare_words_into_their_tags():
    vocab = encoding.vocabulary(TRAIN, size=100, min_count=2)
    assert vocab.spell(TRAIN, 0) == ("the", "key", "to", "the", "NN")
    assert vocab.spell(TRAIN, 1) == ("the", "NNS", "to", "the", "NN")


def test_a_tag_that_training_never_used_is_unknown_and_counted():
    vocab = encoding.vocabulary(TRAIN, size=100, min_count=2)
    other = sentences(("the wug of wugs sleeps", "DT NN IN NNPS VBZ", 4))
    assert vocab.spell(other, 0) == ("the", "NN", UNKNOWN, UNKNOWN)
    tokens = encoding.encode(other, vocab, 8)["tokens"]
    assert (tokens[0] == 1).tolist() == [False, False, True, True, False, False, False, False]
    assert encoding.coverage(tokens, vocab) == {"words": 0.25, "tags": 0.25, "unknown": 0.5}


def test_encoding_round_trip_and_padding():
    vocab = encoding.vocabulary(TRAIN, size=100, min_count=2)
    data = encoding.encode(TRAIN, vocab, 9)
    names = list(vocab.ids)
    for i in range(TRAIN.size):
        tokens, length = data["tokens"][i], data["length"][i]
        assert [names[t] for t in tokens[:length]] == [*vocab.spell(TRAIN, i), END]
        assert (tokens[length:] == 0).all() and (tokens[:length] != 0).all()
    assert {array.dtype for array in data.values()} == {np.dtype(np.int32)}
    np.testing.assert_array_equal(data["id"], [0, 1, 2])
    np.testing.assert_array_equal(data["length"], [6, 6, 3])


def test_wider_padding_changes_nothing_else():
    vocab = encoding.vocabulary(TRAIN, size=100)
    narrow, wide = (encoding.encode(TRAIN, vocab, length) for length in (6, 11))
    np.testing.assert_array_equal(wide["tokens"][:, :6], narrow["tokens"])
    assert not wide["tokens"][:, 6:].any()
    np.testing.assert_array_equal(wide["length"], narrow["length"])


def test_nothing_is_cut_off():
    vocab = encoding.vocabulary(TRAIN, size=100)
    with pytest.raises(ValueError, match="max_length is 5, but the longest input has 6 tokens"):
        encoding.encode(TRAIN, vocab, 5)
    fitting = encoding.fitting(TRAIN, 5)
    assert [fitting.prefix(i) for i in range(fitting.size)] == [("a", "key")]
    assert encoding.fitting(TRAIN, 6).size == 3
    assert encoding.encode(fitting, vocab, 5)["tokens"].shape == (1, 5)


def test_groups_closed_form():
    #                  none  attr  same  mixed  4 att  5 nouns  far
    columns = encoding.groups(counted([0, 1, 2, 2, 4, 5, 1], [0, 1, 0, 1, 4, 0, 1], [1, 4, 7, 7, 16, 9, 17]))
    np.testing.assert_array_equal(columns["mu"], [0, 0, 0, 0, 0, -1, -1])
    np.testing.assert_array_equal(columns["attractors"], [0, 1, -1, -1, 4, -1, -1])
    np.testing.assert_array_equal(columns["same_number"], [0, -1, 2, -1, -1, -1, -1])
    np.testing.assert_array_equal(columns["distance"], [1, 4, 7, 7, 16, -1, -1])
    assert {column.dtype for column in columns.values()} == {np.dtype(np.int32)}


def test_limits_of_groups_are_knobs():
    examples = counted([5, 6, 7], [5, 6, 7], [20, 40, 41])
    columns = encoding.groups(examples, max_intervening=6, max_distance=40)
    np.testing.assert_array_equal(columns["attractors"], [5, 6, -1])
    np.testing.assert_array_equal(columns["distance"], [20, 40, -1])


def test_uncounted_interveners_group_by_the_published_attractors_only():
    columns = encoding.groups(counted([UNCOUNTED] * 3, [0, 3, 5], [UNCOUNTED] * 3))
    np.testing.assert_array_equal(columns["attractors"], [0, 3, -1])
    np.testing.assert_array_equal(columns["mu"], [0, 0, -1])
    np.testing.assert_array_equal(columns["same_number"], [-1, -1, -1])
    np.testing.assert_array_equal(columns["distance"], [-1, -1, -1])


def test_dataset_holds_inputs_and_groups_of_the_same_rows():
    data = encoding.dataset(TRAIN, encoding.vocabulary(TRAIN, size=100), 8, max_intervening=4, max_distance=16)
    assert data.size == 3
    assert all(len(column) == 3 for column in (*data.inputs.values(), *data.groups.values()))
