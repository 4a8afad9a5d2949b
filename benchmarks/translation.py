"""Measure networks on shifted images: time, share of the matmul peak, memory, and the ratio to scipy with PyTorch.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/translation.py

The networks are an MLP 2000-1000-100-10 on 441 offsets (up to 10 pixels) of 1,000 images of 28 x 28, and a CNN of four
3 x 3 convolutions (32, 64, 128, 256 channels, each but the last pooled) on 21 offsets. Each form is compiled before it
is timed, and the best round counts.
"""

import argparse
import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from kdib.models.convnet import max_pool
from kdib.models.convolution import convolve
from kdib.properties.translation import fitting_chunk, in_pieces, offset_grid, translation_grid

SIZES, CHANNELS, SIDES, CLASSES = (784, 2000, 1000, 100, 10), (1, 32, 64, 128, 256), (28, 14, 7, 3), 10


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--radius", type=int, default=10, help="the MLP's offsets are (2 radius + 1)^2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", nargs=2, metavar=("NETWORK", "CHUNK"), help="print the peak memory of one form")
    parser.add_argument("--only", choices=NETWORKS, nargs="*", default=list(NETWORKS))
    args = parser.parse_args()
    images = jax.random.uniform(jax.random.key(0), (args.images, 28, 28, 1))
    cases = {"mlp": offset_grid(args.radius), "cnn": offset_grid(10)[210:231]}  # the CNN's: one row of the square
    if args.memory:
        network, chunk = args.memory
        jax.block_until_ready(grid(network, images, cases[network], int(chunk)))
        print(own_peak())
        return
    peak, cases = matmul_peak(), {network: cases[network] for network in args.only}
    print(f"jax {jax.__version__}, {args.images} images; measured matmul peak {peak:.0f} GFLOP/s")
    for network, offsets in cases.items():
        default = fitting_chunk(classes(network, weights(network)), images)
        for chunk in sorted({1, min(default, len(offsets)), min(8, len(offsets))}):
            spent = seconds(lambda o=offsets, n=network, c=chunk: grid(n, images, o, c), args.rounds)
            flop = flop_of_an_image(network) * args.images * len(offsets)
            speed = f"{flop / spent / 1e9:.0f} GFLOP/s, {flop / spent / 1e9 / peak:.0%} of the peak"
            print(
                f"{network}, {len(offsets)} offsets, chunk {chunk}{' (default)' if chunk == default else ''}: "
                f"{spent:.2f} s, {speed}",
                flush=True,
            )
    for network, offsets in cases.items():
        chunks = 1, len(offsets) if network == "cnn" else min(len(offsets), 64)
        memory = [peak_megabytes(network, chunk, args) for chunk in chunks]
        print(f"{network}: peak memory {memory[0]} MB at chunk {chunks[0]}, {memory[1]} MB at chunk {chunks[1]}")
    if "mlp" in cases:
        spent = seconds(lambda: grid("mlp", images, cases["mlp"], 1), args.rounds)
        against_torch(np.asarray(images), cases["mlp"], spent)


def own_peak() -> int:
    """Return this program's peak memory in MB; `ru_maxrss` would include the parent process, which is large here."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) // 1024


def flop_of_an_image(network: str) -> int:
    """Count the FLOP of a forward pass's products; a convolution uses each weight at every pixel, padding included."""
    if network == "mlp":
        return 2 * sum(a * b for a, b in itertools.pairwise(SIZES))
    layers = zip(SIDES, itertools.pairwise(CHANNELS), strict=True)
    return 2 * (sum(side**2 * 9 * a * b for side, (a, b) in layers) + CHANNELS[-1] * CLASSES)


def weights(network: str) -> list[jax.Array]:
    """Draw random weights with He's scale."""
    keys = jax.random.split(jax.random.key(1), 8)
    if network == "mlp":
        shapes = list(itertools.pairwise(SIZES))
    else:
        shapes = [(3, 3, a, b) for a, b in itertools.pairwise(CHANNELS)] + [(CHANNELS[-1], CLASSES)]
    return [jax.random.normal(k, s) * np.sqrt(2 / np.prod(s[:-1])) for k, s in zip(keys, shapes, strict=False)]


def mlp(layers: list[jax.Array], images: jax.Array) -> jax.Array:
    """Return logits [N, K]."""
    hidden = images.reshape(len(images), -1)
    for layer in layers[:-1]:
        hidden = jax.nn.relu(hidden @ layer)
    return hidden @ layers[-1]


def cnn(layers: list[jax.Array], images: jax.Array) -> jax.Array:
    """Return logits [N, K]."""
    for i, kernel in enumerate(layers[:-1]):
        images = jax.nn.relu(convolve(images if i == 0 else max_pool(images, 2), kernel, 1, 1))
    return images.mean(axis=(1, 2)) @ layers[-1]


NETWORKS = {"mlp": mlp, "cnn": cnn}
_COMPILED = {}


def classes(network: str, layers: list[jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Return the function from images to their predicted classes [N], evaluated in pieces as in a study."""
    return in_pieces(lambda images: NETWORKS[network](layers, images).argmax(axis=-1))


def grid(network: str, images: jax.Array, offsets: np.ndarray, chunk: int) -> jax.Array:
    """Return the predicted classes [O, N]."""
    if (network, chunk) not in _COMPILED:
        _COMPILED[network, chunk] = jax.jit(
            lambda layers, images, offsets: translation_grid(classes(network, layers), images, offsets, chunk=chunk)
        )
    return _COMPILED[network, chunk](weights(network), images, offsets)


def matmul_peak(n: int = 2000) -> float:
    """Return the GFLOP/s of a square product, the best of ten."""
    a = jax.random.normal(jax.random.key(0), (n, n))
    product = jax.jit(jnp.matmul)
    return 2 * n**3 / seconds(lambda: product(a, a), 10) / 1e9


def seconds(run, rounds: int) -> float:
    """Return the best of the rounds, after one that compiles."""
    jax.block_until_ready(run())
    spent = []
    for _ in range(rounds):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        spent.append(time.perf_counter() - begin)
    return min(spent)


def peak_megabytes(network: str, chunk: int, args: argparse.Namespace) -> str:
    """Return the peak memory of a separate process, or how the process ended."""
    command = [sys.executable, __file__, "--images", str(args.images), "--radius", str(args.radius)]
    done = subprocess.run([*command, "--memory", network, str(chunk)], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else f"(ended with {done.returncode})"


def against_torch(images: np.ndarray, offsets: np.ndarray, ours: float) -> None:
    """Print the time of a plain loop (scipy shifts, torch predicts) on every 21st offset, scaled up to all."""
    try:
        import torch
    except ImportError as error:
        print(f"scipy + torch: skipped, {error}")
        return
    from scipy import ndimage

    torch.set_num_threads(2)
    layers = [torch.tensor(np.asarray(layer)) for layer in weights("mlp")]
    some = offsets[::21]
    begin = time.perf_counter()
    with torch.inference_mode():
        for dy, dx in some:
            hidden = torch.tensor(ndimage.shift(images, (0, dy, dx, 0), order=0)).flatten(1)
            for layer in layers[:-1]:
                hidden = torch.relu(hidden @ layer)
            (hidden @ layers[-1]).argmax(1)
    spent = (time.perf_counter() - begin) / len(some) * len(offsets)
    print(f"scipy + torch {torch.__version__}, mlp: {spent:.1f} s for all, kdib {ours:.1f} s: {spent / ours:.1f} times")


if __name__ == "__main__":
    main()
