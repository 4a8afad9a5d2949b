"""Selection on validation data: of one fit per seed, and of learning rates. Nothing here reads a test set."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

CHOOSES = {"accuracy": "validation", "shifted_accuracy": "shifted validation"}  # metric: its name in reports
BY_FIT = Mapping[str, Mapping[int, float]]  # {fit: {seed: value}}


def last_validation(lines: Iterable[Mapping[str, Any]], metric: str = "accuracy") -> dict[str, dict[int, float]]:
    """{fit: {seed: value}} of a validation metric at the last step of every run, from the lines of metrics.jsonl.

    If a step has several lines, the last one counts. For images, "shifted_accuracy" is the accuracy on shifted
    validation images.
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
    """{seed: fit} with the highest value among `fits` (the first of equals), for the seeds that all fits have."""
    fits = list(fits)
    seeds = set.intersection(*(set(values.get(fit, {})) for fit in fits)) if fits else set()
    return {seed: max(fits, key=lambda fit: values[fit][seed]) for seed in sorted(seeds)}


def tried_rates(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[float, float]]:
    """{fit: {learning rate: validation loss}} of a study's grid, from the lines of metrics.jsonl.

    The loss is the mean over development seeds at the last step of the fit. Rates with a run that did not reach this
    step are left out. `runs.choose_learning_rate` chose the rate with the lowest loss before any main run began.
    """
    losses: dict[str, dict[float, dict[int, tuple[int, float]]]] = {}
    for line in lines:
        _, grid, rate = line["run"].partition("-learning_rate=")
        if grid and (line["split"], line["metric"]) == ("validation", "loss"):
            losses.setdefault(line["fit"], {}).setdefault(float(rate), {})[line["seed"]] = line["step"], line["value"]
    return {fit: _at_the_end(rates) for fit, rates in losses.items()}


def _at_the_end(rates: Mapping[float, Mapping[int, tuple[int, float]]]) -> dict[float, float]:
    last = max(step for runs in rates.values() for step, _ in runs.values())
    whole = {rate: all(step == last for step, _ in runs.values()) for rate, runs in rates.items()}
    return {rate: statistics.fmean(loss for _, loss in runs.values()) for rate, runs in rates.items() if whole[rate]}
