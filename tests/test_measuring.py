"""kdib.measuring: which pairs a property is measured on, what evidence holds, and what is shown beside the rows."""

import base64
import io
import types

import numpy as np
import pytest
from miniature import tiny
from PIL import Image

from kdib import answers, measuring, properties, study, tasks
from kdib.config import parse
from kdib.models.combinators import pair
from kdib.properties.base import Primary, Property
from kdib.records import Row, read_json
from kdib.runs import subjects
from kdib.teaching import open_lab

pytestmark = pytest.mark.usefixtures("no_page")


@pytest.fixture(scope="module")
def lab(finished):
    config = parse(tiny())
    return open_lab(config, tasks.build(config.task), finished)


@pytest.fixture(scope="module")
def evidence(lab):
    return measuring.evidence_of(lab)


@pytest.fixture(scope="module")
def everyone(lab):
    return subjects(lab.study, lab.workdir)


def test_everyone_stands_in_a_pair_once_and_a_student_before_its_teacher(lab, everyone):
    found = measuring._all_pairs(everyone, lab.study)
    n = len(everyone)
    assert len(found) == n * (n - 1) // 2 == len({frozenset(pair) for pair in found})
    order = [subject.fit for subject in everyone]
    for first, second in found:
        teacher = lab.study.fits[first.fit].teacher
        assert order.index(first.fit) >= order.index(second.fit)
        assert lab.study.fits[second.fit].teacher != first.fit or teacher == first.fit


def test_pairs_of_one_architecture_have_one_model(lab, everyone, evidence):
    found = measuring._of_one_architecture(everyone, lab.study)
    fits = {frozenset((a.fit, b.fit)) for a, b in found}
    assert frozenset(("alone", "distilled")) in fits and frozenset(("teacher", "alone")) not in fits
    assert all(evidence.network(a)[0] is evidence.network(b)[0] for a, b in found)


def test_hidden_activations_are_those_of_the_network_where_it_answers(everyone, evidence):
    for fit in ("teacher", "alone"):
        subject = next(s for s in everyone if s.fit == fit)
        inside = evidence.hidden(subject, "test")
        names, variables = list(inside), evidence.network(subject)[1]
        assert names[0] == "embedding" and names[-1] == "penultimate" and "block0" in names
        inputs = evidence.sets["test"].inputs
        rows = np.unique(np.linspace(0, len(inputs["label"]) - 1, min(500, len(inputs["label"]))).astype(int))
        assert all(values.shape[0] == len(rows) and values.ndim == 2 for values in inside.values())
        if fit == "teacher":  # the head of an LSTM is a plain product
            head = variables["params"]["head"]
            logits = inside["penultimate"] @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
            np.testing.assert_allclose(logits, evidence.logits(subject, "test")[rows], atol=1e-5)
            np.testing.assert_allclose(inside["block0"], inside["penultimate"], atol=1e-6)


def test_the_order_of_the_network_outlives_the_compiler(lab):
    def apply(params, model_state, batch, *, train, key):
        x = batch["image"].reshape(4, -1)
        return types.SimpleNamespace(
            logits=x, hidden={"stem": x, "block10": x + 1, "block9": x + 2, "penultimate": x}
        ), {}

    model = answers.Model(lambda key, batch: {}, apply)
    inside = answers.hidden(model, {"params": {}}, {"image": np.zeros((4, 2, 2, 1), np.float32), "label": np.zeros(4)})
    assert list(inside) == ["block10", "block9", "penultimate"]  # the stem is the penultimate by another name


def test_a_pair_shows_no_layer_of_its_teacher():
    def apply(params, model_state, batch, *, train, key):
        x = batch["image"].reshape(4, -1)
        return types.SimpleNamespace(logits=x, hidden={"stem": x + 1, "penultimate": x}), {}

    one = answers.Model(lambda key, batch: {}, apply)
    images = {"image": np.zeros((4, 2, 2, 1), np.float32), "label": np.zeros(4)}
    both = {"params": {"student": {}, "teacher": {}}}
    assert list(answers.hidden(pair(one, one), both, images)) == ["stem", "penultimate"]


def test_snapshots_are_the_run_up_to_a_subject(everyone, evidence):
    subject = everyone[0]
    run = evidence.snapshots(subject)
    assert [s.step for s in run] == [0, 6, 12] and run[-1] == subject
    assert run[0].fingerprint != subject.fingerprint
    early, late = (evidence.logits(s, "test") for s in run[::2])
    assert np.abs(early - late).max() > 1e-3
    assert [s.step for s in evidence.snapshots(run[1])] == [0, 6]


def test_the_sample_of_the_training_set_and_the_roles(evidence, everyone, lab):
    assert evidence.train.size == min(lab.task.train.size, 2_000) and evidence.fits["teacher"] == "teacher"
    assert evidence.validation_logits(everyone[0]).shape == (lab.task.validation.size, 2)


def test_an_exhibit_is_made_once_and_again_for_other_subjects(copy, monkeypatch):
    made = []

    def exhibit(everyone, evidence):
        made.append(len(everyone))
        return {"title": "networks", "caption": "", "blocks": []}

    shows = Property("shows", "Shows", "scalar", Primary("n", "", ""), None, measured, "", "", exhibit=exhibit)
    monkeypatch.setitem(properties.BY_TASK["agreement"], "shows", shows)
    wanted = (*tiny()["properties"], "shows")
    for _ in range(2):
        study.run(tiny(properties=wanted), copy)
    assert made == [10]
    for damaged in ("{", "null"):
        (copy / "exhibits" / "shows.json").write_text(damaged)
        study.run(tiny(properties=wanted), copy)
    (copy / "exhibits" / "shows.json").unlink()
    study.run(tiny(properties=wanted), copy)
    assert made == [10] * 4
    assert read_json(copy / "exhibits" / "shows.json")["title"] == "networks"
    study.run(tiny(properties=wanted, seeds=3), copy)
    assert made == [10, 10, 10, 10, 15]


def measured(everyone, evidence):
    assert {*everyone} <= {*evidence.everyone} and len(evidence.everyone) >= 10
    return [Row(s.id, None, "shows", "n", "test", "", (), 1.0, 1, None) for s in everyone]


def test_an_example_is_shown_as_words_or_as_a_picture(evidence):
    text = evidence.sets["test"].shown(0)["text"].split()
    inputs = evidence.sets["test"].inputs
    assert len(text) == inputs["length"][0] - 1  # but the token that ends them
    assert [evidence.sets["test"].words.index(word) for word in text] == inputs["tokens"][0, : len(text)].tolist()
    image = np.arange(28 * 28, dtype=np.uint8).reshape(1, 28, 28, 1)
    shown = tasks.base.Dataset({"image": image, "label": np.zeros(1)}, {}).shown(0)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["png"])))), image[0, :, :, 0])
    with pytest.raises(ValueError, match="cannot show an example of label"):
        tasks.base.Dataset({"label": np.zeros(1)}, {}).shown(0)
