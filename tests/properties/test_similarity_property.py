"""The property kdib.properties.similarity: its rows, pairs and layers are those of the functions."""

import functools

import numpy as np
import pytest

from kdib.properties.base import Evidence
from kdib.properties.dissimilarities import rsa
from kdib.properties.similarity import PROPERTY, linear_cka, own_pairs, procrustes
from kdib.records import Row, Subject
from kdib.tasks.base import Dataset


def subject(fit, seed, step=9):
    return Subject(f"{fit}/seed{seed}@{step}", fit, seed, f"seed{seed}", step, fit)


def study():
    """Teachers and students of two seeds on two sets; students have another width and one layer more."""
    subjects = [subject(fit, seed) for fit in ("teacher", "alone", "distilled") for seed in (0, 1)]
    rng = np.random.default_rng(10)
    hidden = {}
    for split in ("test", "shifted"):
        common = rng.normal(size=(30, 4)).astype(np.float32)
        for s in subjects:
            widths = (
                {"block0": 8, "penultimate": 4} if s.fit == "teacher" else {"stem": 50, "block0": 6, "penultimate": 5}
            )
            layers = {n: common @ rng.normal(size=(4, w)) + rng.normal(size=(30, w)) for n, w in widths.items()}
            hidden[s.id, split] = {name: values.astype(np.float32) for name, values in layers.items()}
    asked = []

    def look(s, split):
        asked.append((s.id, split))
        return hidden[s.id, split]

    pairs = [(b, a) for i, a in enumerate(subjects) for b in subjects[i + 1 :]]
    pairs = [pair[::-1] if {s.fit for s in pair} == {"teacher", "alone"} else pair for pair in pairs]  # either order
    dataset = Dataset({"label": np.zeros(30, int), "id": np.arange(30)}, {})
    sets = {"test": dataset, "shifted": dataset}
    evidence = Evidence(
        sets, lambda *_: None, pairs, hidden=look, fits={"teacher": "teacher", "distilled": "distilled"}
    )
    return evidence, hidden, asked


def test_rows_are_the_functions_of_every_pair():
    evidence, hidden, _ = study()
    rows = list(PROPERTY.measure([], evidence))
    assert len({row.key for row in rows}) == len(rows) == 15 * 3 * 2 + 4 * 6
    functions = {"cka": functools.partial(linear_cka, unbiased=True), "rsa": rsa, "procrustes": procrustes}
    for row in (row for row in rows if row.group == ""):
        pair = (hidden[name, row.split]["penultimate"] for name in (row.subject, row.other))
        assert row.value == pytest.approx(functions[row.metric](*pair), abs=1e-5)
        assert (row.coords, row.n, row.se) == ((), 30, None)
    assert {(row.subject, row.other) for row in rows[:45]} == {(a.id, b.id) for a, b in evidence.pairs}
    primary = PROPERTY.primary
    assert (rows[0].metric, rows[0].group, rows[0].coords) == (primary.metric, primary.group, primary.coords)


def test_layers_of_a_student_stand_against_those_of_the_teacher_of_its_seed():
    evidence, hidden, _ = study()
    rows = [row for row in PROPERTY.measure([], evidence) if row.group == "layers"]
    assert {(row.subject, row.other, row.split, row.metric) for row in rows} == {
        (f"{fit}/seed{s}@9", f"teacher/seed{s}@9", "test", "layer_cka")
        for fit in ("alone", "distilled")
        for s in (0, 1)
    }
    of_one = [row for row in rows if row.subject == "distilled/seed1@9"]
    order = [("stem", "block0"), ("stem", "penultimate"), ("block0", "block0"), ("block0", "penultimate")]
    assert [tuple(dict(row.coords).values()) for row in of_one[:4]] == order  # that of the networks
    drawn = PROPERTY.maps[0]
    for row in of_one:
        at = dict(row.coords)
        own, theirs = hidden[row.subject, "test"][at[drawn.y]], hidden[row.other, "test"][at[drawn.x]]
        assert row.value == pytest.approx(linear_cka(own, theirs, unbiased=True), abs=1e-5)


def test_a_layer_that_sees_no_difference_is_left_out_and_takes_no_other_with_it():
    evidence, hidden, _ = study()
    whole = {row.key: row.value for row in PROPERTY.measure([], evidence) if row.group == "layers"}
    hidden["teacher/seed0@9", "test"]["block0"][:] = 0.1
    hidden["distilled/seed0@9", "test"]["stem"][:] = 7.3
    rows = [row for row in PROPERTY.measure([], evidence) if row.group == "layers"]
    kept = {
        key: value
        for key, value in whole.items()
        if not (("teacher_layer", "block0") in key[-1] and key[1] == "teacher/seed0@9")
        and not (("layer", "stem") in key[-1] and key[0] == "distilled/seed0@9")
    }
    assert {row.key: row.value for row in rows} == pytest.approx(kept) and len(kept) == 24 - 2 * 3 - 1
    for layer in hidden["teacher/seed1@9", "test"].values():
        layer[:] = 0.1
    assert {row.other for row in PROPERTY.measure([], evidence) if row.group == "layers"} == {"teacher/seed0@9"}


def test_a_layer_that_tells_one_example_apart_has_no_value():
    evidence, hidden, _ = study()
    dead = hidden["distilled/seed0@9", "test"]["stem"]
    dead[:] = 0
    dead[3] = 1.0  # unbiased CKA is 0 / 0
    rows = [row for row in PROPERTY.measure([], evidence) if row.group == "layers"]
    of_it = [row.value for row in rows if row.subject == "distilled/seed0@9" and ("layer", "stem") in row.coords]
    assert of_it and set(of_it) == {None} and sum(row.value is None for row in rows) == len(of_it)


def test_a_network_is_looked_at_once_a_set_and_once_for_its_layers():
    evidence, _, asked = study()
    list(PROPERTY.measure([], evidence))
    times = {key: asked.count(key) for key in asked}
    assert all(count == 1 + (split == "test") for (_, split), count in times.items()) and len(times) == 12


def test_a_network_that_sees_no_difference_has_no_value_and_no_pair_is_no_row():
    evidence, hidden, _ = study()
    hidden["alone/seed0@9", "test"]["penultimate"][:] = 0.1
    rows = [row for row in PROPERTY.measure([], evidence) if row.split == "test" and row.group == ""]
    for row in rows:
        assert (row.value is None) == ("alone/seed0@9" in (row.subject, row.other))
    assert all(isinstance(row, Row) and row.n == 30 for row in rows)
    assert list(PROPERTY.measure([], evidence._replace(pairs=[]))) == []


def test_own_pairs_are_found_once():
    teacher, student, sibling = subject("teacher", 0), subject("alone", 0), subject("teacher", 1)
    pairs = [(student, teacher), (teacher, student), (student, sibling), (sibling, teacher)]
    evidence = Evidence({}, lambda *_: None, pairs, fits={"teacher": "teacher"})
    assert own_pairs(evidence) == {teacher: [student]}
