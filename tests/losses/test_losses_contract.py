"""The contract of a loss: one row of `loss_rows.ROWS` buys the whole suite.

A row declares which clauses apply to its loss; clauses that hold for every loss need no declaration.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from loss_rows import ROWS, B, K, draw, rows

from kdib import losses


@pytest.fixture(autouse=True)
def strict(strict_dtypes):
    """Every clause holds under strict dtype promotion; conftest forbids implicit rank promotion."""


def test_every_registered_loss_has_a_row():
    assert {row.fn for row in ROWS.values()} >= {loss.fn for loss in losses.LOSSES.values()}


@rows()
def test_closed_form(row):
    first, second = draw(row)
    actual = row.call(first, second)
    assert actual.shape == (B,)
    with jax.numpy_dtype_promotion("standard"):
        expected = row.closed_form(np.asarray(first, np.float64), np.asarray(second), **row.hparams)
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6)


@rows()
def test_gradient_is_that_of_finite_differences(row):
    first, second = draw(row)
    check_grads(lambda logits: row.call(logits, second), (first,), order=1, modes=["fwd", "rev"], eps=1e-2, rtol=5e-3)


@rows(lambda row: row.second == "teacher")
def test_no_gradient_reaches_the_teacher(row):
    first, second = draw(row)
    wrt_student, wrt_teacher = jax.grad(lambda s, t: row.call(s, t).sum(), argnums=(0, 1))(first, second)
    assert np.all(np.asarray(wrt_teacher) == 0)
    assert np.any(np.asarray(wrt_student) != 0)


@rows(lambda row: row.zero_at_equality)
def test_zero_at_equality(row):
    logits, _ = draw(row)
    np.testing.assert_allclose(row.call(logits, logits), 0, atol=1e-6)
    _, (grad, _) = row.grad(logits, row.traced, logits)
    np.testing.assert_allclose(grad, 0, atol=1e-6)


@rows(lambda row: row.zero_at_equality)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 30))
def test_never_negative(row, seed, scale):
    first, second = draw(row, seed=seed)
    values = np.asarray(row.call(first * jnp.float32(scale), second))
    assert np.all(values >= -1e-5)


@rows(lambda row: row.on_logits)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), shift=st.floats(-50, 50))
def test_invariant_to_a_shift_of_the_logits(row, seed, shift):
    first, second = draw(row, seed=seed)
    shifted = second - jnp.float32(shift) if row.second == "teacher" else second
    actual = row.call(first + jnp.float32(shift), shifted)
    np.testing.assert_allclose(actual, row.call(first, second), rtol=1e-4, atol=1e-4)


@rows(lambda row: row.limit)
def test_limit_of_high_temperature_is_matching_logits(row):
    student, teacher = draw(row)
    difference = np.asarray(student - teacher, np.float64)
    difference -= difference.mean(-1, keepdims=True)
    keywords = {**row.hparams, "temperature": 100.0}
    expected = row.limit * np.mean(difference**2, -1)
    np.testing.assert_allclose(row.fn(student, teacher, **keywords), expected, rtol=0.05, atol=5e-3)


@rows(lambda row: row.on_logits)
def test_mask_equals_subset(row):
    first, second = draw(row)
    keep = np.array([True, False, True, True, False])
    kept = np.flatnonzero(keep)
    second_kept = second[:, kept] if row.second == "teacher" else jnp.asarray(np.arange(B) % len(kept))
    second_all = second if row.second == "teacher" else jnp.asarray(kept[np.arange(B) % len(kept)])
    poisoned = first.at[:, 1].set(jnp.nan)  # what is masked must not matter, in value or gradient
    where = jnp.asarray(keep)[None, :]
    expected = row.call(first[:, kept], second_kept)
    np.testing.assert_allclose(row.call(poisoned, second_all, where=where), expected, rtol=1e-5)
    _, (grad, _) = row.grad(poisoned, row.traced, second_all, jnp.broadcast_to(where, (B, K)))
    _, (grad_kept, _) = row.grad(first[:, kept], row.traced, second_kept)
    np.testing.assert_allclose(grad[:, kept], grad_kept, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(grad[:, ~keep], 0)


@rows(lambda row: row.relational)
def test_mask_of_examples_equals_subset(row):
    first, second = draw(row)
    kept = jnp.asarray([0, 2, 3, 5])
    where = jnp.zeros(B, bool).at[kept].set(True)
    poisoned, poisoned_second = (x.at[1].set(jnp.nan).at[4].set(jnp.inf) for x in (first, second))
    expected = row.call(first[kept], second[kept])
    np.testing.assert_allclose(row.call(poisoned, poisoned_second, where=where)[kept], expected, rtol=1e-5)

    def total(first, second, where):
        return losses.Mean.of(row.call(first, second, where=where), where).sum

    grad = jax.grad(total)(poisoned, poisoned_second, where)
    _, (grad_kept, _) = row.grad(first[kept], row.traced, second[kept])
    np.testing.assert_allclose(grad[kept], grad_kept, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(grad[~where], 0)


@rows(lambda row: row.on_logits)
@pytest.mark.parametrize("axis", [0, -2])
def test_axis_equals_moveaxis(row, axis):
    first, second = draw(row, shape=(2, 3, K))
    where = jnp.asarray([True, True, False, True, True])[None, None, :]
    if row.second == "labels":
        second = jnp.where(second == 2, 0, second)

    def move(array):
        return jnp.moveaxis(array, -1, axis)

    moved = move(second) if row.second == "teacher" else second
    actual = row.call(move(first), moved, axis=axis, where=move(where))
    np.testing.assert_allclose(actual, row.call(first, second, where=where), rtol=1e-6)


@rows()
def test_bfloat16_in_float32_out(row):
    first, second = draw(row)
    low = first.astype(jnp.bfloat16)
    low_second = second.astype(jnp.bfloat16) if row.second == "teacher" else second
    actual = row.call(low, low_second)
    assert actual.dtype == jnp.float32
    high = [x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x for x in (low, low_second)]
    # Two programs, so not the same last bits; computed in bfloat16 the third digit would differ.
    np.testing.assert_allclose(actual, row.call(*high), rtol=2e-6)


@rows()
def test_jit_with_traced_hyper_parameters_equals_eager(row):
    first, second = draw(row)
    value, _ = row.grad(first, row.traced, second)
    eager = row.eager(first, second)
    np.testing.assert_allclose(value, eager.sum(), rtol=1e-5)
    np.testing.assert_allclose(row.call(first, second), eager, rtol=1e-5)


@rows()
def test_vmap_equals_loop(row):
    first, second = draw(row, shape=(3, *row.shape))
    actual = jax.vmap(row.call)(first, second)
    expected = jnp.stack([row.call(x, y) for x, y in zip(first, second, strict=True)])
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@rows(lambda row: row.traced)
def test_vmap_over_hyper_parameters_equals_loop(row):
    first, second = draw(row)
    for name, value in row.traced.items():
        sweep = jnp.asarray([0.5 * value, value, 2 * value], jnp.float32)
        actual, _ = jax.vmap(lambda v, name=name: row.grad(first, {**row.traced, name: v}, second))(sweep)
        expected = [row.grad(first, {**row.traced, name: float(v)}, second)[0] for v in sweep]
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
        assert not np.allclose(actual[0], actual[2])


IMPOSSIBLE = {
    "-inf": -jnp.inf,
    "the smallest float": float(np.finfo(np.float32).min),
    "-1e4, whose probability underflows": -1e4,
}


@rows(lambda row: row.on_logits)
@pytest.mark.parametrize("logit", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_finite_at_zero_probability(row, logit, side):
    first, second = draw(row)
    if row.second == "labels":
        second = second.at[:2].set(0)  # one impossible label and one possible
    first = first.at[1:, 0].set(logit) if side != "teacher" else first
    second = second.at[1:, 0].set(logit) if side != "student" and row.second == "teacher" else second
    value_and_grads = row.grad(first, row.traced, second)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(value_and_grads))


DEAD = {
    "zero in the student": lambda x: (x.at[2:4].set(0), x + 1),
    "zero in the teacher": lambda x: (x, (x + 1).at[2:4].set(0)),
    "all zero in both": lambda x: (x * 0, x * 0),
    "all zero in the student": lambda x: (x * 0, x),
    "examples that coincide": lambda x: (x.at[1:4].set(x[0]), x),
    "all examples coincide": lambda x: (jnp.ones_like(x), x),
    "squares below the smallest float": lambda x: (x * 1e-25, x),
    "cubes of lengths below the smallest float": lambda x: (x * 1e-14, x + 1),
}


@rows(lambda row: not row.on_logits)
def test_finite_where_features_are_dead(row):
    for case, make in DEAD.items():
        first, second = make(draw(row)[0])
        value_and_grads = row.grad(first, row.traced, second)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(value_and_grads)), case


@rows(lambda row: row.on_logits and row.second == "teacher")
def test_a_class_impossible_for_both_is_as_if_absent(row):
    student, teacher = draw(row)
    expected = row.call(student[:, 1:], teacher[:, 1:])
    actual = row.call(student.at[:, 0].set(-jnp.inf), teacher.at[:, 0].set(-jnp.inf))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@rows(lambda row: not row.relational)
@pytest.mark.parametrize("sizes", [(1, 3, 2)])
def test_any_split_into_micro_batches_gives_the_mean_of_the_whole(row, sizes):
    first, second = draw(row)
    edges = np.cumsum((0, *sizes))
    means = [losses.Mean.of(row.call(first[a:b], second[a:b])) for a, b in itertools.pairwise(edges)]
    merged = functools.reduce(lambda a, b: a + b, means)
    np.testing.assert_allclose(merged.value, np.mean(np.asarray(row.call(first, second))), rtol=1e-6)


@rows()
def test_shape_errors_show_both_shapes(row):
    first, second = draw(row)
    if row.second != "none":
        with pytest.raises(ValueError, match=r"\(6,[ \d,]*\).*\(5,"):
            row.call(first, second[:-1])
    for name in row.traced:
        with pytest.raises(ValueError, match=rf"{name} must be a scalar, got shape \(6,\)"):
            row.eager(first, second, **{name: jnp.ones(B)})


@rows(lambda row: row.on_logits)
def test_a_mask_that_does_not_fit_shows_both_shapes(row):
    first, second = draw(row)
    with pytest.raises(ValueError, match=r"\(6, 5\).*\(5,\)"):
        row.call(first, second, where=jnp.ones(K, bool))
    with pytest.raises(ValueError, match=r"\(6, 5\).*\(1, 4\)"):
        row.call(first, second, where=jnp.ones((1, 4), bool))
