"""A loss as data: means that merge, terms that read their context, one trace, errors that help."""

import dataclasses
import functools
import itertools
import operator
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdib import losses
from kdib.losses import Mean, Term, combine, from_config, terms

B, K = 8, 3
KD = {
    "kl": {
        "fn": "softened_kl",
        "weight": 0.9,
        "temperature": 2.0,
        "schedule": {"name": "cosine", "stop": 100, "final": 0.2},
        "where": "batch.mask",
    },
    "ce": {"fn": "cross_entropy", "weight": 0.1},
}


class Outputs(NamedTuple):
    logits: jax.Array
    hidden: dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Answer:
    logits: jax.Array


def make_context(seed=0, size=B):
    student, teacher, labels, mask = jax.random.split(jax.random.key(seed), 4)
    return {
        "student": Outputs(jax.random.normal(student, (size, K)), {"block1": jnp.ones((size, 4))}),
        "teacher": Answer(jax.random.normal(teacher, (size, K))),
        "batch": {
            "label": jax.random.randint(labels, (size,), 0, K),
            "mask": jax.random.bernoulli(mask, 0.6, (size,)),
        },
    }


def with_logits(context, logits):
    return {**context, "student": context["student"]._replace(logits=logits)}


def evaluate(spec, context, step=0):
    return combine(terms(spec, context, step=step), spec, step=step)


total = jax.jit(evaluate)


# --------------------------------------------------------------------------------------------------- Mean


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.floats(-100, 100, width=32), st.booleans()), min_size=12, max_size=12))
def test_merged_means_are_the_mean_of_what_the_mask_lets_in(rows):
    values = np.asarray([value if kept else np.nan for value, kept in rows], np.float32)
    kept = np.asarray([kept for _, kept in rows])
    merged = Mean.of(values[:6], kept[:6]) + Mean.of(values[6:], kept[6:])
    assert float(merged.count) == kept.sum()
    expected = values[kept].mean() if kept.any() else np.nan
    np.testing.assert_allclose(merged.value, expected, rtol=1e-4, atol=1e-4)


def test_mean_of_nothing_is_nan():
    assert np.isnan(Mean.of(jnp.ones(3), jnp.zeros(3, bool)).value)


def test_mean_is_float32_and_a_pytree():
    mean = Mean.of(jnp.full((1000,), 1.01, jnp.bfloat16), jnp.ones(1000, jnp.int32))
    chex.assert_trees_all_equal_dtypes(mean, Mean(jnp.float32(0), jnp.float32(0)))
    np.testing.assert_allclose(mean.value, float(jnp.bfloat16(1.01)), rtol=1e-6)
    stacked = jax.vmap(Mean.of)(jnp.arange(6.0).reshape(2, 3))
    np.testing.assert_allclose(stacked.value, [1.0, 4.0])


def test_mean_shows_both_shapes():
    with pytest.raises(ValueError, match=r"\(3, 2\), got \(3,\)"):
        Mean.of(jnp.ones((3, 2)), jnp.ones(3, bool))


# ---------------------------------------------------------------------------------------- terms and combine


def test_combine_is_the_weighted_scheduled_sum_of_the_means():
    spec, context = from_config(KD), make_context()
    batch, kl_B = (
        context["batch"],
        losses.softened_kl(context["student"].logits, context["teacher"].logits, temperature=2.0),
    )
    kl = np.asarray(kl_B)[np.asarray(batch["mask"])].mean()
    ce = np.asarray(losses.cross_entropy(context["student"].logits, batch["label"])).mean()
    means = terms(spec, context, step=50)
    np.testing.assert_allclose(means["kl"].value, kl, rtol=1e-5)
    assert float(means["kl"].count) == np.asarray(batch["mask"]).sum()
    np.testing.assert_allclose(combine(means, spec, step=0), 0.9 * kl + 0.1 * ce, rtol=1e-5)
    np.testing.assert_allclose(combine(means, spec, step=50), 0.9 * 0.6 * kl + 0.1 * ce, rtol=1e-5)
    np.testing.assert_allclose(combine(means, spec, step=500), 0.9 * 0.2 * kl + 0.1 * ce, rtol=1e-5)


def test_works_under_strict_promotion(strict_dtypes):
    assert np.isfinite(total(from_config(KD), make_context(), step=jnp.int32(3)))
    assert total(from_config(KD), make_context(), step=3).dtype == jnp.float32


def test_one_trace_over_weights_temperatures_schedules_and_steps():
    chex.clear_trace_counter()
    value = jax.jit(chex.assert_max_traces(evaluate, n=1))
    context = make_context()
    seen = set()
    for weight, temperature, stop, step in [
        (1, 2, 100, 0),
        (0.5, 2.0, 100, 1),
        (0.5, 4, 100, 2),
        (0.5, 4, 7, 3),
    ]:
        schedule = {"name": "linear", "stop": stop}
        kl = {"fn": "softened_kl", "weight": weight, "temperature": temperature, "schedule": schedule}
        seen.add(float(value(from_config({"kl": kl}), context, step)))
    assert len(seen) == 4


def test_stacked_specs_vmap_to_the_loop():
    specs = [
        from_config({**KD, "kl": {**KD["kl"], "weight": weight, "temperature": temperature}})
        for weight, temperature in [(0.1, 1.0), (0.5, 2.0), (0.9, 8.0)]
    ]
    context = make_context()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *specs)
    actual = jax.vmap(lambda spec: total(spec, context, step=25))(stacked)
    np.testing.assert_allclose(actual, [total(spec, context, step=25) for spec in specs], rtol=1e-6)


def test_gradients_reach_the_weights_and_temperatures():
    grads = jax.grad(total)(from_config(KD), make_context())
    assert float(grads["kl"].weight) > 0
    assert float(grads["kl"].hparams["temperature"]) != 0


@pytest.mark.parametrize("sizes", [(4, 4), (1, 5, 2)])
def test_micro_batches_merge_to_the_loss_and_gradient_of_the_whole(sizes):
    spec, context = from_config(KD), make_context()
    parts = [
        jax.tree.map(operator.itemgetter(slice(a, b)), context) for a, b in itertools.pairwise(np.cumsum((0, *sizes)))
    ]
    add = functools.partial(jax.tree.map, operator.add)
    means = functools.reduce(add, [jax.jit(terms)(spec, part, step=0) for part in parts])
    np.testing.assert_allclose(combine(means, spec, step=0), total(spec, context), rtol=1e-6)

    @jax.jit
    @jax.grad
    def share(logits, part):
        sums = terms(spec, with_logits(part, logits), step=0)
        return combine({n: Mean(sums[n].sum, means[n].count) for n in means}, spec, step=0)

    grads = [share(part["student"].logits, part) for part in parts]
    whole = jax.grad(lambda logits: total(spec, with_logits(context, logits)))(context["student"].logits)
    np.testing.assert_allclose(jnp.concatenate(grads), whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_a_masked_example_does_not_leak_into_value_or_gradient(name, poison):
    knobs = {"label_smoothing": {"epsilon": 0.1}, "top_k_kl": {"k": 2}}
    inputs = losses.LOSSES[name].inputs
    if any("hidden" in path for path in inputs):
        inputs = ("student.logits", "teacher.logits")  # features as good as any
    needs = {**knobs.get(name, {}), "inputs": inputs}
    spec = from_config({"term": {"fn": name, "weight": 1.0, "where": "batch.mask", **needs}})
    context = make_context()
    shape = (B, 1, K, 1) if name == "attention_transfer" else (B, K)
    context["teacher"] = Answer(context["teacher"].logits.reshape(shape))
    clean = context["student"].logits.reshape(shape)
    out = ~context["batch"]["mask"].reshape(B, *(1 for _ in shape[1:]))
    assert 0 < out.sum() < B
    dirty = with_logits(context, jnp.where(out, poison, clean))
    dirty["batch"] = {**dirty["batch"], "label": jnp.where(out.reshape(B), -1, dirty["batch"]["label"])}
    value = jax.jit(jax.value_and_grad(lambda logits, context: evaluate(spec, with_logits(context, logits))))
    expected, expected_grad = value(clean, context)
    actual, actual_grad = value(dirty["student"].logits, dirty)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    np.testing.assert_allclose(actual_grad, expected_grad, rtol=1e-6)


RELATIONS = {
    "cosine_rows": {"fn": "similarity_preserving", "weight": 1.0},
    "tung_mori": {"fn": "similarity_preserving", "weight": 1.0, "form": "tung_mori"},
    "distance": {"fn": "relational_distance", "weight": 1.0},
    "angle": {"fn": "relational_angle", "weight": 1.0},
}


@pytest.mark.parametrize("settings", RELATIONS.values(), ids=RELATIONS.keys())
def test_a_mask_takes_rows_and_columns_out_of_a_relation_of_the_batch(settings):
    spec = from_config({"masked": {**settings, "where": "batch.mask"}, "whole": settings})
    keys = jax.random.split(jax.random.key(3), 2)
    student, teacher = jax.random.normal(keys[0], (B, 2, 3)), jax.random.normal(keys[1], (B, 5))
    mask = make_context()["batch"]["mask"]

    @jax.jit
    def means(student, teacher, mask):
        context = {name: {"hidden": {"penultimate": x}} for name, x in {"student": student, "teacher": teacher}.items()}
        return terms(spec, {**context, "batch": {"mask": mask}}, step=0)

    kept = np.flatnonzero(mask)
    actual = means(student, teacher, mask)
    expected = means(student[kept], teacher[kept], mask[kept])["whole"]
    np.testing.assert_allclose(actual["masked"].value, expected.value, rtol=1e-5)
    assert abs(float(actual["masked"].value - actual["whole"].value)) > 1e-3


def test_a_mask_of_tokens_leads_the_shape_of_their_logits():
    context = {
        "student": {"logits": jnp.zeros((2, 3, K)).at[1, 2].set(jnp.nan)},
        "batch": {"label": jnp.zeros((2, 3), jnp.int32), "mask": jnp.ones((2, 3), bool).at[1, 2].set(False)},
    }
    spec = from_config({"ce": {"fn": "cross_entropy", "weight": 1.0, "where": "batch.mask"}})
    mean = terms(spec, context, step=0)["ce"]
    np.testing.assert_allclose([mean.value, mean.count], [np.log(K), 5], rtol=1e-6)


def test_a_custom_loss_needs_no_registration():
    def power(student_features, target, *, scale, power: int = 2):
        return scale * jnp.sum((student_features - target[:, None]) ** power, axis=-1)

    spec = {"p": Term.of(power, ("student.hidden.block1", "batch.target"), weight=2, hparams={"scale": 0.5})}
    assert spec["p"].options == (("power", 2),)
    context = make_context()
    context["batch"]["target"] = jnp.full((B,), 3.0)
    np.testing.assert_allclose(total(spec, context), 2 * 0.5 * 4 * 4.0)


def test_a_custom_relation_is_handed_the_mask_of_examples():
    def centered(features, *, where: losses.ExampleMask = None):
        return features[:, 0] - jnp.mean(features[:, 0], where=where)

    spec = {"c": Term.of(centered, ("student.logits",), weight=1.0, where="batch.mask")}
    context = make_context()
    np.testing.assert_allclose(terms(spec, context, step=0)["c"].sum, 0, atol=1e-5)


# ---------------------------------------------------------------------------------------------- from_config


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
    with pytest.raises(ValueError, match=f"loss term {name!r}: .*not one of student, teacher, batch, and without dots"):
        losses.projectors({name: HINT})


KL = {"fn": "softened_kl", "weight": 1.0}
BAD = {
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
