"""A study of pictures that nobody trained: rows made up by a seeded generator, of which the truth is known here."""

import json
import pathlib
from collections.abc import Iterator

import numpy as np

from kdib.properties.base import Curve, Evidence, Map, Primary, Property
from kdib.records import Coords, Records, Row, Subject, write_json

ROLES = {"teacher": "cnn", "alone": "alone", "self": "self", "distilled": "distilled"}
STEPS = (50, 100, 200, 400, 800, 1600, 3200, 6400, 12800)
STUDENTS = {f"student_{step}": step for step in STEPS}
FITS = ("cnn", "peer", "alone", "self", "distilled", *STUDENTS)
# (accuracy in distribution, what one pixel of a shift takes away)
SKILL = {"cnn": (0.985, 0.02), "peer": (0.95, 0.06), "alone": (0.951, 0.06), "self": (0.955, 0.055),
         "distilled": (0.965, 0.045)}  # fmt: skip
MADE = {"shifted": "MNIST-C-style: test, moved", "elsewhere": "no set of this study"}
SETS = {"test": 0.0, "shifted": 0.25, "noisy": 0.12}  # what a set takes away
CHOSEN = {  # by validation, whatever the test sets say
    "accuracy": [("student_400", 0), ("student_400", 1), ("student_50", 2)],
    "shifted_accuracy": [("student_1600", seed) for seed in range(3)],
}
OFFSETS = range(-6, 7, 2)
CORRUPTIONS = ("gaussian_noise", "shot_noise", "fog", "motion_blur", "zigzag")


def nothing(subjects, evidence: Evidence) -> tuple:
    """The rows are made up."""
    del subjects, evidence
    return ()


PROPERTIES = {
    "translation": Property(
        "translation", "Translation", "scalar", Primary("area_under_curve", "", ""), True, nothing,
        "Accuracy under shifts.", "Nobody (2021)",
        curves=(Curve("accuracy", "radius", "radius", "radius of the shift (pixels)", "accuracy"),),
        maps=(Map("accuracy", "offset", "dx", "dy", "dx (pixels to the right)", "dy (pixels down)"),),
    ),
    "corruptions": Property(
        "corruptions", "Corruptions", "scalar", Primary("mean_accuracy", "", "corruption"), True, nothing,
        "Accuracy under noise.", "Nobody (2019)",
        curves=(Curve("accuracy", "corruption", "corruption", "corruption", "accuracy", relative_error=True),),
    ),
}  # fmt: skip


def skill(fit: str) -> tuple[float, float]:
    """A student of a later teacher is nearer to the distilled one."""
    if fit not in STUDENTS:
        return SKILL[fit]
    share = np.log(STUDENTS[fit] / STEPS[0]) / np.log(STEPS[-1] / STEPS[0])
    return tuple((1 - share) * np.array(SKILL["alone"]) + share * np.array(SKILL["distilled"]))


def subjects(n_seeds: int) -> list[Subject]:
    """One network a fit and seed."""
    return [
        Subject(f"{fit}/seed{s}@600", fit, s, f"seed{s}", 600, f"{i:02x}{s:062x}")
        for i, fit in enumerate(FITS)
        for s in range(n_seeds)
    ]


def rows(everyone: list[Subject]) -> Iterator[Row]:
    """Accuracy, calibration, translation and corruptions of all, and their agreement with every teacher."""
    teachers = [subject for subject in everyone if subject.fit == ROLES["teacher"]]
    for i, subject in enumerate(everyone):
        rng = np.random.default_rng(i)
        for split, cost in SETS.items():
            for name, metric, group, coords, value in _scalars(subject.fit, cost):
                noisy = float(np.clip(value + 0.004 * rng.normal(), 0, 1))
                yield Row(subject.id, None, name, metric, split, group, coords, noisy, 500, None)
            for teacher in (t for t in teachers if t.id != subject.id):
                value = float(skill(subject.fit)[0] - cost + 0.003 * rng.normal())
                yield Row(subject.id, teacher.id, "fidelity", "agreement", split, "", (), value, 500, None)


def _scalars(fit: str, cost: float) -> Iterator[tuple[str, str, str, Coords, float]]:
    accuracy, slope = skill(fit)
    yield "accuracy", "accuracy", "", (), accuracy - cost
    yield "calibration", "ece", "", (), 0.5 * (1 - accuracy) + cost / 3
    yield "translation", "area_under_curve", "", (), accuracy - cost - 4 * slope
    if cost:
        return
    for dy in OFFSETS:
        for dx in OFFSETS:
            value = accuracy - slope * (abs(dx) + max(dy, 0) + 0.5 * max(-dy, 0))  # a shift down costs more than up
            yield "translation", "accuracy", "offset", (("dy", dy), ("dx", dx)), value
    for radius in (0, 2, 4, 6):
        yield "translation", "accuracy", "radius", (("radius", radius),), accuracy - slope * radius
    yield "corruptions", "mean_accuracy", "corruption", (), accuracy - 0.2
    for i, name in enumerate(CORRUPTIONS):
        yield "corruptions", "accuracy", "corruption", (("corruption", name),), accuracy - 0.08 * i


def config(n_seeds: int) -> dict:
    """A resolved configuration with a curve over the students of teachers that trained longer and longer."""
    curve = {
        "xlabel": "teacher's training steps",
        "log": True,
        "x": dict(reversed(STUDENTS.items())),
        "beside": ["alone", "distilled", "cnn"],
    }
    return {
        "title": "CNN to MLP on digits",
        "seed": 0,
        "seeds": n_seeds,
        "task": {"name": "images", "source": "digits"},
        "models": {},
        "losses": {},
        "fits": {fit: {"model": "mlp", "teacher": "", "ensemble": ""} for fit in FITS},
        "roles": ROLES,
        "train": {"steps": 600},
        "properties": ["accuracy", "translation", "corruptions", "calibration", "fidelity"],
        "grid": {},
        "curves": {"teacher_step": curve},
        "published": {},
        "environment": {},
    }


def write(workdir: pathlib.Path, *, n_seeds: int = 3) -> list[Row]:
    """Fill a workdir with the study's files; its rows are returned."""
    everyone = subjects(n_seeds)
    found = list(rows(everyone))
    write_json(workdir / "config.json", config(n_seeds))
    write_json(workdir / "task.json", {"sets": {name: {"size": 500} for name in ("train", *SETS)}, "made": MADE})
    Records(workdir / "subjects.jsonl", Subject).append(everyone)
    Records(workdir / "rows.jsonl", Row).append(found)
    lines = [
        json.dumps({"run": f"{s.fit}/{s.run}", "fit": s.fit, "seed": s.seed, "step": step, "split": "validation",
                    "metric": metric, "value": 0.9 - 0.5 * 0.99**step + 0.01 * ((s.fit, s.seed) in CHOSEN[metric])})
        for s in everyone for step in (0, 200, 400, 600) for metric in CHOSEN
    ]  # fmt: skip
    (workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return found
