"""Sizes, cases and random data of the benchmarks on sentences, without jax or torch, so that either can run alone."""

import os
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BATCH, LENGTH, VOCAB, WIDTH, LAYERS = 128, 32, 1000, 128, 2
N = 40 * BATCH


class Case(NamedTuple):
    """A network, its dropout, and where its targets come from: "" (labels), "live" or "stored"."""

    network: str
    dropout: float
    language: bool = False
    teacher: str = ""


CASES = {
    "lstm": Case("lstm", 0.0),
    "transformer": Case("transformer", 0.0),
    "transformer, dropout": Case("transformer", 0.1),
    "transformer, dropout, live lstm teacher": Case("transformer", 0.1, teacher="live"),
    "transformer, dropout, stored answers": Case("transformer", 0.1, teacher="stored"),
    "lstm language model": Case("lstm", 0.0, language=True),
    "transformer language model, dropout": Case("transformer", 0.1, language=True),
}


def sentences(n: int, *, language: bool, shortest: int = 5) -> dict[str, np.ndarray]:
    """Draw random words, right-padded, with lengths uniform between `shortest` and LENGTH."""
    rng = np.random.default_rng(0)
    length_N = rng.integers(shortest, LENGTH + 1, n).astype(np.int32)
    real_NxL = np.arange(LENGTH) < length_N[:, None]
    tokens_NxL = np.where(real_NxL, rng.integers(3, VOCAB, (n, LENGTH)), 0).astype(np.int32)
    data = {"tokens": tokens_NxL, "length": length_N, "id": np.arange(n, dtype=np.int32)}
    if language:
        return {**data, "label": np.roll(tokens_NxL, -1, 1), "mask": real_NxL}
    return {**data, "label": rng.integers(0, 2, n).astype(np.int32)}


def undisturbed(times: Sequence[float]) -> float:
    """Return the median of the faster half of the rounds: other work on the machine can only make times longer."""
    return statistics.median(sorted(times)[: (len(times) + 1) // 2])


def pages() -> str:
    """Say whether malloc was told to use huge pages, which is set before the process starts."""
    return f"huge pages {'on' if 'hugetlb=1' in os.environ.get('GLIBC_TUNABLES', '') else 'off'}"
