"""kdib.properties.training_paths: which snapshots count, which are compared, and rows counted by hand."""

import numpy as np
import pytest

from kdib.properties.base import Evidence
from kdib.properties.dissimilarities import rsa
from kdib.properties.training_paths import MOST, PROPERTY, matched, path_distance, spaced
from kdib.records import Subject
from kdib.tasks.base import Dataset


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([0, 10, 20], [0, 10, 20]),
        ([0, *(2**k for k in range(12))], [0, 1, 4, 16, 32, 128, 512, 2048]),
        (range(0, 5001, 50), [0, 50, 100, 250, 500, 1100, 2300, 5000]),
        (range(100, 1601, 100), [100, 200, 300, 500, 700, 1100, 1600]),
        ([7], [7]),
    ],
)
def test_snapshots_are_spaced_geometrically(steps, expected):
    assert [list(steps)[i] for i in spaced(steps)] == expected


def test_spaced_keeps_both_ends_and_no_more_than_asked():
    for most in range(2, 12):
        for steps in (range(0, 900, 7), range(3, 900, 7)):
            kept = [steps[i] for i in spaced(steps, most)]
            assert kept[-1] == steps[-1] and len(kept) <= most and kept == sorted(set(kept))
            assert kept[0] == steps[0]
    steps = range(1, 100_001)
    ratios = np.diff(np.log([steps[i] for i in spaced(steps)]))
    assert ratios == pytest.approx([ratios[0]] * (MOST - 1), rel=0.2)
    for wrong in ([], [3, 3], [5, 4]):
        with pytest.raises(ValueError, match="ascending steps"):
            spaced(wrong)
    with pytest.raises(ValueError, match=r"most >= 2, got \[1, 2, 3\] and 1"):
        spaced([1, 2, 3], 1)


def test_snapshots_are_matched_by_their_share_of_the_training():
    assert matched([0, 10, 100], [0, 20, 200]) == [(1, 1), (2, 2)]  # shares .1 and 1; step 0 is of no run
    assert matched([25, 50, 100], [1, 10, 100, 1000]) == [(0, 2), (1, 3), (2, 3)]  # .25 is nearer to .1, .5 to 1
    assert matched([0], [0, 5]) == [] == matched([0, 5], [0])
    assert matched([10, 100], [1, 100]) == [(0, 0), (1, 1)]  # .1 is as near to .01 as to 1: the earlier


def subject(fit, seed, step):
    return Subject(f"{fit}/seed{seed}@{step}", fit, seed, f"seed{seed}", step, f"{fit}{seed}{step}")


STEPS = {"teacher": (0, 10, 100), "alone": (0, 20, 200), "distilled": (0, 20, 200)}


def study(steps=None):
    """Runs of two seeds, and their evidence; every snapshot has activations of its own."""
    steps = steps or STEPS
    rng, asked = np.random.default_rng(0), []
    runs = {(fit, seed): tuple(subject(fit, seed, s) for s in steps[fit]) for fit in steps for seed in (0, 1)}
    common = rng.normal(size=(25, 5))
    hidden = {s.id: (common + rng.normal(size=(25, 5))).astype(np.float32) for run in runs.values() for s in run}

    def look(s, split):
        asked.append((s.id, split))
        return {"block0": np.zeros((25, 2), np.float32), "penultimate": hidden[s.id]}

    finals = [run[-1] for run in runs.values()]
    pairs = [(a, b) for a in finals for b in finals if b.fit == "teacher" and a != b]
    dataset = Dataset({"label": np.zeros(25, int), "id": np.arange(25)}, {})
    sets = {"test": dataset, "shifted": dataset}
    snapshots = {run[-1].id: run for run in runs.values()}
    evidence = Evidence(sets, lambda *_: None, pairs, hidden=look, fits={"teacher": "teacher"})
    return evidence._replace(snapshots=lambda s: snapshots[s.id]), hidden, asked


def test_rows_are_counted_by_hand():
    evidence, hidden, asked = study()
    rows = list(PROPERTY.measure([], evidence))
    assert len({row.key for row in rows}) == len(rows)
    assert sorted(asked) == sorted((name, "test") for name in hidden)  # each once, and on the first set only
    assert {(row.property, row.split, row.n, row.se) for row in rows} == {("training_paths", "test", 25, None)}

    def distance(a, b):
        return 1 - rsa(hidden[a], hidden[b])

    paths = {(row.subject, row.other): row.value for row in rows if row.metric == PROPERTY.primary.metric}
    assert set(paths) == {(a.id, b.id) for a, b in evidence.pairs}
    for (student, teacher), value in paths.items():
        (a, last), (b, whole) = student.split("@"), teacher.split("@")
        early = distance(f"{a}@{int(last) // 10}", f"{b}@{int(whole) // 10}")
        assert value == pytest.approx((early + distance(student, teacher)) / 2, abs=1e-5)
        paths_of = [[(int(n.split("@")[1]), hidden[n]) for n in hidden if n.startswith(f"{run}@")] for run in (a, b)]
        assert path_distance(*paths_of) == pytest.approx(value, abs=1e-5)

    snapshots = [row for row in rows if row.metric == "distance"]
    assert len(snapshots) == 2 * 9 * 8 / 2 and {row.group for row in snapshots} == {"snapshots"}
    for row in snapshots:
        assert row.value == pytest.approx(distance(row.subject, row.other), abs=1e-5)
        assert len({name.split("seed")[1][0] for name in (row.subject, row.other)}) == 1

    curve = PROPERTY.curves[0]
    steps = [row for row in rows if (row.metric, row.group) == (curve.metric, curve.group)]
    assert len(steps) == 2 * 2 * 3 and not any(row.other for row in steps)
    for row in steps:
        (run, _), at = row.subject.split("@"), dict(row.coords)[curve.x]
        teacher = f"teacher/{run.split('/')[1]}@100"
        assert row.subject.endswith("@200") and "teacher" not in row.subject  # final ones, so that curves find them
        assert row.value == pytest.approx(distance(f"{run}@{at}", teacher), abs=1e-5)


def test_a_student_that_follows_its_teacher_is_near_its_path():
    evidence, hidden, _ = study()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    for seed in (0, 1):
        for own, teachers in zip(STEPS["distilled"], STEPS["teacher"], strict=True):
            hidden[f"distilled/seed{seed}@{own}"] = 3 * hidden[f"teacher/seed{seed}@{teachers}"] @ turn
    rows = [
        row for row in PROPERTY.measure([], evidence) if row.metric == "path_distance" and "distilled" in row.subject
    ]
    for row in rows:
        own = row.subject.split("seed")[1][0] == row.other.split("seed")[1][0]
        assert row.value == pytest.approx(0, abs=1e-6) if own else row.value > 0.1


def test_without_snapshots_there_is_no_path():
    evidence, _, _ = study({**STEPS, "alone": (0, 200)})
    paths = {row.subject: row.value for row in PROPERTY.measure([], evidence) if row.metric == "path_distance"}
    assert {name.split("/")[0] for name, value in paths.items() if value is None} == {"alone"}
    evidence, _, _ = study({**STEPS, "teacher": (100,)})
    assert {r.value for r in PROPERTY.measure([], evidence) if r.metric == "path_distance"} == {None}


def test_a_network_that_sees_no_difference_has_no_distance():
    evidence, hidden, _ = study()
    hidden["distilled/seed0@0"][:] = 0.1
    for row in PROPERTY.measure([], evidence):
        touched = "distilled/seed0@0" in (row.subject, row.other)
        touched |= (
            row.metric == "distance_to_teacher" and row.subject == "distilled/seed0@200" and row.coords[0][1] == 0
        )
        assert (row.value is None) == touched


def test_a_fit_that_is_added_later_ends_with_the_rows_of_a_study_that_had_it_from_the_start():
    evidence, _, _ = study()
    everyone = [next(s for pair in evidence.pairs for s in pair if s.id == name) for name in
                sorted({s.id for pair in evidence.pairs for s in pair})]  # fmt: skip
    whole = {row.key: row.value for row in PROPERTY.measure([], evidence._replace(everyone=everyone))}
    later = [pair for pair in evidence.pairs if pair[0].fit == "distilled"]
    first = evidence._replace(
        pairs=[pair for pair in evidence.pairs if pair not in later],
        everyone=[s for s in everyone if s.fit != "distilled"],
    )
    added = evidence._replace(pairs=later, everyone=everyone)
    rows = [row for of in (first, added) for row in PROPERTY.measure([], of)]
    assert {row.key: row.value for row in rows} == pytest.approx(whole)  # keys that occur twice are stored once


def test_a_path_is_at_0_from_itself_turned_and_other_sequences_are_no_paths():
    rng = np.random.default_rng(2)
    run = [(step, rng.normal(size=(20, 4))) for step in (0, 5, 10)]
    turned = [(10 * step, 3 * x @ np.linalg.qr(rng.normal(size=(4, 4)))[0] + 1) for step, x in run]
    assert path_distance(run, turned) == pytest.approx(0, abs=1e-9)
    swapped = [(step, x) for (step, _), (_, x) in zip(run, [run[0], *run[:0:-1]], strict=True)]
    assert path_distance(run, swapped) > 0.1
    for wrong in (run[:2], run[::-1], []):
        with pytest.raises(ValueError, match=r"two snapshots or more after step 0, by ascending step, got steps \["):
            path_distance(run, wrong)


def test_no_pair_is_no_row():
    evidence, _, _ = study()
    assert list(PROPERTY.measure([], evidence._replace(pairs=[]))) == []


def test_runs_with_many_snapshots_are_thinned():
    evidence, _, asked = study({fit: tuple(range(0, 2001, 100)) for fit in STEPS})
    list(PROPERTY.measure([], evidence))
    assert len(asked) == 6 * MOST
