"""From a mapping to a loss: every field is used, and a mistake is one line that says what there is."""

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from loss_context import KD, B, Outputs, make_context, total

from kdib import losses
from kdib.losses import Mean, combine, from_config, terms


def test_defaults_come_from_the_signature_and_leaves_are_float32():
    term = from_config({"kl": {"fn": "softened_kl", "weight": 1}})["kl"]
    assert term.inputs == ("student.logits", "teacher.logits")
    assert (term.where, term.options) == (None, (("axis", -1), ("direction", "forward")))
    assert set(term.hparams) == {"temperature"}
    assert float(term.hparams["temperature"]) == 1.0
    assert all(leaf.dtype == jnp.float32 and not leaf.weak_type for leaf in jax.tree.leaves(term))


def test_every_field_is_used():
    kl = {"fn": "softened_kl", "weight": 1.0, "temperature": 3, "direction": "reverse", "axis": 0}
    spec = from_config({"kl": {**kl, "inputs": ["student.logits", "peer.logits"]}})
    first, second = make_context(1)["student"], make_context(2)["student"]
    actual = total(spec, {"student": first, "peer": second})
    expected = losses.softened_kl(first.logits, second.logits, temperature=3.0, direction="reverse", axis=0)
    np.testing.assert_allclose(actual, expected.mean(), rtol=1e-6)


def test_a_weight_of_none_drops_the_term():
    config = {**KD, "smooth": {"fn": "label_smoothing", "weight": None, "epsilon": None}}
    assert sorted(from_config(config)) == ["ce", "kl"]


def test_a_config_dict_gives_the_same_spec():
    chex.assert_trees_all_equal(from_config(ml_collections.ConfigDict(KD)), from_config(KD))


LAYERS = ("student.hidden.hidden2", "teacher.hidden.pool")
HINT = {"fn": "hint", "weight": 1.0, "inputs": LAYERS, "projector": "linear"}


def test_a_projector_stands_between_the_students_layer_and_the_loss():
    config = {
        "fm": HINT,
        "maps": {"fn": "feature_l1", "weight": 0.5, "projector": "conv"},
        "plain": {**HINT, "projector": ""},
        "dropped": {**HINT, "weight": None},
    }
    spec = from_config(config)
    assert {name: term.inputs for name, term in spec.items()} == {
        "fm": ("fm.logits", "teacher.hidden.pool"),
        "maps": ("maps.logits", "teacher.hidden.penultimate"),
        "plain": LAYERS,
    }
    penultimate = ("student.hidden.penultimate", "teacher.hidden.penultimate")
    assert losses.projectors(config) == {"fm": ("linear", *LAYERS), "maps": ("conv", *penultimate)}
    assert losses.projectors(KD) == {}


def test_a_term_with_a_projector_reads_its_heads_output():
    pool = jnp.ones((B, 5))
    context = {"teacher": {"hidden": {"pool": pool}}, "fm": Outputs(pool + 3, {})}
    np.testing.assert_allclose(total(from_config({"fm": HINT}), context), 9.0)


@pytest.mark.parametrize("name", ["student", "batch", "f.m"])
def test_a_projectors_term_needs_a_name_of_its_own(name):
    with pytest.raises(ValueError, match=f"loss term {name!r}: .*none of student, teacher, batch and have no dots"):
        losses.projectors({name: HINT})


KL = {"fn": "softened_kl", "weight": 1.0}
BAD = {
    "temperature of zero": ({**KL, "temperature": 0.0}, r"temperature must be a number > 0, got 0\.0"),
    "temperature below zero": ({**KL, "temperature": -1}, "temperature must be a number > 0, got -1"),
    "temperature in words": ({**KL, "temperature": "0"}, "temperature must be a number, got '0'"),
    "paths of numbers": ({**KL, "inputs": (1, 2)}, r"inputs must be 2 paths such as .*got \(1, 2\)"),
    "a stair of no width": (
        {**KL, "schedule": {"name": "step", "every": 0, "factor": 0.5}},
        "every must be a number > 0, got 0",
    ),
    "not finite": ({**KL, "weight": float("nan")}, "weight must be a number, got nan"),
    "smoothed beyond": (
        {"fn": "label_smoothing", "weight": 1.0, "epsilon": 2.0},
        "epsilon must be a number from 0 to 1, got 2",
    ),
    "projector": ({**HINT, "projector": "mlp"}, "unknown projector 'mlp'; known: conv, linear"),
    "projector of one": (
        {"fn": "entropy_penalty", "weight": 1.0, "projector": "linear"},
        "a projector needs a student's and a teacher's layer",
    ),
    "loss": (
        {"fn": "kl", "weight": 1.0},
        "unknown loss 'kl'; known: attention_transfer, cosine, cross_entropy, entropy_pen",
    ),
    "field": (
        {**KL, "temprature": 2.0},
        "unknown field 'temprature'; known: axis, direction, fn, inputs, projector, sched",
    ),
    "schedule": (
        {**KL, "schedule": {"name": "steps"}},
        "unknown schedule 'steps'; known: constant, cosine, cosine_restarts, exponential, hold, linear, step, step_at",
    ),
    "nameless schedule": ({**KL, "schedule": {"stop": 3}}, "missing 'name'; there is: stop"),
    "bare schedule": ({**KL, "schedule": "cosine"}, "expected a mapping with 'name', got 'cosine'"),
    "schedule's knob": (
        {**KL, "schedule": {"name": "linear", "end": 3}},
        "unknown schedule argument 'end'; known: final, initial, start, stop",
    ),
    "schedule's need": ({**KL, "schedule": {"name": "linear"}}, "missing schedule argument stop"),
    "schedule's list": (
        {**KL, "schedule": {"name": "step_at", "factor": 0.1, "boundaries": 150}},
        "boundaries must be a list of numbers, got 150",
    ),
    "schedule's words": (
        {**KL, "schedule": {"name": "step_at", "factor": 0.1, "boundaries": ["soon"]}},
        r"boundaries must be a list of numbers, got \['soon'\]",
    ),
    "direction": (
        {**KL, "direction": "up"},
        "unknown direction 'up'; known: forward, jensen_shannon, reverse",
    ),
    "need": ({"fn": "label_smoothing", "weight": 1.0}, "missing argument epsilon"),
    "fn": ({"weight": 1.0}, "missing 'fn'; there is: weight"),
    "weight": ({"fn": "softened_kl"}, "missing 'weight'; there is: fn"),
    "no number": ({**KL, "temperature": "hot"}, "temperature must be a number, got 'hot'"),
    "nothing": ({**KL, "temperature": None}, "temperature must be a number, got None"),
    "no scalar": ({**KL, "weight": (1.0, 2.0)}, "weight must be a scalar, got shape \\(2,\\)"),
    "no int": ({**KL, "axis": 0.5}, "axis must be of type int, got 0.5"),
    "one input": ({**KL, "inputs": "student.logits"}, "inputs must be 2 paths"),
    "no mapping": (1.0, "expected a mapping with 'fn', got 1.0"),
}


@pytest.mark.parametrize(("settings", "message"), BAD.values(), ids=BAD.keys())
def test_a_mistake_is_one_line_that_lists_what_is_known(settings, message):
    with pytest.raises(ValueError, match=f"^loss term 'my_term': {message}") as caught:
        from_config({"my_term": settings})
    assert "\n" not in str(caught.value)


def test_a_loss_without_terms_is_refused():
    with pytest.raises(ValueError, match="needs a term whose weight is not None"):
        from_config({"kl": {**KL, "weight": None}})


PATHS = {
    "peer.logits": "no 'peer' in the context .*there is: batch, student, teacher",
    "student.logit": r"no 'logit' in 'student' .*there is: logits \[8, 3\], hidden",
    "teacher.hidden.block1": r"no 'hidden' in 'teacher' .*there is: logits \[8, 3\]",
    "student.hidden.block9": r"no 'block9' in 'hidden' .*there is: block1 \[8, 4\]",
    "batch.lable": r"no 'lable' in 'batch' .*there is: label \[8\], mask \[8\]",
    "batch.label.more": "no 'more' in 'label' .*there is: nothing",
}


@pytest.mark.parametrize(("path", "message"), PATHS.items())
def test_a_path_that_leads_nowhere_says_what_is_there(path, message):
    spec = from_config({"kl": {**KL, "inputs": ("student.logits", path)}})
    with pytest.raises(ValueError, match=f"loss term 'kl': {message}"):
        total(spec, make_context())


def test_errors_in_shapes_name_the_term():
    spec, context = from_config({"kl": KL}), make_context()
    with pytest.raises(ValueError, match=r"loss term 'kl': .*\(8, 3\) and \(8, 2\)"):
        terms(spec, {**context, "teacher": {"logits": jnp.zeros((B, 2))}}, step=0)
    context["batch"]["mask"] = jnp.ones((5,), bool)
    with pytest.raises(ValueError, match=r"loss term 'kl': the mask's shape \(5,\) .*\(8, 3\)"):
        terms(from_config(KD), context, step=0)


def test_a_missing_mean_is_named():
    with pytest.raises(ValueError, match="missing 'kl'; there is: ce"):
        combine({"ce": Mean.of(jnp.ones(2))}, from_config(KD), step=0)
