"""A configuration that does not hold together is refused in one line, before anything runs."""

import importlib.util
import pathlib

import numpy as np
import pytest

from kdib import tasks
from kdib.checks import check_names
from kdib.config import Fit, as_dict, difference, parse, topological
from kdib.fields import flatten
from kdib.main import load_config

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


def loaded(name):
    spec = importlib.util.spec_from_file_location("config_under_test", CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(variants="", name="lstm_to_transformer"):
    return loaded(name).get_config(variants).to_dict()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_config_and_each_of_its_variants_holds_together(path, tmp_path):
    variants = loaded(path.stem).VARIANTS
    assert "smoke" in variants
    for variant in ("", *variants, *(f"{name},smoke" for name in variants)):
        config = load(variant, path.stem)
        if config["task"]["source"] in ("corpus", "stream"):
            config["task"]["train"] = (str(tmp_path),)
        check_names(parse(config))


@pytest.mark.parametrize("variants", ["", "full", "corpus", "smoke", "full,smoke", "corpus,smoke", "smoke,corpus,full"])
def test_every_variant_parses(variants):
    study = parse(load(variants))
    assert set(study.fits) >= {"teacher", "peer", "alone", "self", "distilled"}
    assert study.task["source"] == ("corpus" if "corpus" in variants else "grammar")
    assert study.seeds == (2 if "smoke" in variants else 5 if "full" in variants else 3)


def test_an_unknown_variant_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'smok'.*full, online, basins, corpus, stream, smoke"):
        load("smok")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ("train", "step"),
            3,
            r"config\.train\.step: 'step' is unknown\. Did you mean 'steps'\? Known: steps, batch_size",
        ),
        (("train", "schedule"), "cosine", r"config\.train\.schedule must be a mapping, got 'cosine'"),
        (("train", "steps"), "many", r"config\.train\.steps must be int, got 'many'"),
        (("train", "steps"), True, r"config\.train\.steps must be int, got True"),
        (("fits", "alone", "model"), "cnn", r"config\.fits\.alone\.model: 'cnn' is unknown\. Known: lstm, transformer"),
        (("fits", "self", "teacher"), "pear", r"Did you mean 'peer'"),
        (("fits", "self", "loss"), "focal", r"'focal' is unknown\. Known: labels, kd"),
        (("fits", "self", "answers"), "tables", r"Known: table, live"),
        (("fits", "alone", "shuffle"), True, r"shuffle needs a teacher"),
        (("fits", "self", "teacher"), "alone", r"would start from its teacher's own weights"),
        (("fits", "peer", "teacher"), "self", r"learn from itself: peer <- self <- peer"),
        (("roles", "distilled"), "distiled", r"Did you mean 'distilled'"),
        (("roles", "self"), "peer", r"config\.fits\.self has the name of a role, which config\.roles gives to 'peer'"),
        (
            ("losses", "kd", "kl", "weight"),
            np.float32(0.5),
            r"config\.losses\.kd\.kl\.weight must be a plain number, .* of type float32",
        ),
        (("losses", "kd", "kl", "weight"), float("inf"), r"config\.losses\.kd\.kl\.weight must be finite, got inf"),
        (("tune", "learning_rates"), "1e-3", r"must be a tuple"),
        (("tune", "learning_rates"), ("a",), r"learning_rates\[0\] must be float"),
        (("seeds",), 0, r"config\.seeds must be a whole number >= 1, got 0"),
        (("train", "save_every"), 0, r"config\.train\.save_every must be a whole number >= 1"),
        (("train", "learning_rate"), True, r"config\.train\.learning_rate must be float, got True"),
        (("train", "learning_rate"), float("nan"), r"config\.train\.learning_rate must be a number > 0, got nan"),
        (("train", "clip_norm"), -1.0, r"config\.train\.clip_norm must be a number > 0, got -1\.0"),
        (("train", "weight_decay"), -1.0, r"config\.train\.weight_decay must be a number >= 0"),
        (("train", "warmup_steps"), -50, r"config\.train\.warmup_steps must be a whole number >= 0"),
        (("tune",), {"learning_rates": (1e-3, -1e-3), "seeds": 1}, r"learning_rates must be a number > 0, got -0\.001"),
        (("tune",), {"learning_rates": (1e-3, 1e-3), "seeds": 1}, r"learning_rates must be different"),
        (("tune",), {"learning_rates": (1e-3,), "seeds": 0}, r"config\.tune\.seeds must be a whole number >= 1, got 0"),
        (("published",), {"rows": {"ece": {"ece": {"alone": 0.1}}}}, r"config\.published lacks 'source'"),
        (
            ("published",),
            {"rows": {"ece": {"ece": {"alone": "x"}}}},
            r"rows\.ece\.ece\.alone must be a number, got 'x'",
        ),
        (("published",), {"source": "a", "rows": {"ece": 0.1}}, r"published\.rows\.ece: expected a mapping two levels"),
        (("train", "window"), 8, r"config\.train\.window must be 0 or at least batch_size=64, got 8"),
        (("train", "buckets"), (20, 10), r"config\.train\.buckets must be increasing lengths, got \(20, 10\)"),
        (("train", "buckets"), (0, 10), r"config\.train\.buckets must be increasing lengths"),
    ],
)
def test_what_is_wrong_is_named(path, value, message):
    config = load()
    node = config
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    with pytest.raises(ValueError, match=message) as error:
        parse(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"steps": 40},
            r"config\.train, of fit teacher: train\.warmup_steps=50 must be from 0 to less than its 40 steps",
        ),
        (
            {"snapshots": {"name": "explicit", "steps": (900,)}},
            r"config\.train\.snapshots, of fit teacher: snapshot steps \[900\] are outside",
        ),
        ({"snapshots": {"n": 3}}, r"config\.train\.snapshots lacks 'name'; known: every"),
    ],
)
def test_what_does_not_fit_the_length_of_a_fit_names_field_and_fit(change, message):
    config = load()
    config["train"] |= change
    with pytest.raises(ValueError, match=message):
        check_names(parse(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratios": (0.9, 0.1)}, r"config\.task\.ratios must have 3 values, got \(0\.9, 0\.1\)"),
        ({"ratios": (0.9, 0.0, 0.2)}, r"config\.task\.ratios: found \(0\.9, 0\.0, 0\.2\), expected shares"),
        ({"vocabulary_size": 0}, r"config\.task\.vocabulary_size must be a whole number >= 1, got 0"),
        ({"max_per_set": -20}, r"config\.task\.max_per_set must be a whole number >= 0, got -20"),
        ({"seed": -1}, r"config\.task\.seed must be a whole number from 0"),
    ],
)
def test_settings_of_a_corpus_are_checked_before_it_is_read(change, message):
    config = load("corpus")
    config["task"] |= change
    with pytest.raises(ValueError, match=message):
        tasks.settings(config["task"])


@pytest.mark.parametrize("field", ["n_train", "n_validation", "n_test_per_group"])
def test_settings_of_the_grammar_are_checked(field):
    config = load()
    config["task"][field] = 0
    with pytest.raises(ValueError, match=rf"config\.task\.{field} must be a whole number >= 1, got 0"):
        tasks.settings(config["task"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{}", "is not a Python file with get_config"),
        ("nothing.py", "x = 1", "is not a Python file with get_config"),
        ("bare.py", "def get_config():\n    return 1", "is not a Python file with get_config"),
        ("two.py", "def get_config(variants, size):\n    return 1", "is not a Python file with get_config"),
        ("plain.py", "def get_config(variants):\n    return {}", "-> ConfigDict; it returns dict"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(str(tmp_path / name))


@pytest.mark.parametrize("seeds", ["main", "reordered"])
def test_a_student_that_is_its_teachers_network_under_another_name_is_refused(seeds):
    config = load()
    network = config["models"]["transformer"]
    config["models"]["copy"] = {name: value for name, value in network.items() if value is not None}
    config["fits"]["self"] |= {"model": "copy", "teacher": "alone", "seeds": seeds}
    with pytest.raises(ValueError, match=r"own weights: model 'copy' with .* is the network of alone, model 'transf"):
        parse(config)
    config["models"]["copy"]["width"] = 16
    parse(config)


def test_a_lent_teacher_and_a_grid_do_not_go_together():
    config = load("full")
    config["fits"]["teacher"]["path"] = "elsewhere/fits/teacher"
    with pytest.raises(ValueError, match=r"teacher\.path: a grid"):
        parse(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ensemble": "mean_logit"}, r"alone\.ensemble='mean_logit' needs a teacher"),
        ({"ensemble": "median"}, r"alone\.ensemble: 'median' is unknown.* mean_probability, mean_logit"),
        ({"budget": 0.0}, r"alone\.budget=0\.0 of train\.steps=\d+ must be at least one step"),
        ({"budget": float("nan")}, r"alone\.budget=nan"),
    ],
)
def test_a_control_that_cannot_be_is_named(fields, message):
    config = load()
    config["fits"]["alone"] |= fields
    with pytest.raises(ValueError, match=message):
        parse(config)


def test_a_language_model_that_would_learn_padding_is_refused():
    config = load("language", "agreement_losses")
    del config["losses"]["kd"]["kl"]["where"]
    with pytest.raises(ValueError, match=r"loss='kd' would learn from the padding .*\(kl\).*where='batch.mask'"):
        check_names(parse(config))


def test_losses_on_language_models_have_networks_and_recipe_of_the_grid():
    """With the classifiers' recipe, dropout among it, no LSTM learns agreement from words."""
    losses, grid = load("language", "agreement_losses"), load("language", "agreement_grid")
    assert losses["models"] == {name: grid["models"][name] for name in losses["models"]}
    assert losses["train"] == grid["train"] | {"steps": 8_000}


@pytest.mark.parametrize(
    ("variants", "networks"),
    [
        ("", ("lstm", "ut_seq", "transformer_seq", "transformer")),
        ("language", ("lstm", "ut_seq", "transformer")),
        ("sizes", ("lstm", "small_lstm", "transformer", "small_transformer")),
        ("language,sizes,smoke", ("lstm", "small_lstm", "transformer", "small_transformer")),
    ],
)
def test_every_network_of_the_grid_learns_from_every_one_and_no_two_are_alike(variants, networks):
    config = load(variants, "agreement_grid")
    assert set(config["models"]) == set(networks)
    assert {s: set(row) for s, row in config["grid"].items()} == {s: {"alone", *networks} for s in networks}
    assert len({str(model) for model in config["models"].values()}) == len(networks)
    for student, row in config["grid"].items():
        for column, fit in row.items():
            teacher = {"alone": "", student: f"{student}_peer"}.get(column, column)
            assert (config["fits"][fit]["model"], config["fits"][fit]["teacher"]) == (student, teacher)


PUBLISHED = {  # (variants, metric, student): {column: value}, from the paper's tables and its public sheets
    ("", "mu-accuracy", "transformer"): {"alone": 0.954, "lstm": 0.960, "transformer": 0.956},
    ("", "mu-accuracy", "lstm"): {"alone": 0.977, "ut_seq": 0.974, "transformer": 0.968},
    ("", "ece", "ut_seq"): {"alone": 0.037, "lstm": 0.034, "transformer_seq": 0.053},
    ("", "A-accuracy", "ut_seq"): {"alone": 0.807, "lstm": 0.845, "ut_seq": 0.804},
    ("language", "A-accuracy", "lstm"): {"alone": 0.9350, "lstm": 0.9275, "small_transformer": 0.9257},
    ("language", "A-accuracy", "transformer"): {"alone": 0.9127, "lstm": 0.9296, "transformer": 0.8956},
    ("language", "A-accuracy", "small_transformer"): {"small_lstm": 0.9233, "transformer": 0.8827},
}


def test_the_published_digits_are_those_of_the_paper():
    rows = load("full,mnist", "cnn_to_mlp")["published"]["rows"]
    accuracy, ece = (rows[name] for name in ("accuracy", "calibration"))
    assert [accuracy[f"accuracy{of}"]["distilled"] for of in ("", ", scaled", ", translated")] == [0.988, 0.904, 0.510]
    assert [ece[f"ece{of}"]["self"] for of in ("", ", scaled", ", translated")] == [0.015, 0.155, 0.555]
    assert accuracy["accuracy, translated"]["reverse"] == 0.976 and ece["ece"]["teacher"] == 0.011
    assert not load("", "cnn_to_mlp")["published"]["rows"]  # generated digits are not MNIST


@pytest.mark.parametrize("variants, metric, student", PUBLISHED)
def test_the_published_tables_are_those_of_the_paper(variants, metric, student):
    row = load(variants, "agreement_grid")["published"]["grid"][metric][student]
    expected = PUBLISHED[variants, metric, student]
    assert {column: row[column] for column in expected} == expected


def test_a_missing_field_is_named():
    config = load()
    del config["train"]["steps"]
    with pytest.raises(ValueError, match=r"config\.train lacks steps"):
        parse(config)


def test_a_recipe_without_regularisers_still_parses():
    config = load()
    del config["train"]["l1"], config["train"]["l2"]
    assert (parse(config).train.l1, parse(config).train.l2) == (0.0, 0.0)


def test_teachers_come_before_their_students():
    fits = parse(load("full")).fits
    order = topological(dict(reversed(fits.items())))
    for name, fit in fits.items():
        assert not fit.teacher or order.index(fit.teacher) < order.index(name)
    smoothed = Fit("transformer", "smoothing", match_entropy="soft")
    assert topological({"smoothed": smoothed, "soft": Fit("lstm", "labels")}) == ["soft", "smoothed"]


def test_only_what_no_run_depends_on_may_change():
    old = as_dict(parse(load()))
    new = load() | {
        "seeds": 5,
        "title": "other",
        "properties": ("accuracy",),
        "published": {"source": "none", "rows": {}},
    }
    assert difference(old, as_dict(parse(new))) == []
    new["train"]["steps"] = 7
    assert difference(old, as_dict(parse(new))) == [f"train.steps: {old['train']['steps']} -> 7"]


def test_seeds_may_not_change_under_an_ensemble():
    config = load()
    config["fits"]["self"]["ensemble"] = "mean_logit"
    old = as_dict(parse(config))
    assert difference(old, as_dict(parse(config | {"seeds": 7}))) == [f"seeds: {old['seeds']} -> 7"]


def test_flatten_keeps_tuples_and_lists_alike():
    assert flatten({"a": {"b": (1, 2)}, "c": []}) == flatten({"a": {"b": [1, 2]}, "c": ()})


def test_a_new_fit_changes_no_other_but_a_changed_one_does():
    config = load()
    old = as_dict(parse(config))
    fit = {**config["fits"]["alone"], "seeds": "reordered"}
    more = config | {"fits": {**config["fits"], "alone_reordered": fit}}
    assert difference(old, as_dict(parse(more))) == []
    assert difference(as_dict(parse(more)), old) != []  # its folder would be there for nothing
    other = config | {"fits": {**config["fits"], "alone": fit}}
    assert difference(old, as_dict(parse(other))) == ["fits.alone.seeds: main -> reordered"]
