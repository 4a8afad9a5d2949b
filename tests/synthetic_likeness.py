"""Made-up properties that compare networks with each other, with their exhibits: rows of which the truth is known."""

import base64
import io
import itertools
import pathlib
from collections.abc import Iterator

import numpy as np
from synthetic_study import FITS, config

from kdib.properties.base import Curve, Evidence, Map, Primary, Property
from kdib.records import Records, Row, Subject, write_json

STEPS = (0, 100, 200, 400, 600)
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
LAYERS = {
    "lstm": ("embedding", "lstm_1", "penultimate"),
    "transformer": ("embedding", "block_1", "block_2", "penultimate"),
}
# where a fit ends in the plane, and how alike its networks are to a teacher of (their own, another) seed
ENDS = {"teacher": (3.0, 0.0), "peer": (-2.0, 2.0), "alone": (-2.0, 1.5), "self": (-1.5, 2.0), "distilled": (1.5, 0.5)}
ALIKE = {"teacher": (1.0, 0.9), "peer": (0.5, 0.5), "alone": (0.5, 0.5), "self": (0.52, 0.52), "distilled": (0.8, 0.79)}


def nothing(subjects, evidence: Evidence) -> tuple:
    """The rows are made up."""
    del subjects, evidence
    return ()


PROPERTIES = {
    "similarity": Property(
        "similarity", "Representations", "relational", Primary("cka", "", ""), True, nothing, "Alike inside.",
        "Kornblith et al. (2019)", pairs="everyone",
        maps=(Map("layer_cka", "layers", "teacher_layer", "layer", "layer of the teacher", "layer of the student"),),
    ),
    "training_paths": Property(
        "training_paths", "Training paths", "relational", Primary("path_distance", "", ""), False, nothing,
        "How they got there.", "Abnar et al. (2020)", caveat="Steps are not epochs.",
        curves=(Curve("distance_to_teacher", "steps", "step", "training step", "distance to the teacher"),),
    ),
    "basins": Property(
        "basins", "Basins", "pairwise", Primary("barrier", "", ""), False, nothing, "What lies between.",
        "Frankle et al. (2020)", pairs="architecture",
        curves=(Curve("loss", "interpolation", "alpha", "alpha", "loss"),),
    ),
}  # fmt: skip


def subjects(n_seeds: int) -> list[Subject]:
    """One network a fit and seed."""
    return [
        Subject(f"{fit}/seed{s}@600", fit, s, f"seed{s}", 600, f"{i:02x}{s:062x}")
        for i, fit in enumerate(FITS)
        for s in range(n_seeds)
    ]


def place(subject: Subject, step: int) -> np.ndarray:
    """A snapshot in the plane: all runs of a seed start near each other and go straight to the end of their fit."""
    rng = np.random.default_rng([FITS.index(subject.fit), subject.seed])
    start, end = np.array([0.0, -2.0]) + 0.1 * rng.normal(size=2), np.array(ENDS[subject.fit])
    return start + (end + 0.2 * rng.normal(size=2) - start) * step / STEPS[-1]


def alike(student: Subject, other: Subject) -> float:
    """Of the declared size to a teacher, and half between others, with a little noise."""
    rng = np.random.default_rng([FITS.index(student.fit), student.seed, FITS.index(other.fit), other.seed])
    level = ALIKE[student.fit][student.seed != other.seed] if other.fit == "teacher" else 0.5
    return float(level + 0.004 * rng.normal())


def rows(everyone: list[Subject]) -> Iterator[Row]:
    """Everything that the three properties would write."""
    for first, later in itertools.combinations(everyone, 2):  # teachers come first
        yield Row(later.id, first.id, "similarity", "cka", "test", "", (), alike(later, first), 500, None)
    for subject in everyone:
        if subject.fit != "teacher":
            yield from _layers(subject, f"teacher/seed{subject.seed}@600")
            for teacher in (s for s in everyone if s.fit == "teacher"):
                value = 1 - alike(subject, teacher)
                yield Row(subject.id, teacher.id, "training_paths", "path_distance", "test", "", (), value, 500, None)
            for step in STEPS:
                apart = np.linalg.norm(place(subject, step) - place(everyone[subject.seed], STEPS[-1]))
                key = (subject.id, None, "training_paths", "distance_to_teacher", "test", "steps", (("step", step),))
                yield Row(*key, float(apart), 500, None)
    yield from _snapshots(everyone)
    yield from _barriers(everyone)


def _layers(student: Subject, teacher: str) -> Iterator[Row]:
    own = LAYERS["lstm" if student.fit == "teacher" else "transformer"]
    for (i, a), (j, b) in itertools.product(enumerate(own), enumerate(LAYERS["lstm"])):
        value = 0.9 - 0.15 * abs(i - j) - (0.1 if student.fit == "alone" else 0.0)
        coords = (("layer", a), ("teacher_layer", b))
        yield Row(student.id, teacher, "similarity", "layer_cka", "test", "layers", coords, value, 500, None)


def _snapshots(everyone: list[Subject]) -> Iterator[Row]:
    for seed in sorted({subject.seed for subject in everyone}):
        runs = [subject for subject in everyone if subject.seed == seed]
        points = {f"{run.fit}/{run.run}@{step}": place(run, step) for run in runs for step in STEPS}
        for (a, at), (b, to) in itertools.combinations(points.items(), 2):
            apart = float(np.linalg.norm(at - to))
            yield Row(a, b, "training_paths", "distance", "test", "snapshots", (), apart, 500, None)


def _barriers(everyone: list[Subject]) -> Iterator[Row]:
    """Runs of one fit are apart; those of a distilled fit less so; a student alone and its distilled twin as well."""
    others = [s for s in everyone if s.fit != "teacher"]
    for a, b in itertools.combinations(others, 2):
        if a.fit == b.fit or a.seed == b.seed:
            height = 0.4 if a.fit == b.fit == "distilled" else 1.0
            height += 0.01 * np.random.default_rng([a.seed, b.seed, len(a.fit), len(b.fit)]).normal()
            for metric, value in (("barrier", height), ("error_barrier", height / 4)):
                yield Row(a.id, b.id, "basins", metric, "test", "", (), float(value), 500, None)
            for alpha in ALPHAS:
                loss = float(0.1 + 4 * height * alpha * (1 - alpha))
                for metric, value in (("loss", loss), ("error", loss / 4)):
                    key = (a.id, b.id, "basins", metric, "test", "interpolation", (("alpha", alpha),))
                    yield Row(*key, value, 500, None)


def picture() -> str:
    """A grey PNG with a bright stroke, in base64."""
    from PIL import Image

    pixels_28x28 = np.zeros((28, 28), np.uint8)
    pixels_28x28[4:24, 12:16] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels_28x28).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def exhibit() -> dict:
    """One block of each kind."""
    axis = np.linspace(-1, 5, 13)
    members = [[], ["alone"], ["self"], ["distilled"], ["teacher"], ["alone", "self"], ["alone", "self", "distilled"]]
    return {
        "of": [],
        "title": "Where the networks err",
        "caption": "Wrong test examples.",
        "blocks": [
            {"kind": "upset", "names": ["alone", "self", "distilled", "teacher"], "unit": "share of the test set",
             "n": 4800, "alt": "Sets of errors: none 0.5.",
             "sets": [{"members": m, "mean": 0.5 / 2**i, "low": 0.45 / 2**i, "high": None if i == 6 else 0.55 / 2**i}
                      if i != 6 else {"members": m, "mean": 0.5 / 2**i, "low": None, "high": None}
                      for i, m in enumerate(members)]},
            {"kind": "examples", "heading": "Not a fair sample", "items": [
                {"text": "the keys to the cabinet [are] on the table", "label": "plural",
                 "answers": {"alone": "singular (0.91)", "distilled": "plural (0.93)"}},
                {"png": picture(), "alt": "a one", "label": "1",
                 "answers": {"alone": "7 (0.51)", "distilled": "1 (0.90)"}},
            ]},
            {"kind": "contour", "names": ["alone/seed0", "self/seed0", "distilled/seed0"], "x": axis.tolist(),
             "y": axis.tolist(), "z": (0.1 + np.minimum(axis[:, None] ** 2 + axis[None] ** 2, 9.0)).tolist(),
             "points": [[0.0, 0.0], [4.0, 0.0], [2.0, 3.0]], "label": "cross-entropy (nats)",
             "alt": "Loss on a plane."},
        ],
    }  # fmt: skip


def write(workdir: pathlib.Path, *, n_seeds: int = 3) -> list[Row]:
    """Fill a workdir with the study's files; its rows are returned."""
    everyone = subjects(n_seeds)
    found = list(rows(everyone))
    settings = config(n_seeds, FITS) | {"properties": list(PROPERTIES), "published": {}, "curves": {}}
    write_json(workdir / "config.json", settings)
    write_json(workdir / "task.json", {"sets": {"test": {"size": 500}}})
    Records(workdir / "subjects.jsonl", Subject).append(everyone)
    Records(workdir / "rows.jsonl", Row).append(found)
    (workdir / "metrics.jsonl").write_text("", encoding="utf-8")
    (workdir / "exhibits").mkdir()
    write_json(workdir / "exhibits" / "basins.json", exhibit())
    return found
