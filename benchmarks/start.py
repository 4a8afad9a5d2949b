"""Measure the time from process start to the first training step, and peak memory, against PyTorch eager.

    python benchmarks/start.py
    python benchmarks/start.py --only "transformer, dropout" --steps 50

Every line of the table is a separate process: imports, random data, compilation if needed, the first step, then
`--steps` more steps for the peak memory. kdib runs twice: with an empty cache of compiled programs, and with the cache
that the first run has left.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time

import picture_cases
from cases import BATCH, CASES, N, sentences

KNOWN = (*CASES, *(name for name, case in picture_cases.CASES.items() if not case.teacher))
SIDES = {"kdib, nothing compiled": "kdib", "kdib, compiled before": "kdib", "torch": "torch"}


def main() -> None:
    """Print the table, or run as one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=KNOWN, nargs="*", default=["lstm", "transformer, dropout", "cnn_1, pool"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", choices=("kdib", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        measure(args.side, args.only[0], args.steps, args.began)
        return
    print(f"{'':26}{'':24}{'first step, s':>14}{'peak, MB':>10}", flush=True)
    for name in args.only:
        with tempfile.TemporaryDirectory() as cache:
            for label, side in SIDES.items():
                seconds, megabytes = in_a_process(side, name, args.steps, cache)
                print(f"{name:26}{label:24}{seconds:14.1f}{megabytes:10.0f}", flush=True)


def in_a_process(side: str, name: str, steps: int, cache: str) -> tuple[float, float]:
    """Return seconds to the first step, and peak memory in MB, of a separate process."""
    command = [sys.executable, __file__, "--side", side, "--only", name, "--steps", str(steps)]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command += ["--began", str(time.time())]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    seconds, megabytes = result.stdout.split()[-2:]
    return float(seconds), float(megabytes)


def measure(side: str, name: str, steps: int, began: float) -> None:
    """Print the two numbers that `in_a_process` reads."""
    step = _kdib_step(name) if side == "kdib" else _torch_step(name)
    step(1)
    first = time.time() - began
    step(steps)
    print(first, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _kdib_step(name: str):
    from trained import Trained, network

    if name in picture_cases.CASES:
        return Trained(picture_cases.network(picture_cases.CASES[name]), picture_cases.pictures()).milliseconds
    return Trained(network(CASES[name]), sentences(N, language=CASES[name].language)).milliseconds


def _torch_step(name: str):
    import torch
    import torch_peers as peers

    torch.set_num_threads(2)
    if name in picture_cases.CASES:
        import vision

        net = vision.peer(picture_cases.CASES[name])
        step = vision.training_step(net, picture_cases.pictures(), torch.contiguous_format)
        return lambda steps: [step() for _ in range(steps)]
    data = {k: v for k, v in sentences(N, language=CASES[name].language).items() if k != "id"}
    step = peers.training_step(peers.of(CASES[name]), data, BATCH, None)
    return lambda steps: [step() for _ in range(steps)]


if __name__ == "__main__":
    main()
