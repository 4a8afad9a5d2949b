"""Agreement as language modelling: what is shown, what is asked, what is excluded and counted."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib.answers import Answers, answer, summary
from kdib.models import build
from kdib.models.base import Model, Outputs
from kdib.properties import perplexity
from kdib.records import Subject
from kdib.tasks.agreement import corpus, encoding, language, sets
from kdib.tasks.agreement import task as task_module
from kdib.tasks.agreement.encoding import BEGIN, END, Examples
from kdib.tasks.agreement.task import CorpusSettings, GrammarSettings

SMALL = {"n_train": 600, "n_validation": 80, "n_test_per_group": 10}


def examples(*sentences: str, others=()) -> Examples:
    """Sentences whose verb is marked by a star: plural after two stars."""
    n = len(sentences)
    words = [tuple(word.strip("*") for word in sentence.split()) for sentence in sentences]
    index = [next(i for i, w in enumerate(s.split()) if w.startswith("*")) for s in sentences]
    label = [int("**" in s) for s in sentences]
    zero = np.zeros(n, np.int32)
    return Examples(
        words,
        [("T",) * len(w) for w in words],
        np.array(index, np.int32),
        list(others) or [""] * n,
        np.array(label, np.int32),
        zero,
        zero,
        zero,
        ["toy"] * n,
    )


@pytest.fixture(scope="module")
def toy():
    text = examples("the dog *runs home", "the dogs **run", "a cat *is here now", "cats **are")
    return text, encoding.vocabulary(text, size=100, whole=True)


def test_every_word_is_predicted_from_the_words_before(toy):
    text, vocab = toy
    names = {number: name for name, number in vocab.ids.items()}
    inputs = language.sentences(text, vocab, max_length=7)
    for i, words in enumerate(text.sentences):
        length = inputs["length"][i]
        assert [names[t] for t in inputs["tokens"][i, :length]] == [BEGIN, *words]
        assert [names[t] for t in inputs["label"][i, :length]] == [*words, END]
        assert inputs["mask"][i].sum() == length == len(words) + 1
        assert not inputs["tokens"][i, length:].any() and not inputs["label"][i, length:].any()
    with pytest.raises(ValueError, match="longest sentence has 6 tokens"):
        language.sentences(text, vocab, max_length=5)


def test_the_choice_is_between_the_forms_where_the_verb_is_predicted(toy):
    text, vocab = toy
    inputs = language.forced_choices(text, vocab, max_length=7)
    names = {number: name for name, number in vocab.ids.items()}
    pairs = [tuple(names[t] for t in row) for row in inputs["choices"]]
    assert pairs == [("runs", "run"), ("runs", "run"), ("is", "are"), ("is", "are")]
    for i in range(text.size):
        right = inputs["choices"][i, inputs["label"][i]]
        assert inputs["target"][i, inputs["position"][i]] == right  # what is predicted there is the verb itself


def test_items_with_an_unknown_form_are_excluded_and_counted(toy):
    text, vocab = toy
    more = encoding.join([text, examples("the dog *barks", "dogs **hunt"), examples("he *has it", others=["have"])])
    kept, unknown = language.with_known_forms(more, vocab)
    assert (kept.size, unknown) == (4, 3)
    with pytest.raises(ValueError, match="'barks' or its other form"):
        language.forced_choices(more, vocab, max_length=9)


@pytest.mark.parametrize(
    ("verb", "label", "known", "other"),
    [
        ("tries", 0, {"try", "trie"}, "try"),
        ("lies", 0, {"lie"}, "lie"),
        ("pushes", 0, {"push", "pushe"}, "push"),
        ("makes", 0, {"make"}, "make"),
        ("uses", 0, {"us", "use"}, "use"),
        ("notes", 0, {"not", "note"}, "note"),
        ("notes", 0, {"not"}, ""),
        ("dies", 0, {"dy", "die"}, "die"),
        ("underlies", 0, {"underlie"}, "underlie"),
        ("closes", 0, {"clos", "close"}, "close"),
        ("focuses", 0, {"focus"}, "focus"),
        ("poses", 0, {"pos"}, ""),
        ("uses", 0, {"us"}, ""),
        ("passes", 0, {"pass", "passe"}, "pass"),
        ("caches", 0, {"cache"}, "cache"),
        ("echoes", 0, {"echo"}, "echo"),
        ("buys", 0, {"buy"}, "buy"),
        ("has", 0, {"have", "ha"}, "have"),
        ("were", 1, {"was"}, "was"),
        ("try", 1, {"tries"}, "tries"),
        ("play", 1, {"plays"}, "plays"),
        ("push", 1, {"pushes"}, "pushes"),
        ("use", 1, {"uses", "usees"}, "uses"),
        ("note", 1, {"notes"}, "notes"),
        ("die", 1, {"dies"}, "dies"),
        ("focus", 1, {"focuses", "focuss"}, "focuses"),
        ("undo", 1, {"undos", "undoes"}, "undoes"),
        ("'s", 0, {"'"}, ""),
        ("ms", 0, {"m"}, ""),
        ("push", 1, set(), ""),
    ],
)
def test_the_other_form_is_spelled_and_known(verb, label, known, other):
    assert language.other_form(verb, label, known) == other


def constant(logits_V) -> Model:
    """A language model that predicts the same at every word."""

    def apply(params, model_state, batch, *, train, key=None):
        del train, key
        shape = (*batch["tokens"].shape, len(logits_V))
        return Outputs(jnp.broadcast_to(params["logits"][None, None], shape), {}), model_state

    return Model(lambda key, batch: {"params": {"logits": jnp.asarray(logits_V)}}, apply)


def test_answers_are_the_two_forms_and_the_sum_over_real_tokens(toy):
    text, vocab = toy
    rng = np.random.default_rng(0)
    logits_V = rng.normal(size=vocab.size).astype(np.float32)
    inputs = language.forced_choices(text, vocab, max_length=9)
    found = answer(constant(logits_V), {"params": {"logits": jnp.asarray(logits_V)}}, inputs)
    np.testing.assert_allclose(found.logits, logits_V[inputs["choices"]], atol=1e-6)
    log_probs_V = logits_V - np.log(np.exp(logits_V).sum())
    expected = [-sum(log_probs_V[vocab.ids[w]] for w in (*words, END)) for words in text.sentences]
    np.testing.assert_allclose(found.nll, expected, rtol=1e-5)
    told = summary(found, inputs)
    np.testing.assert_allclose(told["loss"], np.sum(expected) / inputs["mask"].sum(), rtol=1e-5)
    np.testing.assert_allclose(told["perplexity"], np.exp(told["loss"]))


def test_perplexity_is_of_the_corpus_not_of_sentences():
    mean, se = perplexity.token_nll(np.array([2.0, 12.0]), np.array([2, 3]))
    assert mean == 14 / 5  # not (1 + 4) / 2
    assert se > 0 and perplexity.token_nll(np.array([2.0, 3.0]), np.array([2, 3]))[1] == 0
    dataset = SimpleNamespace(inputs={"mask": np.array([[1, 1, 0], [1, 1, 1]], bool)})
    evidence = SimpleNamespace(sets={"test": dataset}, nll=lambda subject, split: np.array([2.0, 12.0]))
    subject = Subject("a/seed0@1", "a", 0, "seed0", 1, "f" * 64)
    assert perplexity.PROPERTY.higher_is_better is False
    rows = {row.metric: row for row in perplexity.measure([subject], evidence)}
    assert rows["token_nll"].value == mean and rows["token_nll"].n == 5
    np.testing.assert_allclose(rows["perplexity"].value, np.exp(mean))


def test_a_uniform_models_perplexity_is_the_vocabulary(toy):
    text, vocab = toy
    inputs = language.forced_choices(text, vocab, max_length=9)
    zeros = np.zeros(vocab.size, np.float32)
    told = summary(answer(constant(zeros), {"params": {"logits": jnp.asarray(zeros)}}, inputs), inputs)
    np.testing.assert_allclose(told["perplexity"], vocab.size, rtol=1e-5)


@pytest.fixture(scope="module")
def generated():
    return task_module.build(GrammarSettings(**SMALL, setup="language_model"))


def test_the_generated_task(generated):
    assert generated.num_classes is None
    train, test = generated.train.inputs, generated.tests["test"].inputs
    assert train["label"].shape == train["tokens"].shape == train["mask"].shape
    assert test["label"].shape == (generated.tests["test"].size,) and set(np.unique(test["label"])) == {0, 1}
    words, removed = generated.facts["sets"]["test"], generated.facts["removed"]
    assert words["coverage"]["words"] > 0.9
    assert removed.keys() == {"validation", *generated.tests}
    assert removed["nonce"] == {"word_unknown": 9, "verb_form_unknown": 25} and generated.tests["nonce"].size == 56


def test_a_real_network_answers_the_generated_task(generated):
    sizes = {"vocab_size": generated.facts["vocabulary_size"], "num_classes": None}
    model = build("lstm_tiny", **sizes, max_length=generated.facts["max_length"])
    one = {name: values[:1] for name, values in generated.train.inputs.items()}
    variables = model.init(jax.random.key(0), one)
    inputs = {name: values[:50] for name, values in generated.tests["test"].inputs.items()}
    found = answer(model, variables, inputs)
    assert isinstance(found, Answers) and found.logits.shape == (50, 2) and found.nll.shape == (50,)
    logits = np.asarray(model.apply(variables["params"], {}, inputs, train=False)[0].logits)
    at_verb = logits[np.arange(50), inputs["position"]]
    np.testing.assert_allclose(found.logits, np.take_along_axis(at_verb, inputs["choices"], 1), atol=1e-5)


PAIR = {
    "sentence_good": "Some dogs don't run.",
    "sentence_bad": "Some dogs doesn't run.",
    "one_prefix_prefix": "Some dogs",
    "one_prefix_word_good": "don't",
    "one_prefix_word_bad": "doesn't",
}


def write_pairs(path, *pairs):
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def test_minimal_pairs_are_read(tmp_path):
    single = PAIR | {"sentence_good": "A dog runs.", "one_prefix_prefix": "A dog"}
    single |= {"one_prefix_word_good": "runs", "one_prefix_word_bad": "run"}
    noise = single | {"sentence_good": "A dog sing.", "one_prefix_word_good": "sing", "one_prefix_word_bad": "singing"}
    found, unmarked = corpus.marked(corpus.read(write_pairs(tmp_path / "pairs.jsonl", PAIR, single, noise)))
    assert unmarked == 1
    assert found.sentences == [("some", "dogs", "do", "n't", "run", "."), ("a", "dog", "runs", ".")]
    assert found.verb_alternative == ["does", "run"] and found.label.tolist() == [1, 0]
    assert found.verb_index.tolist() == [2, 2]
    groups = encoding.groups(found)
    assert (groups["mu"] == 0).all() and (groups["attractors"] == -1).all() and (groups["distance"] == -1).all()


def test_another_verb_after_the_same_words_is_another_choice(tmp_path):
    def pair(good, bad):
        words = {"sentence_good": f"Some dogs {good}.", "one_prefix_word_good": good, "one_prefix_word_bad": bad}
        return PAIR | words

    pairs = [pair("run", "runs"), pair("bark", "barks"), pair("run", "runs"), pair("sleep", "sleeps")]
    pairs.append(pair("sleeps", "sleep"))  # with both numbers: there is no right answer
    read = corpus.read(write_pairs(tmp_path / "pairs.jsonl", *pairs))
    found, counts = sets.clean(read, 20, whole=True, is_asked=True)
    assert [words[2] for words in found.sentences] == ["run", "bark"]
    assert (counts["repeated"], counts["ambiguous"]) == (1, 2)
    for whole, is_asked in ((True, False), (False, True)):  # where it is an input to learn from, or the whole question
        assert sets.clean(read, 20, whole=whole, is_asked=is_asked)[0].size == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 1, column \(all\).*JSON object"),
        ("[1]", "column sentence_good.*JSON object with the texts"),
        (json.dumps({**PAIR, "one_prefix_word_bad": 3}), "column one_prefix_word_bad"),
        (json.dumps({**PAIR, "one_prefix_prefix": "All dogs"}), "begins with 'all dogs do'"),
        (json.dumps({**PAIR, "one_prefix_word_bad": "does"}), "another form of"),
    ],
)
def test_a_malformed_pair_is_named(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        corpus.read(path)


def test_real_text_blimp_and_linzen_are_evaluation_sets(data_dir):
    folder = data_dir / "agreement"
    settings = CorpusSettings(
        train=(str(folder / "docs" / "git.tsv.gz"),),
        tests=(f"blimp={folder / 'blimp'}", f"linzen={folder / 'linzen_testset'}"),
        max_length=50,
        setup="language_model",
    )
    task = task_module.build(settings)
    for name, unmarked, size in (("blimp", 1, 97), ("linzen", 4, 6_516)):
        counts = task.facts["removed"][name]
        assert counts["read"] == task.tests[name].size + sum(n for key, n in counts.items() if key != "read")
        assert (counts["unmarked"], task.tests[name].size) == (unmarked, size)
        assert counts["verb_form_unknown"] > 0
        assert task.facts["sets"][name]["coverage"]["words"] > 0.5
    blimp = task.tests["blimp"].inputs
    before = np.arange(blimp["tokens"].shape[1]) <= blimp["position"][:, None]
    assert not (before & (blimp["tokens"] == encoding.SPECIAL.index(encoding.UNKNOWN))).any()
    assert task.facts["removed"]["blimp"]["word_unknown"] > 2_000  # git's manual knows few of its nouns
