"""A population of kdib under train_chunk, as in a study."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import BATCH, LAYERS, LENGTH, VOCAB, WIDTH, Case
from jax.sharding import NamedSharding, PartitionSpec

from kdib.losses import from_config
from kdib.models import build
from kdib.models.base import Model, nothing
from kdib.optimizer import make_optimizer, with_learning_rate
from kdib.population import Population, draw_order, healthy, run_sharding, train_chunk
from kdib.step import Architecture, init_state

LABELS = {"ce": {"fn": "cross_entropy", "weight": 1.0}}
DISTILLED = {"kl": {"fn": "softened_kl", "weight": 1.0}}


def network(case: Case) -> Model:
    """Build kdib's network."""
    sizes = {"vocab_size": VOCAB, "num_classes": None if case.language else 2, "max_length": LENGTH, "layers": LAYERS}
    if case.network == "lstm":
        rates = {"input_dropout": case.dropout, "dropout": case.dropout}
        return build("lstm_small", **sizes, embedding_size=WIDTH, hidden_size=WIDTH, **rates)
    rates = {"dropout": case.dropout, "embedding_dropout": case.dropout, "attention_dropout": case.dropout}
    return build("transformer_seq_small" if case.language else "transformer_small", **sizes, width=WIDTH, **rates)


class Trained:
    """R runs of one network on random data, several steps per call."""

    def __init__(self, model: Model, data: Mapping[str, np.ndarray], *, runs: int = 1, teacher=None, edges=()):
        """`teacher` is None, or a Model with its variables."""
        teacher_model, variables = teacher or (nothing(), {"params": {}})
        tx = make_optimizer(
            "adamw",
            steps=10_000,
            warmup_steps=50,
            schedule={"name": "cosine"},
            weight_decay=1e-2,
            clip_norm=1.0,
        )
        self.arch, self.edges, self.at = Architecture(model, teacher_model, (), tx), edges, 0
        sharding = run_sharding(runs)
        self.data = jax.device_put(dict(data), NamedSharding(sharding.mesh, PartitionSpec()))
        self.steps_per_epoch = len(data["label"]) // BATCH
        loss = from_config(DISTILLED if teacher else LABELS)
        if "mask" in data:
            loss = from_config({n: {**t, "where": "batch.mask"} for n, t in (DISTILLED if teacher else LABELS).items()})
        self.answers = variables.get("answers")
        own = {part: value for part, value in variables.items() if part != "answers"}
        stack = lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf] * runs), tree)  # noqa: E731
        start = jax.jit(init_state, static_argnames="arch")
        one = {name: values[:1] for name, values in data.items()}
        keys = [jax.random.split(jax.random.key(seed)) for seed in range(runs)]
        states = [start(init, run, one, variables, arch=self.arch) for init, run in keys]
        states = [state._replace(opt_state=with_learning_rate(state.opt_state, 1e-3)) for state in states]
        states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        self.population, self.variables, self.loss = jax.device_put(
            (Population(states, healthy(runs)), stack(own), stack(loss)), sharding
        )
        self.order = draw_order(self.population.state.key, jnp.int32(0), self.data, batch_size=BATCH, edges=self.edges)

    def milliseconds(self, steps: int) -> float:
        """Return the wall time per step, in milliseconds, of `steps` steps in one call within an epoch."""
        if self.at + steps > self.steps_per_epoch:
            self.at = 0
        begin = time.perf_counter()
        self.population, report = train_chunk(*self._arrays(self.at, self.at + steps), **self._static())
        jax.block_until_ready((self.population, report))
        self.at += steps
        return 1000 * (time.perf_counter() - begin) / steps

    def lowered(self):
        """Return the program that `milliseconds` calls, lowered and not yet compiled."""
        return train_chunk.lower(*self._arrays(0, 1), **self._static())

    def _arrays(self, start: int, stop: int):
        span = jnp.int32(start), jnp.int32(stop)
        return self.population, self.variables, self.loss, self.data, self.order, *span, self.answers

    def _static(self):
        return {"arch": self.arch, "edges": self.edges}


def parameters(tree: Any) -> int:
    """Return how many numbers a tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
