"""What is particular to relations of a batch: what they do not see, dead features, published means, shapes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib import losses

N, D, E = 6, 5, 3
KEYS = jax.random.split(jax.random.key(0), 3)
STUDENT, TEACHER = jax.random.normal(KEYS[0], (N, D)), jax.random.normal(KEYS[1], (N, E))


def test_similarity_preserving_sees_neither_length_nor_basis():
    expected = losses.similarity_preserving(STUDENT, TEACHER)
    turned = jnp.matmul(TEACHER, jnp.linalg.qr(jax.random.normal(KEYS[2], (E, E)))[0], precision="highest")
    lengths = jnp.exp(jax.random.normal(KEYS[2], (N, 1)))
    np.testing.assert_allclose(losses.similarity_preserving(STUDENT * lengths, turned), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses.similarity_preserving(turned, TEACHER), 0, atol=1e-6)


def test_similarity_preserving_orders_its_values_as_the_examples():
    order = jnp.asarray([3, 1, 5, 0, 2, 4])
    shuffled = losses.similarity_preserving(STUDENT[order], TEACHER[order])
    np.testing.assert_allclose(shuffled, losses.similarity_preserving(STUDENT, TEACHER)[order], rtol=1e-5)


def test_similarity_preserving_flattens_what_follows_the_examples():
    maps = jax.random.normal(KEYS[2], (N, 2, 3, 4))
    expected = losses.similarity_preserving(maps.reshape(N, -1), TEACHER)
    np.testing.assert_allclose(losses.similarity_preserving(maps, TEACHER), expected, rtol=1e-6)


def test_micro_batches_of_a_relation_are_another_loss():
    halves = [losses.similarity_preserving(STUDENT[i : i + 3], TEACHER[i : i + 3]).mean() for i in (0, 3)]
    assert abs(np.mean(halves) - losses.similarity_preserving(STUDENT, TEACHER).mean()) > 1e-2


RELATIONS = {
    "cosine_rows": jax.jit(losses.similarity_preserving),
    "tung_mori": jax.jit(functools.partial(losses.similarity_preserving, form="tung_mori")),
    "distance": jax.jit(losses.relational_distance),
    "angle": jax.jit(losses.relational_angle),
}
relations = pytest.mark.parametrize("relation", RELATIONS.values(), ids=RELATIONS.keys())


@relations
def test_no_relation_sees_a_rotation_or_the_scale_of_a_layer(relation):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0].astype(np.float32)
    turned = jnp.asarray(7 * np.asarray(STUDENT) @ turn)
    np.testing.assert_allclose(relation(turned, TEACHER), relation(STUDENT, TEACHER), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(relation(turned, STUDENT), 0, atol=1e-6)


def test_distances_and_angles_do_not_see_a_shift_and_similarities_do():
    for name, relation in RELATIONS.items():
        change = np.abs(relation(STUDENT + 3, TEACHER) - relation(STUDENT, TEACHER)).max()
        assert (change < 1e-5) == (name in ("distance", "angle")), name


@relations
def test_with_a_mask_of_positions_every_position_is_an_example(relation):
    """As of the words of a batch of sentences."""
    student, teacher = STUDENT.reshape(2, 3, D), TEACHER.reshape(2, 3, E)
    mask = jnp.array([[True, True, False], [True, False, True]])
    found, grad = jax.value_and_grad(lambda x: jnp.where(mask, relation(x, teacher, where=mask), 0).sum())(student)
    kept = jnp.flatnonzero(mask)
    values = relation(student, teacher, where=mask)
    assert values.shape == mask.shape
    np.testing.assert_allclose(values[mask], relation(STUDENT[kept], TEACHER[kept]), rtol=1e-5, atol=1e-7)
    assert np.isfinite(found) and not np.asarray(grad)[~mask].any() and np.asarray(grad)[mask].any()


@relations
def test_a_relation_of_one_example_or_none_is_finite(relation):
    masks = (np.arange(N) == 2, np.zeros(N, bool))
    value_and_grad = jax.jit(jax.value_and_grad(lambda x, where: relation(x, TEACHER, where=where).sum()))
    for mask in masks:
        value, grad = value_and_grad(STUDENT, mask)
        assert np.isfinite(value) and np.all(np.isfinite(grad))
        np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_a_relation_of_unmoved_distances_tells_the_distant_from_the_near():
    far = STUDENT.at[0].add(100.0)
    values = np.asarray(RELATIONS["distance"](far, STUDENT))
    assert values[0] > values[1:].max()


def test_the_mean_is_that_of_the_published_formulas():
    x, y = np.asarray(STUDENT, np.float64), np.asarray(TEACHER, np.float64)
    g_x, g_y = (z @ z.T / np.linalg.norm(z @ z.T, axis=1, keepdims=True) for z in (x, y))
    published = np.linalg.norm(g_x - g_y) ** 2 / N**2
    np.testing.assert_allclose(RELATIONS["tung_mori"](STUDENT, TEACHER).mean(), published, rtol=1e-5)
    d_x, d_y = (np.linalg.norm(z[:, None] - z[None], axis=-1) for z in (x, y))
    gap = np.abs(d_x / d_x[d_x > 0].mean() - d_y / d_y[d_y > 0].mean())
    over_all_pairs = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()
    actual = RELATIONS["distance"](STUDENT, TEACHER).mean() * (N - 1) / N
    np.testing.assert_allclose(actual, over_all_pairs, rtol=1e-5)


def test_distances_far_from_the_origin_are_not_lost_to_rounding():
    np.testing.assert_allclose(
        RELATIONS["distance"](STUDENT + 300, TEACHER), RELATIONS["distance"](STUDENT, TEACHER), rtol=1e-3
    )


@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_dead_features_give_one_and_no_gradient(side):
    student = STUDENT.at[2].set(0) if side != "teacher" else STUDENT
    teacher = TEACHER.at[2].set(0) if side != "student" else TEACHER
    values = losses.similarity_preserving(student, teacher)
    grad = jax.grad(lambda x: losses.similarity_preserving(x, teacher).sum())(student)
    assert np.all(np.isfinite(values)) and np.all(np.isfinite(grad))
    assert values[2] == 1
    if side != "teacher":
        np.testing.assert_array_equal(grad[2], 0)


@pytest.mark.parametrize("teacher", [(N - 1, E), (N,)])
def test_shapes_that_do_not_fit_are_both_shown(teacher):
    with pytest.raises(ValueError, match=rf"\({N}, {D}\) and \({teacher[0]},"):
        losses.similarity_preserving(STUDENT, jnp.zeros(teacher))
    with pytest.raises(ValueError, match="unknown form 'tung'; known: cosine_rows, tung_mori"):
        losses.similarity_preserving(STUDENT, TEACHER, form="tung")
    with pytest.raises(ValueError, match=r"\(6, 5\) and \(6, 3\); got \(6, 1\)"):
        losses.similarity_preserving(STUDENT, TEACHER, where=jnp.ones((N, 1), bool))
