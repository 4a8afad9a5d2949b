"""Time full training steps of kdib, several per call as in a study, against PyTorch eager in the same process.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/against_torch.py
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/against_torch.py --runs 3 --only "transformer, dropout"

A step is forward, backward, clipping and AdamW on 128 sentences of up to 32 words, at width 128 and 2 layers. Rounds
are interleaved, so read the ratios: best / median of the faster half of the rounds. Tokens count positions, padding
included, on both sides. With `--runs` R, the runs of kdib train in a group divided over R devices, and also one after
another; torch trains them one after another.
"""

import argparse
import platform
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import torch
import torch_peers as peers
from cases import BATCH, CASES, LENGTH, Case, N, pages, sentences, undisturbed
from trained import Trained, network, parameters

from kdib.models.base import table
from kdib.population import train_chunk


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, nargs="*", default=list(CASES))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="per call, and per round")
    parser.add_argument("--runs", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(2)
    jax.config.update("jax_num_cpu_devices", args.runs)
    sides = {name: competitors(CASES[name], args.runs) for name in args.only}
    compiled = train_chunk._cache_size()
    print(f"{platform.machine()}, jax {jax.__version__}, torch {torch.__version__}, {pages()}")
    print(f"{args.runs} runs; {len(args.only)} cases, {compiled} compilations of train_chunk")
    times = {(name, side): [] for name, forms in sides.items() for side in forms}
    for _ in range(args.rounds):
        for (name, side), spent in times.items():
            spent.append(sides[name][side](args.steps) / args.runs)
    print(f"{'':42}{'':16}{'ms a run and step':>18}{'tokens/s':>10}{'torch/kdib':>14}")
    for (name, side), spent in times.items():
        best, middle = min(spent), undisturbed(spent)
        ours = times[name, "kdib"]
        ratio = f"{best / min(ours):.2f} / {middle / undisturbed(ours):.2f}" if side.startswith("torch") else ""
        print(f"{name:42}{side:16}{best:9.1f} /{middle:7.1f}{1000 * BATCH * LENGTH / middle:10.0f}{ratio:>14}")


def competitors(case: Case, runs: int) -> dict[str, Callable[[int], float]]:
    """Return the timed functions: each takes a number of steps and returns milliseconds per step, summed over runs."""
    data = sentences(N, language=case.language)
    arrays = {name: values for name, values in data.items() if name != "id"}
    begin = time.perf_counter()
    group = Trained(network(case), data, runs=runs, teacher=_teacher(case, data))
    group.milliseconds(2)
    ours: dict[str, Callable[[int], float]] = {"kdib": group.milliseconds}
    if runs > 1:
        single = Trained(network(case), data, teacher=_teacher(case, data))
        single.milliseconds(2)
        ours["kdib, in turn"] = lambda steps: sum(single.milliseconds(steps) for _ in range(runs))
    seconds = time.perf_counter() - begin
    reads = (False, True) if case.network == "transformer" and not case.language else (False,)
    for read_one in reads:
        step = peers.training_step(peers.of(case, read_one), arrays, BATCH, _torch_teacher(case))
        step()
        forms = lambda steps, step=step: sum(peers.milliseconds(step, steps) for _ in range(runs))  # noqa: E731
        ours["torch, reads one" if read_one else "torch"] = forms
    sizes = parameters(group.population.state.params) // runs, sum(p.numel() for p in peers.of(case).parameters())
    print(f"{case}: parameters {sizes[0]} and {sizes[1]}; kdib's start and compilation {seconds:.1f} s", flush=True)
    return ours


def _teacher(case: Case, data):
    if case.teacher == "live":
        model = network(Case("lstm", 0.0))
        return model, model.init(jax.random.key(9), {name: values[:1] for name, values in data.items()})
    if case.teacher == "stored":
        return table(), {
            "params": {"teacher": jnp.int32(0)},
            "answers": jax.random.normal(jax.random.key(9), (1, N, 2)),
        }
    return None


def _torch_teacher(case: Case):
    if case.teacher == "live":
        return peers.of(Case("lstm", 0.0))
    return torch.randn(N, 2) if case.teacher == "stored" else None


if __name__ == "__main__":
    main()
