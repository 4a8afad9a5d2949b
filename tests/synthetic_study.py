"""A study that nobody trained: plausible answers of 15 networks, measured by the real properties, in a workdir."""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from kdib.properties import of_task
from kdib.properties.base import Evidence
from kdib.records import Records, Row, Subject, write_json
from kdib.tasks.base import Dataset

PROPERTIES = {name: of_task("agreement")[name] for name in ("accuracy", "calibration", "fidelity")}
FITS = ("teacher", "peer", "alone", "self", "distilled")
ROLES = ("teacher", "alone", "self", "distilled")
TEACHERS = {"self": "peer", "distilled": "teacher"}
# (margin without attractors, what an attractor takes away, overconfidence): the LSTM resists attractors better.
SKILL = {
    "teacher": (2.6, 0.45, 1.2),
    "peer": (2.2, 1.0, 1.9),
    "alone": (2.2, 1.0, 1.9),
    "self": (2.25, 0.95, 1.5),
    "distilled": (2.4, 0.7, 1.3),
}
SETS = {"test": 0.0, "longer": 0.4, "nonce": 0.8}  # how much margin a test set costs
VALIDATION = "validation"  # costs as much as the first
STEPS = 600


def dataset(rng: np.random.Generator, size: int = 4800) -> Dataset:
    """Labels in balance; attractors 0-4, the last group too small; twins of the same length without attractors."""
    label = np.tile([0, 1], size // 2).astype(np.int32)
    intervening = rng.choice(5, size, p=[0.5, 0.2, 0.15, 0.13, 0.02]).astype(np.int32)
    twin = (rng.random(size) < 0.45) & (intervening > 0)
    groups = {
        "attractors": np.where(twin, -1, intervening),
        "same_number": np.where(twin | (intervening == 0), intervening, -1),
        "distance": np.minimum(1 + 2 * intervening + rng.integers(0, 3, size), 16),
        "mu": np.zeros(size),
    }
    inputs = {"label": label, "id": np.arange(size, dtype=np.int32)}
    return Dataset(inputs, {name: column.astype(np.int32) for name, column in groups.items()})


def study(n_seeds: int = 3, fits: Sequence[str] = FITS) -> tuple[list[Subject], Evidence]:
    """Subjects and their answers; `fits` are names for the five networks of FITS, in that order."""
    kinds = dict(zip(fits, FITS, strict=True))
    names = {kind: fit for fit, kind in kinds.items()}
    held = {name: dataset(np.random.default_rng(i)) for i, name in enumerate((*SETS, VALIDATION))}
    sets = {name: held[name] for name in SETS}
    subjects = [
        Subject(f"{fit}/seed{s}@{STEPS}", fit, s, f"seed{s}", STEPS, f"{i:02x}{s:062x}")
        for i, fit in enumerate(fits)
        for s in range(n_seeds)
    ]
    noise: dict[tuple[str, int, str], np.ndarray] = {}
    for i, subject in enumerate(subjects):
        for name, data in held.items():
            noise[subject.fit, subject.seed, name] = np.random.default_rng([i, len(name)]).normal(size=data.size)

    def logits(subject: Subject, name: str) -> np.ndarray:
        kind, data = kinds[subject.fit], held[name]
        margin, cost, scale = SKILL[kind]
        own = noise[subject.fit, subject.seed, name]
        if kind in TEACHERS:
            own = 0.6 * noise[names[TEACHERS[kind]], subject.seed, name] + 0.8 * own
        attractors = np.maximum(data.groups["attractors"], 0)
        luck = 0.05 * np.random.default_rng([subject.seed, len(kind)]).normal()
        certainty = scale * (margin - SETS.get(name, 0.0) + luck - cost * attractors + 1.4 * own)
        sign = 1 - 2 * data.inputs["label"]
        return np.stack([sign * certainty / 2, -sign * certainty / 2], axis=1).astype(np.float32)

    by_run = {(subject.fit, subject.seed): subject for subject in subjects}
    teachers = [by_run[names["teacher"], s] for s in range(n_seeds)]
    pairs = [(by_run[fit, s], t) for fit in fits for s in range(n_seeds) for t in teachers if by_run[fit, s] != t]
    evidence = Evidence(sets=sets, logits=logits, pairs=pairs, fits={role: names[role] for role in ROLES})
    held_out = held[VALIDATION]
    return subjects, evidence._replace(
        validation=held_out, validation_logits=lambda subject: logits(subject, VALIDATION)
    )


def config(n_seeds: int, fits: Sequence[str]) -> dict:
    """A resolved configuration with everything that the report prints."""
    names = dict(zip(FITS, fits, strict=True))
    published = {
        "source": "Abnar et al. 2020, arXiv 2006.00555",
        "note": "another corpus and larger networks; read off a figure",
        "rows": {
            "accuracy": {"A-accuracy": {names["teacher"]: 0.977, names["alone"]: 0.954, names["distilled"]: 0.960}},
            "calibration": {
                "ece, nonce": {names["distilled"]: 0.109, "of a larger study": 0.1},
                "ece": {names["teacher"]: 0.028, names["alone"]: 0.055, names["distilled"]: 0.048},
            },
        },
    }
    return {
        "title": "LSTM to Transformer on subject-verb agreement",
        "seed": 0,
        "seeds": n_seeds,
        "task": {"name": "agreement", "max_attractors": 4},
        "models": {"lstm": {"preset": "lstm_small"}, "transformer": {"preset": "transformer_small"}},
        "losses": {"labels": {"cross_entropy": {"weight": 1.0}}, "kd": {"softened_kl": {"temperature": 1.0}}},
        "fits": {
            fit: {
                "model": "transformer" if kind != "teacher" else "lstm",
                "teacher": TEACHERS.get(kind, ""),
                "ensemble": "",
            }
            for kind, fit in names.items()
        },
        "roles": {role: names[role] for role in ROLES},
        "train": {"steps": STEPS, "batch_size": 128, "optimizer": "adamw", "learning_rate": 0.001},
        "properties": list(PROPERTIES),
        "grid": {},
        "published": published,
        "environment": {"python": "3.11.9", "jax": "0.10.2", "flax": "0.12.8", "optax": "0.2.8", "numpy": "2.4.6"},
    }


def facts(sets: Mapping[str, Dataset]) -> dict:
    """What a task says of itself, as kdib.tasks.agreement does."""
    names = ("train", "validation", *sets)
    return {
        "settings": {"data_seed": 0, "n_train": 50_000, "attractor_shares": [0.95, 0.04, 0.01]},
        "vocabulary_size": 812,
        "sets": {name: set_facts(next(iter(sets.values()))) for name in names},
        "baselines": {name: {"first_noun": guesses(data, 0.1), "last_noun": guesses(data, -0.2),
                             "majority_noun": guesses(data, -0.1), "bag_of_words": guesses(data, 0.02)}
                      for name, data in sets.items()},
    }  # fmt: skip


def set_facts(data: Dataset) -> dict:
    """Sizes, coverage and example sentences of a set."""
    return {
        "size": data.size,
        "labels": {"singular": data.size // 2, "plural": data.size // 2},
        "coverage": 0.987,
        "groups": {"attractors": {"0": {"singular": 600, "plural": 600}}},
        "examples": ["the keys to the cabinet near the old doors [are] on the table", "a dog [barks] at <them> & us"],
    }


def guesses(data: Dataset, slope: float) -> dict:
    """A baseline's balanced accuracy by group: one half, and off it by `slope` with the group's value."""
    columns = {
        name: {str(k): 0.5 + slope * min(k, 2) / 2 for k in np.unique(column[column >= 0]).tolist()}
        for name, column in data.groups.items()
    }
    return {"overall": 0.5, **columns}


def metric_lines(subjects: Sequence[Subject]) -> list[dict]:
    """Validation accuracy and loss against the step, one curve a run, the last step given twice."""
    lines = []
    for i, subject in enumerate(subjects):
        rng = np.random.default_rng(i)
        for step in (*range(0, STEPS + 1, 50), STEPS):
            rise = 1 - np.exp(-step / (120 + 15 * FITS.index("self" if i > 8 else "teacher")))
            values = {"accuracy": 0.5 + 0.44 * rise, "loss": 0.69 - 0.5 * rise, "entropy": 0.6 - 0.3 * rise}
            lines += [
                {"run": f"{subject.fit}/{subject.run}", "fit": subject.fit, "seed": subject.seed, "step": step,
                 "split": "validation", "metric": metric, "value": value + 0.01 * rng.normal()}
                for metric, value in values.items()
            ]  # fmt: skip
    return lines


def write(workdir: pathlib.Path, *, n_seeds: int = 3, fits: Sequence[str] = FITS) -> list[Row]:
    """Fill a workdir with the study's files; its rows are returned."""
    subjects, evidence = study(n_seeds, fits)
    rows = [row for prop in PROPERTIES.values() for row in prop.measure(subjects, evidence)]
    write_json(workdir / "config.json", config(n_seeds, fits))
    write_json(workdir / "task.json", facts(evidence.sets))
    Records(workdir / "subjects.jsonl", Subject).append(subjects)
    Records(workdir / "rows.jsonl", Row).append(rows)
    lines = [json.dumps(line) for line in metric_lines(subjects)]
    (workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return rows
