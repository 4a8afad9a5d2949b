"""Losses on relations between the examples of a batch in a hidden layer; the two layers may differ in width.

A value belongs to an example but depends on the whole batch. Micro-batches compare fewer pairs, so their losses do not
add up to the loss of the whole batch. No gradient flows to the teacher.

`where` [N] excludes examples from every comparison. Kept examples get the value they would have without the excluded
ones; values at excluded positions are meaningless. With `where` [N, L] and features [N, L, ...] every position is an
example, such as a word of a language model. `where` is an `ExampleMask`: a `Term` passes its own mask to an argument
`where` with this annotation, and also sets the excluded examples to zero.
"""

from typing import Annotated, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdib.losses.features import flatten, power_of_two, unit_rows

ExampleMask = Annotated[ArrayLike | None, "boolean [N] or [N, L], of examples and not of classes"]
Form = Literal["cosine_rows", "tung_mori"]

_NEAR = 1e-6  # a squared distance is a difference of squares: below this fraction of them it is only rounding error


def similarity_preserving(
    student_features: ArrayLike,
    teacher_features: ArrayLike,
    *,
    form: Form = "cosine_rows",
    where: ExampleMask = None,
) -> jax.Array:
    """Difference between the similarities of an example to the batch in the student and in the teacher.

    In each network every example is compared with every example of the batch, which gives a similarity matrix [N, N].
    Value n compares row n of the two matrices.

    "cosine_rows": the similarity is the cosine of two examples' features, and the value is one minus the cosine of the
    two rows. It lies in [0, 2] and depends neither on the features' lengths nor on their basis. An example whose
    features are all zero is similar to no example, not even itself, and its value is 1.

    "tung_mori": the similarity is the dot product of two examples' features. Every row is divided by its length, and
    the value is the mean over the row of the squared difference. The mean over the examples is the published
    1/N^2 ||G_t - G_s||_F^2 (published weight 3000). It depends neither on the basis nor on the scale of a network, but
    it does depend on the features' lengths within a batch.

    Both are 0 if the student equals the teacher.

    >>> import jax.numpy as jnp
    >>> jnp.set_printoptions(precision=4, suppress=True)
    >>> teacher = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> student = jnp.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    >>> print(similarity_preserving(student, teacher))
    [0.1835 0.     0.134 ]
    >>> print(similarity_preserving(student, teacher, form="tung_mori"))
    [0.1953 0.0342 0.0893]

    Args:
      student_features: [N, ...], any float type; all axes but the first are flattened.
      teacher_features: [N, ...] likewise; its width may differ.
      form: "cosine_rows" (Abnar et al.) or "tung_mori".
      where: optional boolean [N] or [N, L], true for the examples to compare.

    Returns:
      [N] float32, or [N, L].

    Raises:
      ValueError: if the shapes are incompatible or the form is unknown.

    Reference: Abnar, Dehghani and Zuidema, "Transferring Inductive Biases through Knowledge Distillation", 2020,
    released code (https://arxiv.org/abs/2006.00555); Tung and Mori, "Similarity-Preserving Knowledge Distillation",
    2019, section 3 (https://arxiv.org/abs/1907.09682).
    """
    shape = _check(student_features, teacher_features, where)
    student_NxD, teacher_NxD, mask_N = _examples(student_features, teacher_features, where)
    match form:
        case "cosine_rows":
            student_NxN, teacher_NxN = (_similarities(unit_rows(x_NxD)) for x_NxD in (student_NxD, teacher_NxD))
            return (1 - jnp.sum(student_NxN * teacher_NxN, axis=-1)).reshape(shape)
        case "tung_mori":
            student_NxN, teacher_NxN = (_similarities(_scaled(x_NxD)) for x_NxD in (student_NxD, teacher_NxD))
            return (jnp.sum((student_NxN - teacher_NxN) ** 2, axis=-1) / _count(mask_N)).reshape(shape)
        case _:
            raise ValueError(f"unknown form {form!r}; known: {', '.join(get_args(Form))}")


def relational_distance(
    student_features: ArrayLike, teacher_features: ArrayLike, *, where: ExampleMask = None
) -> jax.Array:
    """Difference between the distances of an example to all others in the student and in the teacher (RKD-D).

    In each network the Euclidean distance of every pair of examples is divided by the mean over all pairs. Value n is
    the mean over the other examples m of Huber(difference for the pair n, m), with Huber(x) = x^2 / 2 up to |x| = 1 and
    |x| - 1/2 beyond. The loss is 0 at equality and invariant to rotation, translation and scaling of a layer. Code that
    averages over all N^2 pairs, including every example with itself, obtains (N - 1) / N of the mean (weight 25 there).
    Two examples count as coincident, with gradient 0, if their distance is less than about a thousandth of their
    distance to the batch mean. The value of a single example is 0.

    >>> import jax.numpy as jnp
    >>> jnp.set_printoptions(precision=4, suppress=True)
    >>> line, triangle = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0**0.5]])
    >>> print(relational_distance(line, triangle), relational_distance(line, 5 - line))
    [0.0781 0.0312 0.0781] [0. 0. 0.]

    Args:
      student_features: [N, ...], any float type; all axes but the first are flattened.
      teacher_features: [N, ...] likewise; its width may differ.
      where: optional boolean [N] or [N, L], true for the examples to compare.

    Returns:
      [N] float32, or [N, L].

    Raises:
      ValueError: if the shapes are incompatible.

    Reference: Park, Kim, Lu and Cho, "Relational Knowledge Distillation", 2019, section 3.2.1, RKD-D
    (https://arxiv.org/abs/1904.05068).
    """
    shape = _check(student_features, teacher_features, where)
    student_NxD, teacher_NxD, mask_N = _examples(student_features, teacher_features, where)
    pair_NxN = _others(mask_N)
    difference_NxN = _distances(student_NxD, mask_N, pair_NxN) - _distances(teacher_NxD, mask_N, pair_NxN)
    return (jnp.sum(_huber(difference_NxN), axis=-1) / _count(pair_NxN, axis=-1)).reshape(shape)


def relational_angle(
    student_features: ArrayLike, teacher_features: ArrayLike, *, where: ExampleMask = None
) -> jax.Array:
    """Difference between the angles at an example to all pairs of others in the student and in the teacher (RKD-A).

    Value n is the mean over ordered pairs of other examples i, j of Huber(difference of the cosines of the angle at n
    between i and j), with the Huber of `relational_distance`. The loss is 0 at equality and invariant to rotation,
    translation and scaling of a layer. An example that coincides with n has no direction: its cosines are 0. With fewer
    than three examples the values are 0. Memory: [N, N, D] and [N, N, N]. Code that averages over all N^3 triples
    obtains (N - 1) (N - 2) / N^2 of the mean (weight 50 there).

    >>> import jax.numpy as jnp
    >>> jnp.set_printoptions(precision=4, suppress=True)
    >>> line, triangle = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0**0.5]])
    >>> print(relational_angle(line, triangle), relational_angle(line, 5 - line))
    [0.125 1.    0.125] [0. 0. 0.]

    Args:
      student_features: [N, ...], any float type; all axes but the first are flattened.
      teacher_features: [N, ...] likewise; its width may differ.
      where: optional boolean [N] or [N, L], true for the examples to compare.

    Returns:
      [N] float32, or [N, L].

    Raises:
      ValueError: if the shapes are incompatible.

    Reference: Park, Kim, Lu and Cho, "Relational Knowledge Distillation", 2019, section 3.2.2, RKD-A
    (https://arxiv.org/abs/1904.05068).
    """
    shape = _check(student_features, teacher_features, where)
    student_NxD, teacher_NxD, mask_N = _examples(student_features, teacher_features, where)
    other_NxN = _others(mask_N)
    triple_NxNxN = other_NxN[:, :, None] & other_NxN[:, None, :] & other_NxN[None, :, :]
    difference_NxNxN = jnp.where(triple_NxNxN, _angles(student_NxD) - _angles(teacher_NxD), 0.0)
    return (jnp.sum(_huber(difference_NxNxN), axis=(1, 2)) / _count(triple_NxNxN, axis=(1, 2))).reshape(shape)


def _check(student, teacher, where) -> tuple[int, ...]:
    """The shape of the examples; raises ValueError unless the shapes of both layers begin with it."""
    shapes = jnp.shape(student), jnp.shape(teacher)
    shape = shapes[0][:1] if where is None else jnp.shape(where)
    if min(map(len, shapes)) < 2 or shapes[0][0] != shapes[1][0]:
        raise ValueError(
            "student_features and teacher_features must be [N, ...] with the same number of examples, "
            f"got {shapes[0]} and {shapes[1]}"
        )
    if not shape or any(of[: len(shape)] != shape or len(of) == len(shape) for of in shapes):
        raise ValueError(
            f"where must have the shape of the examples, the leading axes of both layers' shapes {shapes[0]} and "
            f"{shapes[1]}; got {shape}"
        )
    return shape


def _examples(student, teacher, where) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both layers [N, D] in float32, zero for excluded examples, the teacher's without gradient; the mask [N]."""
    axes = 1 if where is None else jnp.ndim(where)
    student_NxD, teacher_NxD = (
        flatten(jnp.reshape(x, (-1, *jnp.shape(x)[axes:]))) for x in (student, jax.lax.stop_gradient(teacher))
    )
    mask_N = jnp.ones(len(student_NxD), bool) if where is None else jnp.asarray(where, bool).reshape(-1)
    keep_Nx1 = mask_N[:, None]
    return jnp.where(keep_Nx1, student_NxD, 0.0), jnp.where(keep_Nx1, teacher_NxD, 0.0), mask_N


def _others(mask_N: jax.Array) -> jax.Array:
    """Mask [N, N] of the pairs of two different kept examples."""
    return mask_N[:, None] & mask_N[None, :] & ~jnp.eye(len(mask_N), dtype=bool)


def _count(mask: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
    """The number of true entries, but at least 1."""
    return jnp.maximum(jnp.sum(mask, axis=axis, dtype=jnp.float32), 1.0)


def _scaled(x_NxD: jax.Array) -> jax.Array:
    return x_NxD / power_of_two(jnp.max(jnp.abs(x_NxD)))


def _similarities(x_NxD: jax.Array) -> jax.Array:
    """The dot products [N, N] of the rows, with every row of the result divided by its length."""
    return unit_rows(jnp.matmul(x_NxD, x_NxD.T, precision="highest"))


def _distances(x_NxD: jax.Array, mask_N: jax.Array, pair_NxN: jax.Array) -> jax.Array:
    """The Euclidean distances [N, N] divided by their mean, and 0 where `pair_NxN` is false."""
    center_D = jax.lax.stop_gradient(jnp.sum(x_NxD, axis=0) / _count(mask_N))  # no distance depends on the centre
    x_NxD = _scaled(jnp.where(mask_N[:, None], x_NxD - center_D[None, :], 0.0))
    square_N = jnp.sum(x_NxD**2, axis=-1)
    both_NxN = square_N[:, None] + square_N[None, :]
    square_NxN = both_NxN - 2 * jnp.matmul(x_NxD, x_NxD.T, precision="highest")
    apart_NxN = pair_NxN & (square_NxN > _NEAR * both_NxN)
    distance_NxN = jnp.where(apart_NxN, jnp.sqrt(jnp.where(apart_NxN, square_NxN, 1.0)), 0.0)
    mean = jnp.sum(distance_NxN) / _count(pair_NxN)
    return distance_NxN / jnp.where(mean == 0, 1.0, mean)


def _angles(x_NxD: jax.Array) -> jax.Array:
    """The cosine [N, N, N] of the angle at the first example between the other two."""
    direction_NxNxD = unit_rows(x_NxD[None, :, :] - x_NxD[:, None, :])
    return jnp.einsum("nid,njd->nij", direction_NxNxD, direction_NxNxD, precision="highest")


def _huber(x: jax.Array) -> jax.Array:
    size = jnp.abs(x)
    return jnp.where(size <= 1, x**2 / 2, size - 0.5)
