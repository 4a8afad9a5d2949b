"""Which of several fits validation chooses, seed by seed. Nothing here reads a test set."""

from collections.abc import Iterable, Mapping
from typing import Any

CHOOSES = {"accuracy": "validation", "shifted_accuracy": "shifted validation"}  # metric: what a report calls it
BY_FIT = Mapping[str, Mapping[int, float]]  # {fit: {seed: value}}


def last_validation(lines: Iterable[Mapping[str, Any]], metric: str = "accuracy") -> dict[str, dict[int, float]]:
    """{fit: {seed: value}} of a validation metric at the last step of every run, from the lines of metrics.jsonl.

    The last line of a step wins. On pictures "shifted_accuracy" is that on shifted validation images.
    """
    at: dict[tuple[str, int], int] = {}
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        run = (line["fit"], line["seed"])
        if (line["split"], line["metric"]) == ("validation", metric) and line["step"] >= at.get(run, 0):
            at[run] = line["step"]
            found.setdefault(line["fit"], {})[line["seed"]] = line["value"]
    return found


def chosen(values: BY_FIT, fits: Iterable[str]) -> dict[int, str]:
    """{seed: fit}: the one of `fits` with the highest value, the first of equals; seeds that all of them have."""
    fits = list(fits)
    seeds = set.intersection(*(set(values.get(fit, {})) for fit in fits)) if fits else set()
    return {seed: max(fits, key=lambda fit: values[fit][seed]) for seed in sorted(seeds)}
