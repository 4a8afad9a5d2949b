"""Time full training steps (forward, backward, AdamW) of every network, with and without its fast forms.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/models.py --width 64

Every case is timed twice: one jitted step called from Python, and twenty steps inside one `lax.fori_loop`. Cases are
interleaved because machines are noisy, so read the ratios. The table shows best / median over the rounds, and the ratio
of the plain form's median to the case's.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from kdib.models import build, kernels, recurrent, transformer
from kdib.models.base import Model

BATCH, LENGTH, VOCAB, STEPS = 64, 32, 1000, 20


class Case(NamedTuple):
    """A preset, and the functions that are replaced in modules while it is traced."""

    preset: str
    overrides: dict[str, float]
    replace: tuple[tuple[Any, str, Callable], ...] = ()
    baseline: str | None = None
    language: bool = False  # a language model, which predicts every word


def plain_layer(input_DxG, recurrent_HxG, bias_G, x_TxBxD, keep_BxH):
    """Compute the LSTM's layer with JAX's derivative and all inputs projected at once."""

    def step(carry, z):
        h, c = carry
        i, f, g, o = jnp.split(z + (keep_BxH * h) @ recurrent_HxG, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros_like(keep_BxH)
    return lax.scan(step, (zeros, zeros), x_TxBxD @ input_DxG + bias_G[None, None])[1]


AUTODIFF = (recurrent, "lstm_layer", plain_layer)
THREEFRY = (kernels, "bernoulli", jax.random.bernoulli)
MATMUL = [(module, "over_rows", lambda x, w, *_, **__: x @ w) for module in (recurrent, transformer)]
WHOLE = (transformer, "read", lambda x, position: x)
NONE = {"embedding_dropout": 0.0, "dropout": 0.0, "attention_dropout": 0.0}
CASES = {
    "lstm, derivative by JAX": Case("lstm_small", {}, (AUTODIFF,)),
    "lstm": Case("lstm_small", {}, (), "lstm, derivative by JAX"),
    "lstm language model, x @ w": Case("lstm_small", {}, (MATMUL[0],), language=True),
    "lstm language model": Case("lstm_small", {}, (), "lstm language model, x @ w", language=True),
    "transformer language model, x @ w": Case("transformer_seq_small", {}, (MATMUL[1],), language=True),
    "transformer language model": Case(
        "transformer_seq_small", {}, (), "transformer language model, x @ w", language=True
    ),
    "transformer, threefry dropout": Case("transformer_small", {}, (THREEFRY,)),
    "transformer": Case("transformer_small", {}, (), "transformer, threefry dropout"),
    "transformer, no dropout, whole last block": Case("transformer_small", NONE, (WHOLE,)),
    "transformer, no dropout": Case("transformer_small", NONE, (), "transformer, no dropout, whole last block"),
    "transformer_seq, threefry dropout": Case("transformer_seq_small", {}, (THREEFRY,)),
    "transformer_seq": Case("transformer_seq_small", {}, (), "transformer_seq, threefry dropout"),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", choices=CASES, nargs="*", default=list(CASES))
    args = parser.parse_args()
    runners = {name: list(compiled(CASES[name], args.width)) for name in args.only}
    times = {name: ([], []) for name in runners}
    for _ in range(args.rounds):
        for name, forms in runners.items():
            for form, spent in zip(forms, times[name], strict=True):
                spent.append(form())
    huge = "hugetlb=1" in os.environ.get("GLIBC_TUNABLES", "")
    print(
        f"batch {BATCH}, length {LENGTH}, width {args.width}, vocabulary {VOCAB}; huge pages {'on' if huge else 'off'}"
    )
    print(f"{'':44}{'calls, ms':>16}{'fori_loop, ms':>16}{'loop/calls':>11}{'plain/this':>11}")
    for name, (calls, loop) in times.items():
        middle = statistics.median(loop)
        baseline = CASES[name].baseline
        gain = f"{statistics.median(times[baseline][1]) / middle:.2f}" if baseline in times else ""
        spans = "".join(f"{min(t):8.1f} /{statistics.median(t):6.1f}" for t in (calls, loop))
        print(f"{name:44}{spans}{middle / statistics.median(calls):11.2f}{gain:>11}")


def compiled(case: Case, width: int) -> Iterator[Callable[[], float]]:
    """Yield two functions that train for STEPS steps and return milliseconds per step."""
    sizes = {"embedding_size": width, "hidden_size": width} if case.preset.startswith("lstm") else {"width": width}
    classes = None if case.language else 2
    model = build(case.preset, vocab_size=VOCAB, num_classes=classes, max_length=LENGTH, **sizes, **case.overrides)
    tx = optax.adamw(1e-3)
    step = training_step(model, tx, batch(case.language))
    with replaced(case.replace):
        params = model.init(jax.random.key(0), batch(case.language))["params"]
        state = (params, tx.init(params), jax.random.key(1))
        once = jax.jit(step).lower(state).compile()
        loop = jax.jit(lambda state: lax.fori_loop(0, STEPS, lambda _, s: step(s), state)).lower(state).compile()

    def calls(state):
        for _ in range(STEPS):
            state = once(state)
        return state

    for form in (calls, loop):
        jax.block_until_ready(form(state))
        yield lambda form=form: milliseconds(form, state) / STEPS


def training_step(model: Model, tx: optax.GradientTransformation, data: dict[str, jax.Array]) -> Callable:
    """Return a function from (params, opt_state, key) to the same after one step on the batch `data`."""

    def step(state):
        params, opt_state, key = state
        key, dropout_key = jax.random.split(key)

        def loss(params):
            outputs, _ = model.apply(params, {}, data, train=True, key=dropout_key)
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, data["label"])
            return losses.mean(where=data["mask"])

        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state, key

    return step


def batch(language: bool) -> dict[str, jax.Array]:
    """Draw random words, lengths between 5 and LENGTH, and random labels: one per sentence, or one per word."""
    rng = np.random.default_rng(0)
    tokens_BxL = rng.integers(3, VOCAB, (BATCH, LENGTH))
    length_B = rng.integers(5, LENGTH + 1, BATCH)
    label = rng.integers(3, VOCAB, (BATCH, LENGTH)) if language else rng.integers(0, 2, BATCH)
    mask = np.arange(LENGTH) < length_B[:, None] if language else np.ones(BATCH, bool)
    arrays = {"tokens": tokens_BxL, "length": length_B, "label": label}
    return {"mask": jnp.asarray(mask), **{name: jnp.asarray(a, jnp.int32) for name, a in arrays.items()}}


@contextmanager
def replaced(changes: tuple[tuple[Any, str, Callable], ...]) -> Iterator[None]:
    """Replace functions in modules while something is traced."""
    patches = [mock.patch.object(module, name, function) for module, name, function in changes]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def milliseconds(form: Callable, state: Any) -> float:
    """Return the wall time of one call in milliseconds."""
    start = time.perf_counter()
    jax.block_until_ready(form(state))
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
