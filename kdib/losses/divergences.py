"""Losses on logits: arrays in, one float32 value per example out.

Every function sums over the classes (it never averages) and does not reduce over the examples. It computes in float32
whatever the input type. Hyper-parameters are keyword arguments and may be traced scalars, so that a sweep does not
recompile. No gradient flows to a teacher.

A class has probability zero if its logit is -inf or if `where` excludes it. Values and gradients stay finite: log 0 is
taken to be -1e30, so that 0 log 0 is 0 and probability mass on an impossible class costs about 1e30.

`where` is boolean, has the rank of the logits and broadcasts to their shape. The result equals that on the subset of
classes for which `where` is true. Every example needs at least one such class.
"""

import numbers
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdib.ranges import POSITIVE, SHARE, check

Direction = Literal["forward", "reverse", "jensen_shannon"]

_LOG_ZERO = -1e30  # finite, so that 0 * log 0 is 0 and not nan; its exp is exactly 0 at any sensible temperature


def cross_entropy(logits: ArrayLike, labels: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None) -> jax.Array:
    """Cross-entropy with integer labels: -log softmax(logits)[label].

    >>> import jax.numpy as jnp
    >>> jnp.set_printoptions(precision=4, suppress=True)
    >>> logits = jnp.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> print(cross_entropy(logits, jnp.array([0, 2])))
    [0.2395 1.5514]

    Args:
      logits: [..., K] unnormalised log-probabilities, any float type.
      labels: [...] integers in [0, K). An out-of-range label yields nan; it does not wrap around.
      axis: the axis of the logits that holds the classes.
      where: optional mask of classes.

    Returns:
      [...] float32, in nats.

    Raises:
      ValueError: if the shapes are incompatible. TypeError: if the labels are not integers.

    Reference: Goodfellow, Bengio and Courville, "Deep Learning", 2016, equation 6.30
    (https://www.deeplearningbook.org).
    """
    log_probs_xK = _log_softmax(logits, axis=axis, where=where)
    return -_at_label(log_probs_xK, labels)


def label_smoothing(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Cross-entropy against (1 - epsilon) one_hot(label) + epsilon / K.

    K is the number of classes that `where` keeps. With `epsilon = 0` this is `cross_entropy`.

    >>> import jax.numpy as jnp
    >>> jnp.set_printoptions(precision=4, suppress=True)
    >>> logits = jnp.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> print(label_smoothing(logits, jnp.array([0, 2]), epsilon=0.1))
    [0.3729 1.5181]

    Args:
      logits: [..., K] unnormalised log-probabilities, any float type.
      labels: [...] integers in [0, K); an out-of-range label yields nan.
      epsilon: scalar in [0, 1], the probability mass that is spread evenly over the classes.
      axis: the axis of the logits that holds the classes.
      where: optional mask of classes.

    Returns:
      [...] float32, in nats.

    Raises:
      ValueError: if the shapes are incompatible. TypeError: if the labels are not integers.

    Reference: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016, section 7
    (https://arxiv.org/abs/1512.00567).
    """
    epsilon = _scalar("epsilon", epsilon)
    log_probs_xK = _log_softmax(logits, axis=axis, where=where)
    even = jnp.mean(log_probs_xK, axis=-1, where=_class_mask(where, jnp.shape(logits), axis))
    return -(1 - epsilon) * _at_label(log_probs_xK, labels) - epsilon * even


def entropy_penalty(logits: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None) -> jax.Array:
    """Negative entropy of the network's own predictions, sum_k q_k log q_k.

    A positive weight penalises confidence; the value lies in [-log K, 0]. Added to `cross_entropy` it is the confidence
    penalty: a control for what a student may gain from softer predictions alone, without a teacher.
    >>> import jax.numpy as jnp
    >>> jnp.set_printoptions(precision=4, suppress=True)
    >>> print(entropy_penalty(jnp.array([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])))
    [-0.6656 -1.0986]

    Args:
      logits: [..., K] unnormalised log-probabilities, any float type.
      axis: the axis of the logits that holds the classes.
      where: optional mask of classes.

    Returns:
      [...] float32, in nats, never positive.

    Raises:
      ValueError: if the shape of the mask is incompatible.

    Reference: Pereyra et al., "Regularizing Neural Networks by Penalizing Confident Output Distributions", 2017,
    section 3 (https://arxiv.org/abs/1701.06548).
    """
    log_probs_xK = _log_softmax(logits, axis=axis, where=where)
    return jnp.sum(jnp.exp(log_probs_xK) * log_probs_xK, axis=-1)


def hard_label(
    student_logits: ArrayLike, teacher_logits: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Cross-entropy of the student with the teacher's most likely class as the label; ties go to the first class.

    This is the limit of `soft_cross_entropy` as the teacher's temperature goes to 0. It is not 0 if the student equals
    the teacher. No gradient flows to the teacher; a nan among the teacher's logits yields nan.

    >>> import jax.numpy as jnp
    >>> jnp.set_printoptions(precision=4, suppress=True)
    >>> student, teacher = jnp.array([[2.0, 0.0, 0.0]]), jnp.array([[0.0, 3.0, 1.0]])
    >>> print(hard_label(student, teacher))
    [2.2395]

    Args:
      student_logits: [..., K] unnormalised log-probabilities, any float type.
      teacher_logits: [..., K] likewise.
      axis: the axis of the logits that holds the classes.
      where: optional mask of classes.

    Returns:
      [...] float32, in nats.

    Raises:
      ValueError: if the shapes are incompatible.

    Reference: Touvron et al., "Training data-efficient image transformers & distillation through attention", 2021,
    section 4, hard-label distillation (https://arxiv.org/abs/2012.12877).
    """
    _same_shape(student_logits, teacher_logits)
    teacher_xK = _masked_logits_float32(teacher_logits, axis=axis, where=where)
    unknown = jnp.any(jnp.isnan(teacher_xK), axis=-1)
    choice = jnp.where(unknown, -1, jnp.argmax(teacher_xK, axis=-1))  # argmax would treat nan as the maximum
    return -_at_label(_log_softmax(student_logits, axis=axis, where=where), choice)


def soft_cross_entropy(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Cross-entropy of the student against the teacher's probabilities, both at the same temperature.

    With p = softmax(teacher / T) and q = softmax(student / T) the loss is -sum_k p_k log q_k, without the factor T^2 of
    `softened_kl`. If the student equals the teacher, it is the teacher's entropy, not 0. No gradient flows to the
    teacher.

    >>> import jax.numpy as jnp
    >>> jnp.set_printoptions(precision=4, suppress=True)
    >>> student, teacher = jnp.array([[2.0, 0.0, 0.0]]), jnp.array([[1.0, 1.0, 0.0]])
    >>> print(soft_cross_entropy(student, teacher, temperature=2.0))
    [1.1678]

    Args:
      student_logits: [..., K] unnormalised log-probabilities, any float type.
      teacher_logits: [..., K] likewise.
      temperature: positive scalar T.
      axis: the axis of the logits that holds the classes.
      where: optional mask of classes.

    Returns:
      [...] float32, in nats.

    Raises:
      ValueError: if the shapes are incompatible.

    Reference: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2
    (https://arxiv.org/abs/1503.02531).
    """
    student_xK, teacher_xK = _softened(student_logits, teacher_logits, temperature, axis, where)
    return -jnp.sum(jnp.exp(teacher_xK) * student_xK, axis=-1)


def softened_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    direction: Direction = "forward",
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """T^2 times the divergence between teacher and student, both softened by the temperature T.

    With p = softmax(teacher / T), q = softmax(student / T) and m = (p + q) / 2, `direction` selects the divergence:

    - "forward", the usual one: KL(p || q), which covers every class that the teacher considers possible;
    - "reverse": KL(q || p), which seeks the teacher's modes;
    - "jensen_shannon": (KL(p || m) + KL(q || m)) / 2, which is symmetric.

    The factor T^2 keeps the scale of the gradient as T grows. The loss then tends to 1/2 (Jensen-Shannon: 1/8) of the
    mean over classes of the squared difference between centred logits. No gradient flows to the teacher.

    Deep mutual learning (Zhang et al., 2018) is this loss at T = 1 added to `cross_entropy`, with the peer as the
    teacher. A separate loss would be a second name for the same function.

    >>> import jax.numpy as jnp
    >>> jnp.set_printoptions(precision=4, suppress=True)
    >>> student, teacher = jnp.array([[2.0, 0.0, 0.0]]), jnp.array([[1.0, 1.0, 0.0]])
    >>> for direction in ("forward", "reverse", "jensen_shannon"):
    ...     print(direction, softened_kl(student, teacher, temperature=2.0, direction=direction))
    forward [0.3737]
    reverse [0.3547]
    jensen_shannon [0.09]

    Args:
      student_logits: [..., K] unnormalised log-probabilities, any float type.
      teacher_logits: [..., K] likewise.
      temperature: positive scalar T.
      direction: "forward", "reverse" or "jensen_shannon".
      axis: the axis of the logits that holds the classes.
      where: optional mask of classes.

    Returns:
      [...] float32, in nats (times T^2).

    Raises:
      ValueError: if the shapes are incompatible or the direction is unknown.

    Reference: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.1,
    equation 4 (https://arxiv.org/abs/1503.02531).
    """
    student_xK, teacher_xK = _softened(student_logits, teacher_logits, temperature, axis, where)
    match direction:
        case "forward":
            divergence = _kl(teacher_xK, student_xK)
        case "reverse":
            divergence = _kl(student_xK, teacher_xK)
        case "jensen_shannon":
            mixture_xK = jnp.logaddexp(teacher_xK, student_xK) - jnp.log(2.0)
            divergence = (_kl(teacher_xK, mixture_xK) + _kl(student_xK, mixture_xK)) / 2
        case _:
            raise ValueError(f"unknown direction {direction!r}; known: {', '.join(get_args(Direction))}")
    return _scalar("temperature", temperature) ** 2 * divergence


def top_k_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    k: int,
    temperature: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """T^2 times KL(p || q), where p keeps only the teacher's k most likely classes and is renormalised.

    With z the teacher's k largest logits, p = softmax(z / T), and q = softmax(student / T) over all classes. Of equal
    logits the first ones are kept. With `k = K` this is `softened_kl`. No gradient flows to the teacher.

    The truncation saves memory and costs calibration. The mass that the teacher gives to all other classes is moved to
    the first k, whose probabilities become too large by the factor 1 / (mass of the first k). The student is taught
    that no other class can occur. If the student equals the teacher, the loss is -T^2 log(mass of the first k), not 0,
    and its gradient is not 0 either. Anshumann et al., "Sparse Logit Sampling", ACL 2025
    (https://arxiv.org/abs/2503.16870) prove this bias.

    >>> import jax.numpy as jnp
    >>> jnp.set_printoptions(precision=4, suppress=True)
    >>> student, teacher = jnp.array([[2.0, 0.0, 0.0]]), jnp.array([[1.0, 1.0, 0.0]])
    >>> print(top_k_kl(student, teacher, k=2), top_k_kl(student, teacher, k=3))
    [0.5464] [0.3776]

    Args:
      student_logits: [..., K] unnormalised log-probabilities, any float type.
      teacher_logits: [..., K] likewise.
      k: number of the teacher's classes to keep, from 1 to K; static.
      temperature: positive scalar T.
      axis: the axis of the logits that holds the classes.
      where: optional mask of classes; the k classes are chosen among those it keeps (all of them if there are fewer).

    Returns:
      [...] float32, in nats (times T^2).

    Raises:
      ValueError: if the shapes are incompatible or k is not in [1, K].

    Reference: Abnar, Dehghani and Zuidema, "Transferring Inductive Biases through Knowledge Distillation", 2020,
    released code (https://arxiv.org/abs/2006.00555).
    """
    _same_shape(student_logits, teacher_logits)
    temperature = _scalar("temperature", temperature)
    teacher_xK = _masked_logits_float32(teacher_logits, axis=axis, where=where)
    if not 1 <= k <= teacher_xK.shape[-1]:
        raise ValueError(f"k must be in [1, {teacher_xK.shape[-1]}], the number of classes, got {k}")
    kept_xk, classes_xk = jax.lax.top_k(jax.lax.stop_gradient(teacher_xK), k)
    student_xK = _log_softmax(student_logits, axis=axis, where=where, temperature=temperature)
    student_xk = jnp.take_along_axis(student_xK, classes_xk, axis=-1)
    return temperature**2 * _kl(jax.nn.log_softmax(kept_xk / temperature, axis=-1), student_xk)


def _kl(log_p_xK: jax.Array, log_q_xK: jax.Array) -> jax.Array:
    return jnp.sum(jnp.exp(log_p_xK) * (log_p_xK - log_q_xK), axis=-1)


def _softened(student, teacher, temperature, axis, where) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities [..., K] of student and teacher; no gradient flows to the teacher's logits."""
    _same_shape(student, teacher)
    temperature = _scalar("temperature", temperature)
    student_xK = _log_softmax(student, axis=axis, where=where, temperature=temperature)
    # The gradient is stopped before softening, so that the derivative by the temperature includes the teacher's part.
    teacher_xK = _log_softmax(jax.lax.stop_gradient(teacher), axis=axis, where=where, temperature=temperature)
    return student_xK, teacher_xK


def _same_shape(student, teacher) -> None:
    if jnp.shape(student) != jnp.shape(teacher):
        raise ValueError(
            "student_logits and teacher_logits must have the same shape, "
            f"got {jnp.shape(student)} and {jnp.shape(teacher)}"
        )


def _log_softmax(logits: ArrayLike, *, axis, where, temperature: ArrayLike = 1.0) -> jax.Array:
    """Finite float32 log-probabilities with the classes last: [..., K]."""
    return jax.nn.log_softmax(_masked_logits_float32(logits, axis=axis, where=where) / temperature, axis=-1)


def _masked_logits_float32(logits: ArrayLike, *, axis, where) -> jax.Array:
    """Float32 logits with the classes last, [..., K]; _LOG_ZERO for a class of probability zero; nan stays nan."""
    logits_xK = jnp.moveaxis(jnp.asarray(logits).astype(jnp.float32), axis, -1)
    impossible_xK = logits_xK < _LOG_ZERO
    # A mask of ones would be materialised, and a language model's logits are the largest array of its step.
    if where is not None:
        impossible_xK |= ~_class_mask(where, jnp.shape(logits), axis)
    return jnp.where(impossible_xK, _LOG_ZERO, logits_xK)


def _class_mask(where, shape, axis) -> jax.Array:
    """`where` as a boolean [..., K] with the classes last; all true when it is None."""
    where = jnp.ones((1,) * len(shape), bool) if where is None else jnp.asarray(where, bool)
    if where.ndim != len(shape) or not all(n in (1, m) for n, m in zip(where.shape, shape, strict=True)):
        raise ValueError(
            f"where must have the rank of the logits and broadcast to their shape {shape}, got {where.shape}"
        )
    return jnp.moveaxis(jnp.broadcast_to(where, shape), axis, -1)


def _at_label(log_probs_xK: jax.Array, labels) -> jax.Array:
    labels, num_classes = jnp.asarray(labels), log_probs_xK.shape[-1]
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}; use soft_cross_entropy for probabilities")
    if labels.shape != log_probs_xK.shape[:-1]:
        raise ValueError(
            f"labels must have the shape of the logits without the class axis, {log_probs_xK.shape[:-1]}, "
            f"got {labels.shape}"
        )
    labels = labels.astype(jnp.int32)
    labels = jnp.where(labels < 0, num_classes, labels)  # a negative index would wrap around to the last classes
    picked = jnp.take_along_axis(log_probs_xK, labels[..., None], axis=-1, mode="fill", fill_value=jnp.nan)
    return picked[..., 0]


RANGES = {"temperature": POSITIVE, "epsilon": SHARE}  # for plain numbers; arrays may be traced and are not checked


def _scalar(name: str, value: ArrayLike) -> jax.Array:
    if isinstance(value, numbers.Real | str):
        check(name, value, RANGES[name])
    if jnp.shape(value) != ():
        raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(value)}; use jax.vmap to sweep it")
    return jnp.asarray(value, jnp.float32)
