"""Training paths: distances between the snapshots of all runs.

The distance of two networks is 1 - their second-order similarity (`kdib.properties.dissimilarities.rsa`) in the
penultimate layer, on examples of the first test set. It lies in [0, 2]: 0 means alike, 1 unrelated. At most MOST
snapshots per run are used, geometrically spaced, because most of the learning happens early. Metrics of the rows:

- "path_distance" of a student and a teacher, at group "" and coords (): the mean distance between their snapshots at
  the same fraction of training (`matched`). None if a run has fewer than two snapshots after step 0, since then there
  is no path to compare.
- "distance" at group "snapshots" and coords (): between every two snapshots of the runs of one seed, over all fits and
  steps.
- "distance_to_teacher" without `other`, at group "steps" and (("step", s),): from the snapshot at step s of a student's
  run to the last snapshot of the role's teacher of the same seed.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdib.properties.base import Curve, Evidence, Primary, Property
from kdib.properties.dissimilarities import rsa, second_orders
from kdib.properties.similarity import or_none, own_pairs
from kdib.records import Row, Subject

MOST = 8  # snapshots per run


def spaced(steps: Sequence[int], most: int = MOST) -> list[int]:
    """Positions of at most `most` of the ascending `steps`: step 0 if present, then geometrically spaced to the last.

    Raises:
      ValueError: for no steps, steps that do not ascend, or most < 2.
    """
    if not len(steps) or any(a >= b for a, b in itertools.pairwise(steps)) or most < 2:
        raise ValueError(f"expected ascending steps and most >= 2, got {list(steps)} and {most}")
    if len(steps) <= most:
        return list(range(len(steps)))
    start = [0] if steps[0] == 0 else []
    trained = np.log(steps[len(start) :])
    targets = np.linspace(trained[0], trained[-1], most - len(start)) if most > len(start) + 1 else trained[-1:]
    nearest = {_nearest(trained, target) + len(start) for target in targets}
    return [*start, *sorted(nearest)]


def matched(student_steps: Sequence[int], teacher_steps: Sequence[int]) -> list[tuple[int, int]]:
    """Positions (student's, teacher's) of snapshots at the same fraction of training, where the last step is 1.

    Every snapshot of the student is matched with the teacher's nearest snapshot on a logarithmic scale, since snapshots
    are spaced geometrically; ties go to the earlier one. Step 0 is left out: the similarity of initializations is not
    learned, and step 0 has no place on a logarithmic scale.
    """
    both = student_steps, teacher_steps
    shares = [[(i, np.log(step / steps[-1])) for i, step in enumerate(steps) if step > 0] for steps in both]
    if not all(shares):
        return []
    teacher, at = zip(*shares[1], strict=True)
    return [(i, teacher[_nearest(at, share)]) for i, share in shares[0]]


def path_distance(student: Sequence[tuple[int, Any]], teacher: Sequence[tuple[int, Any]]) -> float:
    """The mean distance of two runs' snapshots at the same fraction of training (`matched`), in [0, 2]; 0 is alike.

    All given snapshots count; use `spaced` to select from many.

    Args:
      student, teacher: a run as (step, activations [N, D]) of each snapshot, by step. Both runs have the same N
        examples in the same order; layers may have any width.

    Raises:
      ValueError: for steps that do not ascend, a run with fewer than two snapshots after step 0 (it is no path), and
        as in `kdib.properties.dissimilarities.rsa` (other shapes, or a snapshot that is the same for every example).

    Reference: Abnar, Dehghani, Zuidema (arXiv 2006.00555), with centred activations and without the diagonal.
    """
    steps = [[step for step, _ in run] for run in (student, teacher)]
    for of_run in steps:
        if not _is_path(of_run) or any(a >= b for a, b in itertools.pairwise(of_run)):
            raise ValueError(f"expected two snapshots or more after step 0, by ascending step, got steps {of_run}")
    return float(np.mean([1 - rsa(student[i][1], teacher[j][1]) for i, j in matched(*steps)]))


def _is_path(steps: Sequence[int]) -> bool:
    return sum(step > 0 for step in steps) >= 2


def _nearest(values: Sequence[float] | np.ndarray, target: float) -> int:
    """The position of the value nearest to the target; ties, up to rounding, go to the first."""
    return int(np.round(np.abs(np.subtract(values, target)), 9).argmin())


class _Paths(NamedTuple):
    """The snapshots of each run (by the id of its subject) and their distances, nan if undefined."""

    runs: Mapping[str, Sequence[Subject]]
    at: Mapping[str, int]
    distances_SxS: np.ndarray
    n: int

    def distance(self, a: Subject, b: Subject) -> float:
        return self.distances_SxS[self.at[a.id], self.at[b.id]]


def measure(subjects: Sequence[Subject], evidence: Evidence) -> Iterator[Row]:
    """The rows of the evidence's pairs and of all snapshots of all runs; every snapshot is evaluated once.

    If a fit is added to a finished study, its distances to the snapshots of all fits are measured, not only to those of
    its teachers.
    """
    del subjects
    if not evidence.pairs:
        return
    finals = sorted({*evidence.everyone, *itertools.chain.from_iterable(evidence.pairs)})
    split = next(iter(evidence.sets))
    paths = _paths(finals, split, evidence)

    def row(subject: str, other: str | None, metric: str, group: str, coords: tuple, value: float) -> Row:
        return Row(subject, other, "training_paths", metric, split, group, coords, or_none(value), paths.n, None)

    for student, teacher in evidence.pairs:
        yield row(student.id, teacher.id, "path_distance", "", (), _path_distance(student, teacher, paths))
    for seed in dict.fromkeys(subject.seed for subject in finals):
        snapshots = [snapshot for subject in finals if subject.seed == seed for snapshot in paths.runs[subject.id]]
        for a, b in itertools.combinations(snapshots, 2):
            yield row(a.id, b.id, "distance", "snapshots", (), paths.distance(a, b))
    for teacher, students in own_pairs(evidence).items():
        for student, snapshot in ((s, snapshot) for s in students for snapshot in paths.runs[s.id]):
            coords = (("step", snapshot.step),)
            yield row(student.id, None, "distance_to_teacher", "steps", coords, paths.distance(snapshot, teacher))


def _paths(finals: Sequence[Subject], split: str, evidence: Evidence) -> _Paths:
    runs = {subject.id: _thinned(evidence.snapshots(subject)) for subject in finals}
    snapshots = [snapshot for run in runs.values() for snapshot in run]
    hidden = [evidence.hidden(snapshot, split)["penultimate"] for snapshot in snapshots]
    at = {snapshot.id: i for i, snapshot in enumerate(snapshots)}
    return _Paths(runs, at, 1 - second_orders(hidden), len(hidden[0]))


def _thinned(run: Sequence[Subject]) -> list[Subject]:
    return [run[i] for i in spaced([snapshot.step for snapshot in run])]


def _path_distance(student: Subject, teacher: Subject, paths: _Paths) -> float:
    runs = paths.runs[student.id], paths.runs[teacher.id]
    steps = [[snapshot.step for snapshot in run] for run in runs]
    if not all(map(_is_path, steps)):
        return np.nan
    return float(np.mean([paths.distance(runs[0][i], runs[1][j]) for i, j in matched(*steps)]))


PROPERTY = Property(
    name="training_paths",
    title="Training paths",
    kind="relational",
    primary=Primary("path_distance", split="", group=""),
    higher_is_better=False,
    measure=measure,
    caption="Does a student follow its teacher’s path through training? The path distance is the mean distance between "
    "their penultimate representations at equal fractions of training, without step 0. The distance of two "
    "representations is 1 − their second-order cosine similarity (rsa). "
    f"At most {MOST} snapshots per run are used, geometrically spaced, because most of the learning happens early.",
    reference="Abnar, Dehghani, Zuidema (arXiv 2006.00555), with centred activations and without the diagonal",
    curves=(Curve("distance_to_teacher", "steps", x="step", xlabel="step", ylabel="distance to the trained teacher"),),
    caveat="A map only approximates these distances. If its stress is high, trust the distances, not the map.",
)
