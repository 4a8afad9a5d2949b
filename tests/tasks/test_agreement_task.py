"""The agreement task: what it promises of its splits, its facts and its complaints."""

import json

import numpy as np
import pytest

from kdib.tasks.agreement import task as agreement
from kdib.tasks.agreement.task import CorpusSettings, GrammarSettings

SMALL = {"n_train": 2_000, "n_validation": 200, "n_test_per_group": 40}
TINY = {"n_train": 200, "n_validation": 20, "n_test_per_group": 4}


def inputs(data) -> set[bytes]:
    return {row.tobytes() for row in data.inputs["tokens"]}


@pytest.fixture(scope="module")
def text(data_dir) -> CorpusSettings:
    folder = data_dir / "agreement"
    return CorpusSettings(
        train=(f"{folder}/docs/git.tsv.gz",),
        tests=(
            f"speeches={folder}/speeches",
            f"linzen={folder}/linzen_testset",
            f"again={folder}/docs/git.tsv.gz",
        ),
        vocabulary_size=1_000,
        max_length=24,
    )


@pytest.fixture(scope="module")
def text_task(text):
    return agreement.build(text)


@pytest.fixture(scope="module")
def generated():
    return agreement.build(GrammarSettings(**SMALL))


# ---- either source


@pytest.mark.parametrize("name", ["text_task", "generated"])
def test_no_input_is_in_two_splits(name, request):
    task = request.getfixturevalue(name)
    train, validation = inputs(task.train), inputs(task.validation)
    assert not train & validation
    for test in task.tests.values():
        assert not inputs(test) & (train | validation)


@pytest.mark.parametrize("name", ["text_task", "generated"])
def test_all_sets_share_their_form(name, request):
    task = request.getfixturevalue(name)
    for data in (task.train, task.validation, *task.tests.values()):
        assert data.inputs["tokens"].shape == (data.size, task.facts["max_length"])
        assert data.inputs["tokens"].max() < task.facts["vocabulary_size"]
        np.testing.assert_array_equal(np.sum(data.inputs["tokens"] != 0, axis=1), data.inputs["length"])
        assert {array.dtype for array in (*data.inputs.values(), *data.groups.values())} == {np.dtype(np.int32)}
        assert set(data.groups) == {"attractors", "same_number", "distance", "mu"}
    assert task.num_classes == 2


@pytest.mark.parametrize("name", ["text_task", "generated"])
def test_facts_are_json_and_agree_with_the_data(name, request):
    task = request.getfixturevalue(name)
    facts = json.loads(json.dumps(task.facts, allow_nan=False))
    assert list(facts["baselines"]) == list(task.tests)
    for key, data in {"train": task.train, "validation": task.validation, **task.tests}.items():
        told = facts["sets"][key]
        assert told["size"] == data.size == sum(told["labels"].values())
        assert sum(told["coverage"].values()) == pytest.approx(1)
        for value, sizes in told["groups"]["attractors"].items():
            labels = data.inputs["label"][data.groups["attractors"] == int(value)]
            assert (sizes["singular"], sizes["plural"]) == (np.sum(labels == 0), np.sum(labels == 1))
        assert len(told["examples"]) == 3
        assert all(sum(word[0] + word[-1] == "[]" for word in s.split()) >= 1 for s in told["examples"])


# ---- text


def test_the_test_set_of_the_training_text_comes_first(text_task):
    assert list(text_task.tests) == ["test", "speeches", "linzen", "again"]


def test_what_was_removed_adds_up(text, text_task):
    removed = text_task.facts["removed"]
    for name in ("speeches", "linzen", "again"):
        counts = removed[name]
        assert counts["read"] - sum(n for key, n in counts.items() if key != "read") == text_task.tests[name].size
    read = removed["training_text"]
    left = read["read"] - read["unmarked"] - read["repeated"] - read["ambiguous"] - read["too_long"]
    parts = left * np.array(text.ratios)
    assert text_task.train.size == pytest.approx(parts[0], abs=1)
    kept = {"validation": text_task.validation.size, "test": text_task.tests["test"].size}
    for name, part in zip(kept, parts[1:], strict=True):
        assert kept[name] + sum(removed[name].values()) == pytest.approx(part, abs=1)


def test_training_sentences_are_removed_from_a_test_set(text_task):
    # "again" is the file that was trained on: nothing is left of it but what the set "test" holds as well
    counts = text_task.facts["removed"]["again"]
    assert counts["words_seen_in_training"] == text_task.train.size + text_task.validation.size
    assert inputs(text_task.tests["again"]) == inputs(text_task.tests["test"])


def test_the_vocabulary_is_of_the_training_text_only(text, text_task):
    more = agreement.build(CorpusSettings(**{**vars(text), "tests": ()}))
    np.testing.assert_array_equal(more.train.inputs["tokens"], text_task.train.inputs["tokens"])
    assert more.facts["vocabulary_size"] == text_task.facts["vocabulary_size"]
    assert text_task.facts["sets"]["speeches"]["coverage"]["words"] < 0.8
    assert text_task.facts["sets"]["train"]["coverage"]["unknown"] == 0


def test_the_published_attractor_groups_need_no_distance(text_task):
    linzen = text_task.tests["linzen"]
    assert set(np.unique(linzen.groups["attractors"])) == {0, 1, 2, 3, 4}
    assert (linzen.groups["distance"] == -1).all() and (linzen.groups["same_number"] == -1).all()
    assert text_task.facts["sets"]["linzen"]["uncounted"] == linzen.size


def test_without_a_share_the_first_path_is_the_test_set(text):
    task = agreement.build(CorpusSettings(**{**vars(text), "ratios": (0.9, 0.1, 0.0), "tests": text.tests[:1]}))
    assert list(task.tests) == ["speeches"]


def test_a_test_set_that_is_all_training_text_is_refused(text):
    with pytest.raises(ValueError, match=r"no sentence is left in the set 'again'; removed: .*words_seen_in_training"):
        agreement.build(CorpusSettings(**{**vars(text), "ratios": (0.9, 0.1, 0.0), "tests": text.tests[2:]}))


def test_sets_are_capped_by_a_seeded_choice(text, text_task):
    capped, again, other = (
        agreement.build(CorpusSettings(**{**vars(text), "max_per_set": 200, "seed": seed, "tests": text.tests[1:2]}))
        for seed in (0, 0, 1)
    )
    assert capped.train.size == 200 and capped.tests["linzen"].size <= 200
    assert inputs(capped.train) == inputs(again.train) != inputs(other.train)
    first = [task.facts["sets"]["linzen"]["examples"] for task in (capped, again, other)]
    assert first[0] == first[1] != first[2]


def test_a_missing_path_names_setting_and_remedies(text):
    for change, setting in (
        ({"train": ("nowhere.tsv",)}, "train: no file or folder 'nowhere.tsv'"),
        ({"train": ("",)}, "train: no file or folder ''"),
        ({"tests": ("far=nowhere.tsv",)}, "tests: no file or folder 'nowhere.tsv'"),
    ):
        with pytest.raises(FileNotFoundError, match=rf"{setting}; .*agr_50_mostcommon_10K\.tsv.*source='grammar'"):
            agreement.build(CorpusSettings(**{**vars(text), **change}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": ()}, "train: found no path"),
        ({"tests": ("speeches",)}, "tests: found 'speeches', expected 'name=path'"),
        ({"tests": ("train=x",)}, "tests: found 'train=x', expected .* none of test, train, validation"),
        ({"tests": (), "ratios": (0.9, 0.1, 0.0)}, "tests: found none"),
        ({"ratios": (0.9, 0.2, 0.1)}, "ratios: found"),
        ({"max_length": 1, "tests": ()}, "no sentence is left in the set 'train'.*max_length"),
    ],
)
def test_a_wrong_setting_is_named(text, change, message):
    with pytest.raises(ValueError, match=message):
        agreement.build(CorpusSettings(**{**vars(text), **change}))


def test_test_names_are_unique(text):
    with pytest.raises(ValueError, match="each name once"):
        agreement.build(CorpusSettings(**{**vars(text), "tests": (text.tests[0], text.tests[0])}))


# ---- generated


def test_the_sets_of_the_grammar(generated):
    names = ["test", "more_attractors", "longer_distance", "unseen_nouns", "nonce", "natural"]
    assert list(generated.tests) == names
    assert (generated.train.size, generated.validation.size) == (SMALL["n_train"], SMALL["n_validation"])


def test_generated_inputs_are_known_words(generated):
    for name, told in generated.facts["sets"].items():
        assert told["coverage"]["words"] > 0.98, name


def test_groups_of_the_harder_sets_reach_beyond_the_published_limits(generated):
    assert generated.tests["more_attractors"].groups["attractors"].max() > 4
    assert generated.tests["longer_distance"].groups["distance"].max() > 16
    assert generated.tests["test"].groups["attractors"].max() == 4


def test_the_data_seed_changes_the_sample():
    one, same, other = (agreement.build(GrammarSettings(**TINY, data_seed=seed)) for seed in (1, 1, 2))
    assert inputs(one.train) == inputs(same.train) != inputs(other.train)
