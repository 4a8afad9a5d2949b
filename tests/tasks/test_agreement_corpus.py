"""Reading agreement corpora: what is read, what is refused, and that no input is in two splits."""

import gzip
from collections import Counter

import numpy as np
import pytest

from kdib.tasks.agreement import corpus, formats, sets
from kdib.tasks.agreement.encoding import UNCOUNTED, UNMARKED, Examples

KEYS = {
    "sentence": "the keys to the NN are here",
    "orig_sentence": "The keys to the Cabinet are here",
    "pos_sentence": "DT NNS IN DT NN VBP RB",
    "subj": "keys",
    "verb": "are",
    "subj_pos": "NNS",
    "has_rel": "False",
    "has_nsubj": "True",
    "verb_pos": "VBP",
    "subj_index": "2",
    "verb_index": "6",
    "n_intervening": "1",
    "last_intervening": "NN",
    "n_diff_intervening": "1",
    "distance": "4",
    "max_depth": "3",
    "all_nouns": "NNS NN",
    "nouns_up_to_verb": "NNS NN",
}


LINZEN_COLUMNS = tuple(KEYS)


def table(path, *rows, columns=LINZEN_COLUMNS):
    lines = ["\t".join(columns), *("\t".join(row[name] for name in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def aligned(folder, text="the keys to the cabinet are here <eos>", gold="5\tare\tis\t1", tags=None):
    folder.mkdir()
    tags = "DT NNS IN DT NN VBP RB <eos>" if tags is None else tags
    for suffix, content in ((".text", text), (".pos", tags), (".gold", gold)):
        (folder / f"set{suffix}").write_text(content + "\n", encoding="utf-8")
    return folder


def prefixes(examples: Examples) -> set[tuple[str, ...]]:
    return {examples.prefix(i) for i in range(examples.size)}


# ---- what is read


def test_all_18_columns_of_the_published_file(tmp_path):
    assert len(LINZEN_COLUMNS) == 18
    examples = corpus.read(table(tmp_path / "agr.tsv", KEYS))
    assert examples.size == 1
    assert examples.prefix(0) == ("the", "keys", "to", "the", "cabinet")
    assert examples.sentences[0][examples.verb_index[0]] == "are"
    assert examples.tags[0][examples.verb_index[0]] == "VBP"
    assert (examples.label[0], examples.n_intervening[0], examples.n_diff[0], examples.distance[0]) == (
        1,
        1,
        1,
        4,
    )
    assert (examples.verb_alternative, examples.source) == ([""], ["agr"])
    assert all(array.dtype == np.int32 for array in examples if isinstance(array, np.ndarray))


def test_without_the_original_sentence_its_tags_stay_tags(tmp_path):
    columns = [name for name in LINZEN_COLUMNS if name != "orig_sentence"]
    examples = corpus.read(table(tmp_path / "agr.tsv", KEYS, columns=columns))
    assert examples.prefix(0) == ("the", "keys", "to", "the", "NN")


def test_quoted_fields_and_carriage_returns(tmp_path):
    quoted = {
        **KEYS,
        "orig_sentence": '"The "" keys "" to it are here"',
        "pos_sentence": "DT `` NNS '' IN PRP VBP RB",
    }
    path = table(tmp_path / "agr.tsv", {**quoted, "verb_index": "7"})
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert corpus.read(path).prefix(0) == ("the", '"', "keys", '"', "to", "it")


def test_gzip_and_folders_read_the_same(tmp_path):
    one = table(tmp_path / "one.tsv", KEYS, KEYS)
    (tmp_path / "two.tsv.gz").write_bytes(gzip.compress(one.read_bytes()))
    assert corpus.read(tmp_path / "two.tsv.gz").sentences == corpus.read(one).sentences
    assert corpus.read(tmp_path).source == ["one", "one", "two", "two"]


def test_line_aligned_files(tmp_path):
    examples = corpus.read(aligned(tmp_path / "set"))
    assert examples.prefix(0) == ("the", "keys", "to", "the", "cabinet")
    assert "<eos>" not in examples.sentences[0] and len(examples.tags[0]) == len(examples.sentences[0])
    assert (examples.label[0], examples.n_diff[0], examples.verb_alternative[0]) == (1, 1, "is")
    assert (examples.n_intervening[0], examples.distance[0]) == (UNCOUNTED, UNCOUNTED)


@pytest.mark.parametrize(
    ("correct", "wrong", "label"),
    [("is", "are", 0), ("have", "has", 1), ("was", "were", 0), ("do", "does", 1), ("pass", "passes", 1)],
)
def test_number_is_read_off_the_forms(tmp_path, correct, wrong, label):
    text = f"they {correct} it"
    examples = corpus.read(aligned(tmp_path / "set", text, f"1\t{correct}\t{wrong}\t0", "PRP VB PRP"))
    assert examples.label.tolist() == [label]


def test_rows_with_one_form_only_are_unmarked(tmp_path):
    text, gold, tags = "it lie here\nthey are here", "1\tlie\tlie\t0\n1\tare\tis\t0", "PRP VBP RB\nPRP VBP RB"
    examples = corpus.read(aligned(tmp_path / "set", text, gold, tags))
    assert examples.label.tolist() == [UNMARKED, 1]
    marked, unmarked = corpus.marked(examples)
    assert unmarked == 1 and marked.prefix(0) == ("they",)


# ---- what is refused

MALFORMED = {
    "index is no integer": ({"verb_index": "six"}, "verb_index", "'six', expected an integer from 2 to 7"),
    "index beyond the end": ({"verb_index": "8"}, "verb_index", "8, expected an integer from 2 to 7"),
    "index 0": ({"verb_index": "0"}, "verb_index", "0, expected an integer from 2 to 7"),
    "0-based index": ({"verb_index": "5"}, "verb_pos", "'VBP', expected NN, the tag at verb_index 5"),
    "past tense": ({"verb_pos": "VBD"}, "verb_pos", "'VBD', expected VBZ or VBP"),
    "tag of another verb": ({"verb_pos": "VBZ"}, "verb_pos", "'VBZ', expected VBP, the tag at verb_index 6"),
    "tag missing": ({"pos_sentence": "DT NNS IN DT NN VBP"}, "pos_sentence", "'6 tags', expected 7"),
    "distance beyond the start": ({"distance": "6"}, "distance", "6, expected an integer from 1 to 5"),
    "too many nouns": ({"n_intervening": "4"}, "n_intervening", "4, expected an integer from 0 to 3"),
    "more attractors than nouns": (
        {"n_diff_intervening": "2"},
        "n_diff_intervening",
        "2, expected an .* 0 to 1",
    ),
    "a count is a fraction": ({"n_intervening": "1.0"}, "n_intervening", "'1.0', expected an integer"),
    "stray quote": ({"orig_sentence": '" the keys'}, r"\(all\)", "expected CSV quoting"),
    "one field too many": ({"subj": "keys\tlocks"}, r"\(all\)", "'19 fields', expected 18"),
}


@pytest.mark.parametrize("change,column,message", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_row_is_named(tmp_path, change, column, message):
    path = table(tmp_path / "agr.tsv", KEYS, {**KEYS, **change}, KEYS)
    with pytest.raises(ValueError, match=rf"agr\.tsv, line 3, column {column}: found .*{message}"):
        corpus.read(path)


@pytest.mark.parametrize("column", [*formats.NEEDED])
def test_a_missing_column_is_named(tmp_path, column):
    path = table(tmp_path / "agr.tsv", KEYS, columns=[name for name in LINZEN_COLUMNS if name != column])
    with pytest.raises(ValueError, match=rf"agr\.tsv, line 1, column {column}: found \['sentence'"):
        corpus.read(path)


def test_a_table_without_sentences_is_refused(tmp_path):
    path = table(tmp_path / "agr.tsv", KEYS, columns=formats.NEEDED)
    with pytest.raises(ValueError, match=r"line 1, column orig_sentence: .*orig_sentence or sentence"):
        corpus.read(path)


def test_an_empty_line_is_named(tmp_path):
    path = table(tmp_path / "agr.tsv", KEYS)
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ValueError, match=r"line 3, .*found '0 fields', expected 18"):
        corpus.read(path)


def test_a_truncated_gzip_is_named(tmp_path):
    whole = gzip.compress(table(tmp_path / "agr.tsv", *[KEYS] * 50).read_bytes())
    (tmp_path / "cut.tsv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.tsv\.gz, line \d+, .*EOFError.*expected an undamaged file"):
        corpus.read(tmp_path / "cut.tsv.gz")


def test_a_file_that_is_not_gzip_or_not_utf8_is_named(tmp_path):
    (tmp_path / "plain.tsv.gz").write_text("not compressed")
    (tmp_path / "latin.tsv").write_bytes("café".encode("latin-1"))
    for name in ("plain.tsv.gz", "latin.tsv"):
        with pytest.raises(ValueError, match=rf"{name}, line 1, .*expected an undamaged file in UTF-8"):
            corpus.read(tmp_path / name)


def test_a_folder_without_a_corpus_is_refused(tmp_path):
    for opened in (corpus.read, corpus.require):  # the latter before anything is built
        with pytest.raises(FileNotFoundError, match="without any"):
            opened(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"config.task.train: .*without any.*source='grammar'"):
        sets.paths(sets.CorpusSettings(train=(str(tmp_path),)))


ALIGNED_MALFORMED = {
    "three fields": ({"gold": "5\tare\tis"}, r"\(all\): found '3 fields', expected 4"),
    "no integer": ({"gold": "V\tare\tis\t1"}, "index: found 'v', expected an integer from 1 to 6"),
    "1-based": (
        {"gold": "6\tare\tis\t1"},
        "correct: found 'are', expected 'here', the token of .text at index 6",
    ),
    "beyond": ({"gold": "7\tare\tis\t1"}, "index: found 7, expected an integer from 1 to 6"),
    "tags": ({"tags": "DT NNS <eos>"}, "pos: found '2 tags', expected 7"),
    "attractors": ({"gold": "5\tare\tis\t-1"}, "n_attractors: found -1"),
    "forms": ({"gold": "5\tare\twere\t1"}, "correct: found 'are / were', expected two forms of a verb"),
    "lines": ({"gold": "5\tare\tis\t1\n5\tare\tis\t1"}, "set.text 1, set.pos 1, set.gold 2 lines"),
}


@pytest.mark.parametrize("change,message", ALIGNED_MALFORMED.values(), ids=ALIGNED_MALFORMED)
def test_a_malformed_aligned_row_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"set\.gold, line \d, column .*{message}"):
        corpus.read(aligned(tmp_path / "set", **change))


# ---- one input, one split


def test_unique_keeps_one_of_each_prefix_and_none_of_the_ambiguous(tmp_path):
    sheep = {
        **KEYS,
        "orig_sentence": "the sheep graze here",
        "pos_sentence": "DT NNS VBP RB",
        "verb_index": "3",
        "distance": "1",
        "n_intervening": "0",
        "n_diff_intervening": "0",
    }
    one_sheep = {**sheep, "orig_sentence": "the sheep grazes", "pos_sentence": "DT NN VBZ", "verb_pos": "VBZ"}
    other_end = {**KEYS, "orig_sentence": "the KEYS to the cabinet are there"}
    examples, removed = corpus.unique(corpus.read(table(tmp_path / "agr.tsv", sheep, KEYS, one_sheep, other_end)))
    assert prefixes(examples) == {("the", "keys", "to", "the", "cabinet")}
    assert removed == {"repeated": 1, "ambiguous": 2}


def numbered(tmp_path, n: int) -> Examples:
    rows = [{**KEYS, "orig_sentence": f"the keys to the cabinet{i} are here"} for i in range(n)]
    return corpus.read(table(tmp_path / "agr.tsv", *rows))


def test_split_is_a_seeded_partition(tmp_path):
    examples = numbered(tmp_path, 40)
    parts = corpus.split(examples, (0.5, 0.3, 0.2), seed=1)
    assert [part.size for part in parts] == [20, 12, 8]
    assert set.union(*map(prefixes, parts)) == prefixes(examples)
    again, other = (corpus.split(examples, (0.5, 0.3, 0.2), seed) for seed in (1, 2))
    assert [part.sentences for part in again] == [part.sentences for part in parts]
    assert [part.sentences for part in other] != [part.sentences for part in parts]


@pytest.mark.parametrize("ratios", [(0.5, 0.4), (1.2, -0.2), (0.5, float("nan"))])
def test_ratios_add_up_to_one(tmp_path, ratios):
    with pytest.raises(ValueError, match=r"ratios: found .*expected shares >= 0 that add up to 1"):
        corpus.split(numbered(tmp_path, 4), ratios, seed=0)


def test_without_removes_by_key_and_counts(tmp_path):
    first, second = corpus.split(numbered(tmp_path, 10), (0.4, 0.6), seed=0)
    assert corpus.without(second, [first], Examples.prefix)[1] == 0
    both = corpus.unique(second)[0]
    kept, removed = corpus.without(both, [second], Examples.prefix)
    assert (kept.size, removed) == (0, 6)
    assert corpus.without(second, [first], lambda part, i: part.prefix(i)[0])[1] == 6


# ---- the real data


@pytest.fixture(scope="module")
def linzen(data_dir) -> Examples:
    examples = corpus.read(data_dir / "agreement" / "linzen_testset")
    assert examples.size == 7_489
    return corpus.marked(examples)[0]


def test_the_published_test_set(linzen):
    assert linzen.size == 7_489 - 4
    assert Counter(linzen.n_diff.tolist()) == {0: 1_972 - 2, 1: 1_957, 2: 1_943, 3: 1_287 - 2, 4: 330}
    assert (linzen.n_intervening == UNCOUNTED).all()
    tag_labels = [formats.LABELS.get(tags[verb]) for tags, verb in zip(linzen.tags, linzen.verb_index, strict=True)]
    tagged = [(tag, label) for tag, label in zip(tag_labels, linzen.label, strict=True) if tag is not None]
    assert len(tagged) == 7_168 and all(tag == label for tag, label in tagged)


@pytest.mark.parametrize(
    ("name", "size", "attractors", "other_count"),
    [
        ("speeches", 3_787, (3_380, 308, 74, 15, 2), 0),
        ("ud", 5_421, (4_995, 325, 62, 31, 7), 2),  # two subjects are counted from another head there
        ("docs/git.tsv.gz", 4_577, (4_360, 178, 30, 8, 1), 0),
    ],
)
def test_real_tables(data_dir, name, size, attractors, other_count):
    examples = corpus.read(data_dir / "agreement" / name)
    assert examples.size == size
    assert tuple(int(np.sum(examples.n_diff == k)) for k in range(5)) == attractors
    assert all(word == word.lower() for words in examples.sentences for word in words)
    first = examples.verb_index - examples.distance + 1
    between = [tags[a:b] for tags, a, b in zip(examples.tags, first, examples.verb_index, strict=True)]
    n_nouns = np.array([sum(tag in ("NN", "NNS") for tag in tags) for tags in between])
    assert np.sum(n_nouns != examples.n_intervening) == other_count
    assert all(examples.verb_alternative) == (name == "ud")


def test_all_of_docs(data_dir):
    examples = corpus.read(data_dir / "agreement" / "docs")
    assert examples.size == 80_066
    counts = Counter(np.minimum(examples.n_diff, 5).tolist())
    assert counts == {0: 76_017, 1: 3_274, 2: 593, 3: 133, 4: 32, 5: 17}
    assert Counter(examples.source) == {"postgresql": 12_478, "git": 4_577, "python": 19_095, "linux": 43_916}
    kept, removed = corpus.unique(examples)
    assert kept.size + sum(removed.values()) == 80_066
    assert len(prefixes(kept)) == kept.size
