"""A loss of two terms, and what a training step hands to it."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kdib.losses import combine, terms

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
