"""Every loss as a row: how to call it, its closed form in numpy, and the clauses of the contract that it claims."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib import losses

B, K = 6, 5


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def kl(log_p, log_q):
    return np.sum(np.exp(log_p) * (log_p - log_q), -1)


def numpy_nll(logits, labels):
    return -log_softmax(logits)[np.arange(len(labels)), labels]


def numpy_label_smoothing(logits, labels, epsilon):
    targets = (1 - epsilon) * np.eye(logits.shape[-1])[labels] + epsilon / logits.shape[-1]
    return -(targets * log_softmax(logits)).sum(-1)


def numpy_soft_cross_entropy(student, teacher, temperature):
    return -(np.exp(log_softmax(teacher / temperature)) * log_softmax(student / temperature)).sum(-1)


def numpy_softened_kl(student, teacher, temperature, direction):
    p, q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    m = np.log((np.exp(p) + np.exp(q)) / 2)
    divergence = {"forward": kl(p, q), "reverse": kl(q, p), "jensen_shannon": (kl(p, m) + kl(q, m)) / 2}
    return temperature**2 * divergence[direction]


def numpy_hard_label(student, teacher):
    return numpy_nll(student, teacher.argmax(-1))


def numpy_entropy_penalty(logits, _):
    return (np.exp(log_softmax(logits)) * log_softmax(logits)).sum(-1)


def numpy_top_k_kl(student, teacher, temperature, k):
    rest = np.argsort(-teacher, axis=-1)[:, k:]
    p = np.exp(teacher / temperature)
    np.put_along_axis(p, rest, 0, axis=-1)
    p /= p.sum(-1, keepdims=True)
    log_ratio = np.log(np.where(p > 0, p, 1)) - log_softmax(student / temperature)
    return temperature**2 * (p * log_ratio).sum(-1)


def numpy_similarity_preserving(student, teacher):
    def cosine(x, y):
        return x @ y / np.sqrt((x @ x) * (y @ y))

    s, t = ([[cosine(x, y) for y in features] for x in features] for features in (student, teacher))
    return np.asarray([1 - cosine(np.asarray(x), np.asarray(y)) for x, y in zip(s, t, strict=True)])


def numpy_tung_mori(student, teacher, form):
    assert form == "tung_mori"
    s, t = (x @ x.T / np.linalg.norm(x @ x.T, axis=1)[:, None] for x in (student, teacher))
    return ((s - t) ** 2).sum(1) / len(s)


def numpy_feature_l1(student, teacher, reduce):
    distance = np.abs(student - teacher).reshape(len(student), -1)
    return {"sum": distance.sum(1), "mean": distance.mean(1)}[reduce]


def numpy_hint(student, teacher, normalisation):
    square = ((student - teacher) ** 2).reshape(len(student), -1)
    return {"mean": square.mean(1), "half_sum": square.sum(1) / 2}[normalisation]


def numpy_cosine(student, teacher):
    return np.asarray(
        [1 - s @ t / np.linalg.norm(s) / np.linalg.norm(t) for s, t in zip(student, teacher, strict=True)]
    )


def numpy_attention_transfer(student, teacher):
    def attention(features):
        q = (features**2).mean(-1).reshape(len(features), -1)
        return q / np.linalg.norm(q, axis=1)[:, None]

    return ((attention(student) - attention(teacher)) ** 2).mean(1)


def huber(x):
    return x**2 / 2 if abs(x) <= 1 else abs(x) - 0.5


def numpy_relational_distance(student, teacher):
    def relative(x):
        distance = np.asarray([[np.linalg.norm(a - b) for b in x] for a in x])
        return distance / distance[~np.eye(len(x), dtype=bool)].mean()

    s, t = relative(student), relative(teacher)
    return np.asarray([np.mean([huber(s[n, m] - t[n, m]) for m in range(len(s)) if m != n]) for n in range(len(s))])


def numpy_relational_angle(student, teacher):
    def cosine(x, n, i, j):
        a, b = x[i] - x[n], x[j] - x[n]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    def value(n):
        pairs = itertools.permutations([m for m in range(len(student)) if m != n], 2)
        return np.mean([huber(cosine(student, n, i, j) - cosine(teacher, n, i, j)) for i, j in pairs])

    return np.asarray([value(n) for n in range(len(student))])


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A loss and the clauses that it claims."""

    fn: Callable[..., jax.Array]
    hparams: dict[str, Any]
    closed_form: Callable[..., np.ndarray]
    second: str = "teacher"  # the second argument: "teacher" (no gradient), integer "labels", or "none"
    zero_at_equality: bool = False  # d(p, p) = 0, and d >= 0
    on_logits: bool = True  # the last axis holds classes, which may be shifted, moved, masked and impossible
    relational: bool = False  # a value depends on the whole batch: no micro-batches, and a mask of examples
    shape: tuple[int, ...] = (B, K)  # of an argument that suits it
    limit: float | None = None  # of the loss over the mean squared difference of centred logits, as T -> inf

    @property
    def traced(self):
        """The hyper-parameters that may be swept."""
        return {name: value for name, value in self.hparams.items() if isinstance(value, float)}

    @property
    def static(self):
        """Those that shape the program."""
        return {name: value for name, value in self.hparams.items() if name not in self.traced}

    # Compiled once a row: eager operations compile one by one, which takes longer.

    @functools.cached_property
    def call(self):
        """The loss with its hyper-parameters, compiled."""
        return jax.jit(self.eager, static_argnames="axis")

    def eager(self, first, second, **settings):
        """The loss with its hyper-parameters, or others; one that needs no second argument does not get it."""
        inputs = (first,) if self.second == "none" else (first, second)
        return self.fn(*inputs, **{**self.hparams, **settings})

    @functools.cached_property
    def grad(self):
        """(first, traced hyper-parameters, second) -> the sum and its gradients with respect to the first two."""

        def total(first, traced, second, where=None):
            mask = {} if where is None else {"where": where}
            return self.eager(first, second, **mask, **traced).sum()

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))


ROWS = {
    "cross_entropy": Row(losses.cross_entropy, {}, numpy_nll, second="labels"),
    "label_smoothing": Row(losses.label_smoothing, {"epsilon": 0.1}, numpy_label_smoothing, second="labels"),
    "soft_cross_entropy": Row(losses.soft_cross_entropy, {"temperature": 3.0}, numpy_soft_cross_entropy),
    "softened_kl": Row(
        losses.softened_kl,
        {"temperature": 3.0, "direction": "forward"},
        numpy_softened_kl,
        zero_at_equality=True,
        limit=1 / 2,
    ),
    "softened_kl/reverse": Row(
        losses.softened_kl,
        {"temperature": 0.7, "direction": "reverse"},
        numpy_softened_kl,
        zero_at_equality=True,
        limit=1 / 2,
    ),
    "softened_kl/jensen_shannon": Row(
        losses.softened_kl,
        {"temperature": 2.0, "direction": "jensen_shannon"},
        numpy_softened_kl,
        zero_at_equality=True,
        limit=1 / 8,
    ),
    # Not 0 at equality: the teacher's own answer is softer than its first choice, or than its first k.
    "hard_label": Row(losses.hard_label, {}, numpy_hard_label),
    "top_k_kl": Row(losses.top_k_kl, {"temperature": 3.0, "k": 2}, numpy_top_k_kl),
    "entropy_penalty": Row(losses.entropy_penalty, {}, numpy_entropy_penalty, second="none"),
    "similarity_preserving": Row(
        losses.similarity_preserving,
        {},
        numpy_similarity_preserving,
        zero_at_equality=True,
        on_logits=False,
        relational=True,
    ),
    "similarity_preserving/tung_mori": Row(
        losses.similarity_preserving,
        {"form": "tung_mori"},
        numpy_tung_mori,
        zero_at_equality=True,
        on_logits=False,
        relational=True,
    ),
    "relational_distance": Row(
        losses.relational_distance,
        {},
        numpy_relational_distance,
        zero_at_equality=True,
        on_logits=False,
        relational=True,
    ),
    "relational_angle": Row(
        losses.relational_angle,
        {},
        numpy_relational_angle,
        zero_at_equality=True,
        on_logits=False,
        relational=True,
    ),
    "feature_l1": Row(
        losses.feature_l1,
        {"reduce": "sum"},
        numpy_feature_l1,
        zero_at_equality=True,
        on_logits=False,
        shape=(B, 2, 4),  # whose draws are not near the kink, as finite differences need it
    ),
    "feature_l1/mean": Row(
        losses.feature_l1,
        {"reduce": "mean"},
        numpy_feature_l1,
        zero_at_equality=True,
        on_logits=False,
        shape=(B, 2, 4),
    ),
    "hint": Row(losses.hint, {"normalisation": "mean"}, numpy_hint, zero_at_equality=True, on_logits=False),
    "hint/half_sum": Row(
        losses.hint,
        {"normalisation": "half_sum"},
        numpy_hint,
        zero_at_equality=True,
        on_logits=False,
        shape=(B, 2, 2, 3),
    ),
    "cosine": Row(losses.cosine, {}, numpy_cosine, zero_at_equality=True, on_logits=False),
    "attention_transfer": Row(
        losses.attention_transfer,
        {},
        numpy_attention_transfer,
        zero_at_equality=True,
        on_logits=False,
        shape=(B, 2, 3, 4),
    ),
}


def rows(claim: Callable[[Row], Any] = lambda row: True):
    return pytest.mark.parametrize("row", [pytest.param(r, id=n) for n, r in ROWS.items() if claim(r)])


def draw(row: Row, shape=None, seed=0):
    shape = row.shape if shape is None else shape
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(size=(2, *shape)).astype(np.float32) * 2
    labels = rng.integers(shape[-1], size=shape[:-1]).astype(np.int32)
    return jnp.asarray(student), jnp.asarray(teacher if row.second == "teacher" else labels)
