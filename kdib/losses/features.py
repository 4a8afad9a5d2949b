"""Losses on hidden activations: a layer of the student against a layer of the teacher, example by example.

Every function returns one float32 value per example and computes in float32 whatever the input type. No gradient flows
to the teacher. Losses that compare the examples of a batch with each other are in `relations`.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Reduce = Literal["sum", "mean"]
Normalisation = Literal["mean", "half_sum"]


def feature_l1(student_features: ArrayLike, teacher_features: ArrayLike, *, reduce: Reduce = "sum") -> jax.Array:
    """Sum or mean of the absolute differences between two layers of the same shape.

    Value and gradient are 0 if the layers are equal. Sum and mean differ by the number of features, so a weight for one
    does not suit the other. No gradient flows to the teacher.

    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[1.0, 0.0], [3.0, -1.0]])
    >>> print(feature_l1(student, teacher), feature_l1(student, teacher, reduce="mean"))
    [2. 4.] [1. 2.]

    Args:
      student_features: [N, ...], any float type.
      teacher_features: [N, ...] of the same shape.
      reduce: "sum" over the features, as published, or "mean".

    Returns:
      [N] float32.

    Raises:
      ValueError: if the shapes differ or `reduce` is unknown.

    Reference: Wong, Fermin, Zheng, Park and Wang, "Leveled Knowledge Distillation" (poster), L_FM = sum |y - y^|.
    """
    student_NxD, teacher_NxD = _matched(student_features, teacher_features)
    difference_NxD = student_NxD - teacher_NxD
    distance_NxD = difference_NxD * jax.lax.stop_gradient(jnp.sign(difference_NxD))  # the gradient of jnp.abs at 0 is 1
    match reduce:
        case "sum":
            return jnp.sum(distance_NxD, axis=-1)
        case "mean":
            return jnp.mean(distance_NxD, axis=-1)
        case _:
            raise ValueError(f"unknown reduce {reduce!r}; known: {', '.join(get_args(Reduce))}")


def hint(
    student_features: ArrayLike, teacher_features: ArrayLike, *, normalisation: Normalisation = "mean"
) -> jax.Array:
    """Mean, or half the sum, of the squared differences between two layers of the same shape.

    The regressor of the publications is a head: a `Term` with a `projector` reads the student's layer through one. For
    D features "half_sum" is D / 2 times "mean", so a published weight applies to only one of the two. No gradient flows
    to the teacher.

    >>> import jax.numpy as jnp
    >>> student, teacher = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[1.0, 0.0], [3.0, -1.0]])
    >>> print(hint(student, teacher), hint(student, teacher, normalisation="half_sum"))
    [2. 5.] [2. 5.]

    Args:
      student_features: [N, ...], any float type.
      teacher_features: [N, ...] of the same shape.
      normalisation: "mean" over all features (FitNets as released, weight 100), or "half_sum", 1/2 ||t - s||^2 (Ojha
        et al., and equation 3 of FitNets).

    Returns:
      [N] float32.

    Raises:
      ValueError: if the shapes differ or the normalisation is unknown.

    Reference: Romero et al., "FitNets: Hints for Thin Deep Nets", 2015, equation 3 (https://arxiv.org/abs/1412.6550);
    Ojha et al., "What Knowledge Gets Distilled in Knowledge Distillation?", 2023 (https://arxiv.org/abs/2205.16004).
    """
    student_NxD, teacher_NxD = _matched(student_features, teacher_features)
    square_NxD = (student_NxD - teacher_NxD) ** 2
    match normalisation:
        case "mean":
            return jnp.mean(square_NxD, axis=-1)
        case "half_sum":
            return jnp.sum(square_NxD, axis=-1) / 2
        case _:
            raise ValueError(f"unknown normalisation {normalisation!r}; known: {', '.join(get_args(Normalisation))}")


def cosine(student_features: ArrayLike, teacher_features: ArrayLike) -> jax.Array:
    """One minus the cosine similarity of two layers of the same shape, each flattened to a vector.

    The value lies in [0, 2] and ignores lengths: it is half the squared distance between the two unit vectors. Features
    that are all zero have no direction; their value is 1 and their gradient 0. No gradient flows to the teacher.

    >>> import jax.numpy as jnp
    >>> jnp.set_printoptions(precision=4, suppress=True)
    >>> print(cosine(jnp.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), jnp.array([[5.0, 0.0], [1.0, 0.0], [1.0, 0.0]])))
    [0.     0.2929 1.    ]

    Args:
      student_features: [N, ...], any float type.
      teacher_features: [N, ...] of the same shape.

    Returns:
      [N] float32.

    Raises:
      ValueError: if the shapes differ.

    Reference: Sanh et al., "DistilBERT, a distilled version of BERT", 2019, section 2, the cosine embedding loss L_cos
    (https://arxiv.org/abs/1910.01108).
    """
    student_NxD, teacher_NxD = _matched(student_features, teacher_features)
    return 1 - jnp.sum(unit_rows(student_NxD) * unit_rows(teacher_NxD), axis=-1)


def attention_transfer(student_features: ArrayLike, teacher_features: ArrayLike) -> jax.Array:
    """Mean squared difference between the spatial attention maps of two convolutional layers.

    The value is the mean over positions of (Q_s - Q_t)^2. Q is the mean over channels of the squared activations,
    flattened and divided by its length. It holds one number per position, so the layers may differ in their number of
    channels. If the maps differ in size, the larger one is first averaged over blocks, as in the code of RepDistiller.
    The value depends on the scale of neither network. An all-zero map has no attention, and its gradient is 0. The
    published weight is 1000 per layer. No gradient flows to the teacher.
    >>> import jax.numpy as jnp
    >>> jnp.set_printoptions(precision=4, suppress=True)
    >>> left, right = jnp.zeros((1, 2, 2, 3)).at[0, 0, 0].set(1.0), jnp.zeros((1, 2, 2, 5)).at[0, 1, 0].set(-7.0)
    >>> print(attention_transfer(left, right), attention_transfer(left, 3 * left))
    [0.5] [0.]

    Args:
      student_features: [N, H, W, C], any float type.
      teacher_features: [N, H', W', C'] likewise; H and H' are equal or one is a multiple of the other, and so are W and
        W'.

    Returns:
      [N] float32.

    Raises:
      ValueError: if the shapes are incompatible.

    Reference: Zagoruyko and Komodakis, "Paying More Attention to Attention", 2017, activation-based transfer
    (https://arxiv.org/abs/1612.03928), as released; equation 2 takes the length where the code takes the mean.
    """
    height, width = _common_size(jnp.shape(student_features), jnp.shape(teacher_features))
    student_NxP = _attention(student_features, height, width)
    teacher_NxP = _attention(jax.lax.stop_gradient(teacher_features), height, width)
    return jnp.mean((student_NxP - teacher_NxP) ** 2, axis=-1)


def flatten(features: ArrayLike) -> jax.Array:
    """[N, ...] -> [N, D] in float32."""
    features = jnp.asarray(features).astype(jnp.float32)
    return features.reshape(len(features), -1)


def power_of_two(size: jax.Array) -> jax.Array:
    """A power of two close to each `size` >= 0, or 1 for 0.

    Division by it does not round and keeps squares from underflowing. It counts as a constant in differentiation: a
    function that is invariant to scale has the same gradient with and without the division.
    """
    rounded = jax.lax.reduce_precision(jax.lax.stop_gradient(size), exponent_bits=8, mantissa_bits=0)
    return jnp.where(rounded == 0, 1.0, rounded)


def unit_rows(x_xD: jax.Array) -> jax.Array:
    """Every row of [..., D] divided by its length; a row of zeros stays zero, with gradient 0."""
    x_xD = x_xD / power_of_two(jnp.max(jnp.abs(x_xD), axis=-1, keepdims=True))
    square_x1 = jnp.sum(x_xD**2, axis=-1, keepdims=True)
    is_zero = square_x1 == 0
    return jnp.where(is_zero, 0.0, x_xD * jax.lax.rsqrt(jnp.where(is_zero, 1.0, square_x1)))


def _matched(student: ArrayLike, teacher: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Both layers as [N, D] in float32, the teacher's without gradient; raises ValueError if their shapes differ."""
    shapes = jnp.shape(student), jnp.shape(teacher)
    if shapes[0] != shapes[1] or len(shapes[0]) < 2:
        message = (
            f"student_features and teacher_features must be [N, ...] of the same shape, got {shapes[0]} and {shapes[1]}"
        )
        only_width = min(map(len, shapes)) > 1 and shapes[0][:-1] == shapes[1][:-1]
        raise ValueError(message + ("; give the term projector='linear'" if only_width else ""))
    return flatten(student), flatten(jax.lax.stop_gradient(teacher))


def _common_size(student: tuple[int, ...], teacher: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of the smaller of two maps [N, H, W, C]; raises ValueError unless they divide the larger's."""
    message = f"got student_features {student} and teacher_features {teacher}"
    if len(student) != 4 or len(teacher) != 4 or student[0] != teacher[0]:
        raise ValueError(f"attention_transfer needs maps [N, H, W, C] of the same number of examples, {message}")
    height, width = (min(pair) for pair in zip(student[1:3], teacher[1:3], strict=True))
    if any(shape[1] % height or shape[2] % width for shape in (student, teacher)):
        raise ValueError(f"the sizes of the two maps must be equal or differ by a whole factor, {message}")
    return height, width


def _attention(features: ArrayLike, height: int, width: int) -> jax.Array:
    """Attention maps Q [N, height * width] of features [N, H, W, C]."""
    features = jnp.asarray(features).astype(jnp.float32)
    n, h, w, c = features.shape
    if (h, w) != (height, width):
        features = features.reshape(n, height, h // height, width, w // width, c).mean(axis=(2, 4))
    return unit_rows(jnp.mean(features**2, axis=-1).reshape(n, -1))
