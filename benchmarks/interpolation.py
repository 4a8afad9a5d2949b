"""Measure time and memory of a path between two networks, against a loop in PyTorch.

    python benchmarks/interpolation.py

The path has the loss and the error of MLP_1 (784-2000-1000-100-10) at 51 points between two sets of random weights, on
10,000 images of 28 x 28, 500 at a time. Each form is compiled, or warmed up by one point, before it is timed. Rounds of
the two forms alternate, and the best counts; the limit is 60 s on two cores. CPU seconds are summed over threads,
waiting threads included; a busy machine changes them least. Peak memory is that of a separate process, at two numbers
of points and at a tenth of the images.
"""

import argparse
import itertools
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from kdib.models import build
from kdib.models.base import Model
from kdib.properties.basins.interpolation import batched, interpolation_path, loss_and_error

BATCH = 500


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=51)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="print the peak memory of one path")
    args = parser.parse_args()
    model, ends, data = case(args.images)
    alphas = np.linspace(0, 1, args.points)
    run = ours(model, ends, data, alphas)
    if args.memory:
        run()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    print(f"jax {jax.__version__}, {jax.local_device_count()} device(s); {args.points} points, {args.images} images")
    begin = time.perf_counter()
    run()
    print(f"first call, compilation included: {time.perf_counter() - begin:.1f} s", flush=True)
    loop = in_torch(ends, data, alphas)
    forms = {"kdib": run} | ({"torch": loop} if loop else {})
    spent = {name: [] for name in forms}
    for _ in range(args.rounds):
        for name, form in forms.items():
            spent[name].append(timed(form))
    layers = itertools.pairwise((784, 2000, 1000, 100, 10))
    flop = 2 * sum(a * b for a, b in layers) * args.images * args.points
    for name, of in spent.items():
        wall, cpu = np.min(of, axis=0)
        rounds = [round(seconds, 2) for seconds, _ in of]
        print(f"{name}: {wall:.2f} s, {cpu:.2f} CPU s, {flop / wall / 1e9:.0f} GFLOP/s; rounds {rounds}", flush=True)
    if loop:
        print(f"largest difference of a loss: {np.abs(np.asarray(run().loss) - loop()).max():.1e}", flush=True)
    for images, points in ((args.images, args.points), (args.images, 5), (args.images // 10, args.points)):
        print(f"peak memory, {points} points, {images} images: {peak_megabytes(images, points)} MB", flush=True)


def case(n_images: int):
    """Return (model, two sets of parameters, columns [N, ...])."""
    model = build("mlp_1", num_classes=10, image_shape=(28, 28, 1))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n_images, 28, 28, 1)).astype(np.uint8)
    data = {"image": images, "label": rng.integers(0, 10, n_images).astype(np.int32)}
    first = {name: column[:1] for name, column in data.items()}
    return model, [model.init(jax.random.key(seed), first)["params"] for seed in range(2)], data


def ours(model: Model, ends, data, alphas):
    """Return a function that computes the path as one program."""
    batches = jax.device_put(batched(data, BATCH))

    @jax.jit
    def path(a, b, batches, alphas):
        return interpolation_path(lambda params: loss_and_error(model, params, {}, batches), a, b, alphas)

    return lambda: jax.block_until_ready(path(*ends, batches, jnp.asarray(alphas, jnp.float32)))


def in_torch(ends, data, alphas):
    """Return a function that computes the losses [A] in a plain loop; None without PyTorch."""
    try:
        import torch
    except ImportError as error:
        print(f"torch: skipped, {error}")
        return None
    torch.set_num_threads(2)
    names = ("layer1", "layer2", "layer3", "head")
    a, b = (
        [torch.tensor(np.array(params[name][part])) for name in names for part in ("kernel", "bias")] for params in ends
    )
    images, labels = torch.tensor(data["image"]), torch.tensor(data["label"]).long()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")

    def loss(leaves) -> float:
        total = 0.0
        for first in range(0, len(images), BATCH):
            x = images[first : first + BATCH].flatten(1).float() / 255
            for i in range(0, 6, 2):
                x = torch.relu(torch.addmm(leaves[i + 1], x, leaves[i]))
            x = torch.addmm(leaves[7], x, leaves[6])
            total += float(torch.nn.functional.cross_entropy(x, labels[first : first + BATCH], reduction="sum"))
        return total / len(images)

    def path():
        with torch.inference_mode():
            return np.array([loss([torch.lerp(x, y, float(w)) for x, y in zip(a, b, strict=True)]) for w in alphas])

    with torch.inference_mode():
        loss(a)
    return path


def timed(run) -> tuple[float, float]:
    """Return wall-clock and CPU seconds of one call."""
    begin, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - begin, time.process_time() - cpu


def peak_megabytes(images: int, points: int) -> str:
    """Return the peak memory of a separate process, compilation included, or how the process ended."""
    command = [sys.executable, __file__, "--memory", "--images", str(images), "--points", str(points)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else f"(ended with {done.returncode})"


if __name__ == "__main__":
    main()
