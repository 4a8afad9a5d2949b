"""Losses on hidden activations: the student's layer may be of another width than the teacher's."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def similarity_preserving(
    student_features: ArrayLike, teacher_features: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
    """1 - the cosine between what an example is similar to in the student and what it is similar to in the teacher.

    In each network every example is compared with every example of the batch by the cosine of their features, which
    gives a matrix [N, N]; value n is one less the cosine between the rows n of both. It lies in [0, 2], is 0 at
    equality, and depends neither on the features' lengths nor on their basis. An example whose features are all zero
    is similar to nothing, itself included, and its value is 1. No gradient reaches the teacher.

    It is a relation of the batch: micro-batches, which compare fewer pairs, do not add up to the loss of the whole.

    >>> import jax.numpy as jnp
    >>> jnp.set_printoptions(precision=4)
    >>> teacher = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> student = jnp.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
    >>> print(similarity_preserving(student, teacher))
    [0.1835 0.     0.134 ]

    Args:
      student_features: [N, ...], any float type; all axes but the first are flattened.
      teacher_features: [N, ...] likewise, of any width of its own.
      where: optional boolean [N]. An example that it leaves out has neither row nor column, so that the others get
        what they get without it, and its own value means nothing. A `Term`'s mask does the same: the examples that
        it leaves out come as zeros.

    Returns:
      [N] float32.

    Raises:
      ValueError: if the shapes do not fit.

    Reference: Abnar, Dehghani and Zuidema, "Transferring Inductive Biases through Knowledge Distillation", 2020,
    released code (https://arxiv.org/abs/2006.00555); after Tung and Mori, "Similarity-Preserving Knowledge
    Distillation", 2019, who take the squared difference of the matrices.
    """
    _check(student_features, teacher_features, where)
    student_NxN = _unit_rows(_similarities(student_features, where))
    teacher_NxN = _unit_rows(_similarities(jax.lax.stop_gradient(teacher_features), where))
    return 1 - jnp.sum(student_NxN * teacher_NxN, axis=-1)


def _check(student, teacher, where) -> None:
    shapes = jnp.shape(student), jnp.shape(teacher)
    if min(map(len, shapes)) < 2 or shapes[0][0] != shapes[1][0]:
        raise ValueError(
            "student_features and teacher_features must be [N, ...] with one number of examples, "
            f"got {shapes[0]} and {shapes[1]}"
        )
    if where is not None and jnp.shape(where) != shapes[0][:1]:
        raise ValueError(f"where must have the shape of the examples, {shapes[0][:1]}, got {jnp.shape(where)}")


def _similarities(features: ArrayLike, where: ArrayLike | None) -> jax.Array:
    """The cosines [N, N] between the examples of features [N, ...]; 0 for an example that is left out."""
    features = jnp.asarray(features).astype(jnp.float32)
    features_NxD = features.reshape(len(features), -1)
    if where is not None:
        features_NxD = jnp.where(jnp.asarray(where, bool)[:, None], features_NxD, 0.0)
    unit_NxD = _unit_rows(features_NxD)
    return jnp.matmul(unit_NxD, unit_NxD.T, precision="highest")


def _unit_rows(x_NxD: jax.Array) -> jax.Array:
    """Every row over its length; a row of zeros stays one, with gradient 0."""
    square_Nx1 = jnp.sum(x_NxD**2, axis=-1, keepdims=True)
    is_zero = square_Nx1 == 0
    return jnp.where(is_zero, 0.0, x_NxD * jax.lax.rsqrt(jnp.where(is_zero, 1.0, square_Nx1)))
