"""Show where the time of a training step goes, by operation of the compiled program, with JAX's profiler.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/trace.py "cnn_1, pool"
    python benchmarks/trace.py "lstm language model" --operations 60

Cases are those of `against_torch.py` and `vision.py`. Each line, longest first, shows milliseconds per step summed over
threads, how often a step runs the operation, its shape, and its name in the source. Tracing itself takes time,
concurrent operations share the cores, and a product that XLA passes to Eigen's threads counts only until it is passed
on. Use the table to find anomalies, then measure a change with the other scripts. Anomalies found so far: a transposed
copy of a factor, a norm summed in windows, an argmax, a mask of ones that is written out.
"""

import argparse
import collections
import re
import tempfile
from pathlib import Path

import cases
import jax
import picture_cases
import trained

STEPS, CALLS = 5, 4  # steps per call, and traced calls


def main() -> None:
    """Print the table."""
    known = {**cases.CASES, **picture_cases.CASES}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=[name for name, case in known.items() if not case.teacher])
    parser.add_argument("--operations", type=int, default=30)
    args = parser.parse_args()
    group = population(known[args.case])
    source = operations(group.lowered().compile().as_text())
    spent, ran, step = traced(group)
    print(f"{args.case}: {step:.1f} ms per step while traced")
    for name, ms in spent.most_common(args.operations):
        print(f"{ms:8.2f} ms {ran[name]:7.1f} x  {name:32}{'  '.join(source.get(name, ()))}")


def population(case) -> trained.Trained:
    """Return one run, compiled and warmed up."""
    if isinstance(case, cases.Case):
        group = trained.Trained(trained.network(case), cases.sentences(cases.N, language=case.language))
    else:
        group = trained.Trained(picture_cases.network(case), picture_cases.pictures())
    group.milliseconds(STEPS)
    return group


def traced(group: trained.Trained) -> tuple[collections.Counter, collections.Counter, float]:
    """Return milliseconds and executions per step of every operation, and the total milliseconds per step."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            steps = [group.milliseconds(STEPS) for _ in range(CALLS)]
        profile = jax.profiler.ProfileData.from_file(str(next(Path(folder).rglob("*.xplane.pb"))))
    spent, ran = collections.Counter(), collections.Counter()
    for event in (e for plane in profile.planes for line in plane.lines if "Eigen" in line.name for e in line.events):
        if "::" not in event.name:  # XLA's own bookkeeping
            spent[event.name] += event.duration_ns / 1e6 / (STEPS * CALLS)
            ran[event.name] += 1 / (STEPS * CALLS)
    return spent, ran, sum(steps) / CALLS


def operations(program: str) -> dict[str, tuple[str, str]]:
    """Return {operation: (shape, name in the source)} from the text of a compiled program."""
    found = {}
    for line in program.splitlines():
        if match := re.match(r"\s+(?:ROOT )?%([\w.\-]+) = (\(?\w+\[[\d,]*\])", line):
            name = re.search(r'op_name="([^"]*)"', line)
            found[match[1]] = (match[2], name[1].removeprefix("jit(train_chunk)/while/body/") if name else "")
    return found


if __name__ == "__main__":
    main()
