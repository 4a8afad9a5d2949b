"""Measure time and memory of comparing all networks of a study with each other, against one pair at a time.

    python benchmarks/similarity.py

There are 40 networks (half 128 wide, half 256) of 5 seeds, 2,000 examples of one test set and three layers each. Timed
are all rows of the property, and those of training paths with 8 snapshots per run on 500 examples, as in a study.
Activations are random, so that no network is timed. The baseline computes some pairs from their activations with numpy
and scipy, as the formulas are written (centred matrices of examples, pdist, orthogonal_procrustes), scaled up to all.
Then follow linear CKA of a stream, whose memory must not grow, and of a layer of 25,088 features.
"""

import argparse
import functools
import itertools
import resource
import subprocess
import sys
import time

import numpy as np

from kdib.properties import similarity, training_paths
from kdib.properties.base import HIDDEN_EXAMPLES, Evidence
from kdib.properties.moments import cka, merge, moments
from kdib.records import Subject
from kdib.tasks.base import Dataset

FITS = ("teacher", "peer", "alone", "self", "distilled", "smoothed", "shuffled", "reverse")
SEEDS, SNAPSHOTS, SAMPLE, BATCH = 5, 8, 12, 500


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--part", choices=PARTS, help="print the seconds and the peak memory of one part")
    args = parser.parse_args()
    if args.part:
        before = peak()
        spent, what = PARTS[args.part](args.examples)
        print(f"{spent[0]:.2f} s ({spent[1]:.2f} s of CPU), peak {peak()} MB, {before} MB of it imports: {what}")
        return
    print(f"numpy {np.__version__}, {len(FITS) * SEEDS} networks, {args.examples} examples")
    cases = [("similarity", args.examples), ("similarity", HIDDEN_EXAMPLES), ("paths", HIDDEN_EXAMPLES)]
    cases += [("one_by_one", args.examples), ("wide", args.examples), *(("stream", args.examples * k) for k in (1, 10))]
    for part, examples in cases:
        command = [sys.executable, __file__, "--part", part, "--examples", str(examples)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(f"{part}, {examples} examples: {done.stdout.strip() or f'ended with {done.returncode}'}", flush=True)


def clock() -> np.ndarray:
    """Return wall-clock seconds, and CPU seconds of all threads of this process, since the machine may be shared."""
    return np.array([time.perf_counter(), time.process_time()])


def peak() -> int:
    """Return the peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def networks() -> list[Subject]:
    """Return the last snapshot of every run."""
    return [Subject(f"{fit}/seed{s}@{4000}", fit, s, f"seed{s}", 4000, fit) for fit in FITS for s in range(SEEDS)]


def draw(n: int, subject: Subject, split: str) -> dict[str, np.ndarray]:
    """Draw three layers [n, D] of a network: a part of rank 20 that all networks share, and independent noise."""
    del split
    width = 128 if FITS.index(subject.fit) % 2 else 256
    common = np.random.default_rng(0).normal(size=(n, 20)).astype(np.float32)
    rng = np.random.default_rng([FITS.index(subject.fit), subject.seed, subject.step])
    layers = ("block0", "block1", "penultimate")
    return {
        name: common @ rng.standard_normal((20, width), np.float32) + rng.standard_normal((n, width), np.float32)
        for name in layers
    }


def evidence(n: int) -> Evidence:
    """Return the evidence with all pairs of networks."""
    pairs = [(b, a) for a, b in itertools.combinations(networks(), 2)]
    sets = {"test": Dataset({"label": np.zeros(n, np.int32)}, {})}
    return Evidence(sets, lambda *_: np.zeros(0), pairs, hidden=functools.partial(draw, n), fits={"teacher": "teacher"})


def similarity_rows(n: int) -> tuple[np.ndarray, str]:
    """Time all rows of the property, minus the time to draw activations."""
    begin = clock()
    rows = sum(1 for _ in similarity.PROPERTY.measure([], evidence(n)))
    spent, begin = clock() - begin, clock()
    for subject in networks() * 2:  # once for pairs, once for layers
        draw(n, subject, "test")
    return spent - (clock() - begin), f"{rows} rows"


def path_rows(n: int) -> tuple[np.ndarray, str]:
    """Time all rows of the training paths, minus the time to draw activations."""
    steps = [0, *(2**k * 4000 // 2 ** (SNAPSHOTS - 2) for k in range(SNAPSHOTS - 1))]

    def snapshots(subject: Subject) -> list[Subject]:
        return [subject._replace(id=f"{subject.fit}/{subject.run}@{step}", step=step) for step in steps]

    pairs = [pair for pair in evidence(n).pairs if pair[1].fit == "teacher"]
    looked_at = evidence(n)._replace(pairs=pairs, snapshots=snapshots)
    begin = clock()
    rows = sum(1 for _ in training_paths.PROPERTY.measure([], looked_at))
    spent, begin = clock() - begin, clock()
    for subject in networks() * SNAPSHOTS:
        draw(n, subject, "test")
    return spent - (clock() - begin), f"{rows} rows"


def one_by_one(n: int) -> tuple[np.ndarray, str]:
    """Time the three measures of some pairs, each from the activations, scaled up to all pairs."""
    from scipy.linalg import orthogonal_procrustes
    from scipy.spatial.distance import pdist

    pairs = evidence(n).pairs
    some = pairs[:: len(pairs) // SAMPLE]
    hidden = [[draw(n, subject, "test")["penultimate"].astype(np.float64) for subject in pair] for pair in some]
    begin = clock()
    for pair in hidden:
        x, y = (values - values.mean(axis=0) for values in pair)
        kernels = [values @ values.T for values in (x, y)]
        for kernel in kernels:
            np.fill_diagonal(kernel, 0)
        _ = [_song(*of) for of in (kernels, kernels[:1] * 2, kernels[1:] * 2)]
        cosines = [1 - pdist(values, "cosine") for values in (x, y)]
        _ = cosines[0] @ cosines[1] / np.prod([np.linalg.norm(c) for c in cosines])
        width = max(x.shape[1], y.shape[1])
        unit = [np.pad(v / np.linalg.norm(v), ((0, 0), (0, width - v.shape[1]))) for v in (x, y)]
        _ = orthogonal_procrustes(*unit)
    spent = (clock() - begin) / len(some) * len(pairs)
    return (
        spent,
        f"baseline, {len(some)} of {len(pairs)} pairs, times {len(pairs) / len(some):.0f}; without layers",
    )


def _song(k: np.ndarray, kernel: np.ndarray) -> float:
    """Return the unbiased HSIC of kernels with a zero diagonal."""
    n = len(k)
    sums = k.sum() * kernel.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * k.sum(axis=0) @ kernel.sum(axis=0)
    return (np.sum(k * kernel) + sums) / (n * (n - 3))


def wide_layer(n: int) -> tuple[np.ndarray, str]:
    """Time linear CKA of two layers of 25,088 features, from matrices of examples."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((n, 25_088), np.float32) for _ in range(2))
    begin = clock()
    value = similarity.kernel_cka(similarity.linear_kernel(x), similarity.linear_kernel(y), unbiased=True)
    return clock() - begin, f"unrelated layers of 25,088 features, CKA {value:.4f}"


def stream(n: int) -> tuple[np.ndarray, str]:
    """Time linear CKA of 256 features with 256, in batches."""
    rng, begin = np.random.default_rng(0), clock()
    xy = xx = yy = None
    for _ in range(n // BATCH):
        x = rng.standard_normal((BATCH, 256))
        y = x + rng.standard_normal((BATCH, 256))
        xy, xx, yy = merge(xy, moments(x, y)), merge(xx, moments(x, x)), merge(yy, moments(y, y))
    assert xy is not None and xx is not None and yy is not None
    return clock() - begin, f"in batches of {BATCH}, CKA {cka(xy, xx, yy, unbiased=True):.4f}"


PARTS = {
    "similarity": similarity_rows,
    "paths": path_rows,
    "one_by_one": one_by_one,
    "wide": wide_layer,
    "stream": stream,
}

if __name__ == "__main__":
    main()
