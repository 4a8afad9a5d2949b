"""A loss as data: terms that read their context, one trace, micro-batches that merge, masks that hold."""

import functools
import itertools
import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_context import KD, Answer, B, K, evaluate, make_context, total, with_logits

from kdib import losses
from kdib.losses import Mean, Term, combine, from_config, terms


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


def test_what_is_no_spec_is_named():
    with pytest.raises(ValueError, match=r"inputs must be paths such as \('student\.logits',\), got 'student\.logits'"):
        Term.of(losses.entropy_penalty, "student.logits", weight=1.0)
    with pytest.raises(ValueError, match=r"expected a spec of Terms, .*from_config builds one"):
        losses.terms({"ce": {"fn": "cross_entropy", "weight": 1.0}}, {}, step=0)
