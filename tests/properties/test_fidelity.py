"""kdib.properties.fidelity: against scikit-learn, optax and chance."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from kdib.properties import of_task
from kdib.properties.base import Evidence, log_softmax
from kdib.properties.errors import error_consistency, error_overlap
from kdib.properties.fidelity import N_BINS, cohens_kappa, confidence, exaggeration, exhibit, kl, top1_agreement
from kdib.records import Subject
from kdib.tasks.base import Dataset

PROPERTIES = of_task("agreement")


@pytest.fixture
def logits():
    """Those of a student and of a teacher [2, N, K]."""
    teacher, noise = np.random.default_rng(0).normal(size=(2, 300, 4)).astype(np.float32)
    return teacher + noise, teacher


def test_kappa_is_scikit_learns(logits):
    from sklearn.metrics import cohen_kappa_score

    a, b = (values.argmax(axis=1) for values in logits)
    assert cohens_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b))
    assert cohens_kappa(a, a) == 1.0


def test_kappa_of_chance():
    rng = np.random.default_rng(1)
    answers, other = rng.random((2, 100_000)) < 0.9
    assert (answers == other).mean() > 0.8  # looks like agreement
    assert abs(cohens_kappa(answers, other)) < 0.015
    constant = np.zeros_like(answers)
    assert cohens_kappa(constant, answers) == 0.0  # exactly
    assert cohens_kappa(constant, ~constant) == 0.0
    assert cohens_kappa(constant, constant) is None  # 0 / 0


def test_kl_is_optax(logits):
    import jax
    import optax

    student, teacher = logits
    log_p, log_q = (jax.nn.log_softmax(values) for values in (teacher, student))
    expected = optax.losses.kl_divergence_with_log_targets(log_q, log_p)
    np.testing.assert_allclose(kl(teacher, student), expected, rtol=1e-4, atol=1e-6)


def test_kl_direction_and_limits(logits):
    student, teacher = logits
    p, q = np.exp(log_softmax(teacher)), np.exp(log_softmax(student))
    np.testing.assert_allclose(kl(teacher, student), (p * np.log(p / q)).sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(kl(teacher, teacher + 7), 0, atol=1e-6)
    certain = np.array([[1e4, -1e4]])
    np.testing.assert_allclose(kl(certain, -certain), [2e4])  # finite at probability 0
    np.testing.assert_allclose(kl(np.zeros((1, 2)), certain), [1e4 - np.log(2)])


# ---- how sure


def test_a_copy_exaggerates_nowhere_and_a_sharper_one_everywhere(logits):
    _, teacher = logits
    sure = confidence(teacher)
    same = exaggeration(sure, sure, n_classes=4)
    assert same.count_B.sum() == 300 and set(same.mean_B[same.count_B > 0]) == {0.0}
    sharper = exaggeration(sure, confidence(2 * teacher), n_classes=4)
    assert (sharper.mean_B[sharper.count_B > 0] > 0).all()
    calmer = exaggeration(sure, confidence(teacher / 2), n_classes=4)
    assert (calmer.mean_B[calmer.count_B > 0] < 0).all()


def test_exaggeration_is_the_loop(logits):
    student, teacher = map(confidence, logits)
    found = exaggeration(teacher, student, n_classes=4)
    width = 0.75 / N_BINS
    for b in range(N_BINS):
        inside = [s - t for s, t in zip(student, teacher, strict=True) if 0 <= t - 0.25 - b * width <= width]
        assert found.middle_B[b] == pytest.approx(0.25 + (b + 0.5) * width)
        assert found.count_B[b] == len(inside)
        if inside:
            assert found.mean_B[b] == pytest.approx(np.mean(inside))
            assert found.se_B[b] == pytest.approx(np.std(inside) / np.sqrt(len(inside)))
    whole = np.nansum(found.count_B * found.mean_B) / found.count_B.sum()
    assert whole == pytest.approx((student - teacher).mean())


def test_bins_of_confidence_are_open_below():
    found = exaggeration(np.array([0.5, 0.55, 0.5500001, 1.0]), np.ones(4), n_classes=2)
    np.testing.assert_array_equal(found.count_B[[0, 1, 9]], [2, 1, 1])  # 1/K in the first, 1 in the last
    assert np.isnan(found.mean_B[2]) and np.isnan(found.se_B[2])


def test_strangers_regress_to_the_mean():
    """Two networks of one kind that share nothing: the curve slopes, so it must be read against the siblings'."""
    rng = np.random.default_rng(2)
    a, b = confidence(2 * rng.normal(size=(2, 20_000, 3)).reshape(-1, 3)).reshape(2, -1)
    found = exaggeration(a, b, n_classes=3)
    assert abs((b - a).mean()) < 0.01
    assert found.mean_B[0] > 0.1 and found.mean_B[-1] < -0.1


def test_confidence_of_other_classes_is_refused(logits):
    sure = confidence(logits[1])
    with pytest.raises(ValueError, match=r"confidence in \[1/2, 1\], got .* see n_classes"):
        exaggeration(sure, sure, n_classes=2)
    with pytest.raises(ValueError, match=r"got \(300,\) and \(299,\)"):
        exaggeration(sure, sure[1:], n_classes=4)


# ---- rows


def pictures(labels):
    images = np.arange(len(labels)).astype(np.uint8)[:, None, None, None] * np.ones((28, 28, 1), np.uint8)
    return Dataset({"label": labels, "id": np.arange(len(labels)), "image": images}, {})


def network(fit, seed=0):
    return Subject(f"{fit}/seed{seed}@9", fit, seed, f"seed{seed}", 9, fit)


def evidence_of(answers, **sets):
    """`answers[fit]` [N, K] on every set, given as labels; the student's pair with its teacher."""
    return Evidence(
        {name: pictures(labels) for name, labels in sets.items()},
        lambda subject, split: answers[subject.fit],
        [(network("distilled"), network("teacher"))],
        fits={role: role for role in ("teacher", "alone", "self", "distilled")},
    )


def measured(evidence):
    rows = list(PROPERTIES["fidelity"].measure([], evidence))
    assert len({row.key for row in rows}) == len(rows)
    assert {row[:3] for row in rows} == {("distilled/seed0@9", "teacher/seed0@9", "fidelity")}
    return {(row.split, row.metric, row.coords): row for row in rows}


def test_rows_of_student_and_teacher(logits):
    student, teacher = logits
    labels = np.random.default_rng(3).integers(0, 4, 300)
    rows = measured(evidence_of({"distilled": student, "teacher": teacher}, test=labels))
    assert len(rows) == 9 + 2 * N_BINS

    def value(metric, **coords):
        return rows["test", metric, tuple(coords.items())].value

    assert value("agreement") == top1_agreement(*logits).mean()
    assert value("kl") == pytest.approx(kl(teacher, student).mean())  # teacher || student
    assert value("kl") != pytest.approx(kl(student, teacher).mean(), rel=1e-2)
    assert value("kappa") == cohens_kappa(student.argmax(axis=1), teacher.argmax(axis=1))
    right = student.argmax(axis=1) == labels, teacher.argmax(axis=1) == labels
    assert value("error_consistency") == error_consistency(*right) and value("error_overlap") == error_overlap(*right)
    assert value("exaggeration") == pytest.approx((confidence(student) - confidence(teacher)).mean())
    found = exaggeration(confidence(teacher), confidence(student), n_classes=4)
    counted = 0.0
    for middle, count, mean in zip(found.middle_B, found.count_B, found.mean_B, strict=True):
        at = {"teacher_confidence": round(middle, 9)}
        assert value("exaggeration_count", **at) == count
        assert value("exaggeration", **at) == (mean if count else None)
        counted += value("exaggeration_count", **at)
    assert counted == 300
    [curve] = PROPERTIES["fidelity"].curves
    drawn = [row for row in rows.values() if (row.metric, row.group) == (curve.metric, curve.group)]
    assert {dict(row.coords)[curve.x] for row in drawn} == {round(middle, 9) for middle in found.middle_B}


def onehot(answers, classes=3):
    return np.eye(classes, dtype=np.float32)[answers]


def test_agreement_by_who_is_right():
    """Ten examples of class 0, by hand."""
    teacher = onehot([0, 0, 0, 0, 0, 0, 1, 1, 2, 2])
    student = onehot([0, 0, 0, 1, 1, 2, 1, 0, 1, 2])
    rows = measured(evidence_of({"distilled": student, "teacher": teacher}, test=np.zeros(10, int)))
    found = {metric: (row.value, row.n) for (_, metric, coords), row in rows.items() if not coords}
    assert found["agreement"] == (0.5, 10)
    assert found["agreement_teacher_right"] == (0.5, 6)
    assert found["agreement_teacher_wrong"] == (0.5, 4)  # 1 and 2 of 1, 1, 2, 2
    assert found["agreement_both_wrong"] == (pytest.approx(2 / 3), 3)  # where the student is right, it is left out
    assert found["error_overlap"] == (pytest.approx(3 / 7), 10)


def test_accuracy_alone_makes_agreement_and_not_where_the_teacher_errs():
    """Two accurate networks that share nothing agree; on the teacher's errors they do not."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 10, 20_000)
    a, b = (np.where(rng.random(20_000) < 0.9, labels, rng.integers(0, 10, 20_000)) for _ in "ab")
    rows = measured(evidence_of({"distilled": onehot(a, 10), "teacher": onehot(b, 10)}, test=labels))
    values = {metric: row.value for (_, metric, coords), row in rows.items() if not coords}
    assert values["agreement"] > 0.8 and values["agreement_teacher_wrong"] < 0.03
    assert values["agreement_both_wrong"] == pytest.approx(1 / 9, abs=0.08)
    assert abs(values["error_consistency"]) < 0.02
    right = (b == labels).mean()
    parts = right * values["agreement_teacher_right"] + (1 - right) * values["agreement_teacher_wrong"]
    assert parts == pytest.approx(values["agreement"])


def test_two_classes_have_one_wrong_answer():
    labels = np.array([0, 1, 0, 1])
    right = onehot(labels, 2)
    rows = measured(evidence_of({"distilled": right, "teacher": right}, test=labels))
    assert ("test", "agreement_both_wrong", ()) not in rows
    row = rows["test", "agreement_teacher_wrong", ()]
    assert (row.value, row.n, row.se) == (None, 0, None)  # no error, no share of them
    assert rows["test", "error_overlap", ()].value is None and rows["test", "error_consistency", ()].value is None


def test_fidelity_is_measured_on_every_set_by_its_own_labels(logits):
    """Published were no likeness out of distribution, and ECE on another set than accuracy (PAPERS 1.6.7, 1.6.9)."""
    student, teacher = logits
    labels = teacher.argmax(axis=1)
    rows = measured(evidence_of({"distilled": student, "teacher": teacher}, test=labels, ood=(labels + 1) % 4))
    whole = {
        split: {metric for name, metric, coords in rows if name == split and not coords} for split in ("test", "ood")
    }
    assert whole["test"] == whole["ood"]
    assert {split for split, _, coords in rows if coords} == {"test"}
    assert rows["test", "agreement_teacher_wrong", ()].n == 0 == rows["ood", "agreement_teacher_right", ()].n
    assert rows["ood", "agreement_teacher_wrong", ()].value == rows["test", "agreement", ()].value


# ---- what the report shows


def test_exhibit_shows_what_distilled_and_alone_differ_on():
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, 40)
    answers = {fit: rng.normal(size=(40, 3)).astype(np.float32) for fit in ("teacher", "alone", "self", "distilled")}
    evidence = evidence_of(answers, test=labels, ood=labels)
    subjects = [network(fit, seed) for seed in (1, 0) for fit in answers]
    shown = exhibit(subjects, evidence)
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert set(shown) == {"title", "caption", "blocks"} and [b["kind"] for b in shown["blocks"]] == [
        "upset",
        "examples",
    ]
    examples = shown["blocks"][1]
    assert "12 examples of test on which distilled and alone (seed 0) differ most" in examples["heading"]
    assert "not a representative sample" in examples["heading"]
    probs = {fit: np.exp(log_softmax(values)) for fit, values in answers.items()}
    differences = np.abs(probs["distilled"] - probs["alone"])[np.arange(40), labels]
    rows = [int(item["alt"].split()[-1]) for item in examples["items"]]
    np.testing.assert_array_equal(rows, np.argsort(-differences, kind="stable")[:12])
    for i, item in zip(rows, examples["items"], strict=True):
        assert item["label"] == str(labels[i])
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(item["png"]))))
        np.testing.assert_array_equal(image, np.full((28, 28), i))
        for fit, p in probs.items():
            assert item["answers"][fit] == f"{p[i].argmax()} ({p[i].max():.2f})"


def test_exhibit_shows_sentences():
    answers = {"alone": onehot([0, 1], 2), "distilled": onehot([0, 0], 2)}
    tokens = np.array([[3, 4, 0], [4, 0, 0]])
    inputs = {"label": np.array([0, 0]), "id": np.arange(2), "tokens": tokens, "length": np.array([3, 2])}
    words = Dataset(inputs, {}, words=("<end>", "a", "b", "dogs", "bark"))
    evidence = evidence_of(answers, test=np.zeros(2, int))._replace(sets={"test": words})
    [item] = exhibit([network("alone"), network("distilled")], evidence)["blocks"][1]["items"]
    assert item == {"text": "bark", "label": "0", "answers": {"alone": "1 (0.73)", "distilled": "0 (0.73)"}}


def test_exhibit_shows_no_examples_without_a_difference():
    answers = {fit: onehot([0, 1, 2, 0]) for fit in ("teacher", "alone", "distilled")}
    evidence = evidence_of(answers, test=np.array([0, 1, 2, 2]))
    for fits in (["teacher", "alone"], answers):  # without a student, and with one that answers alike
        assert [block["kind"] for block in exhibit([*map(network, fits)], evidence)["blocks"]] == ["upset"]


def test_shapes_are_checked(logits):
    with pytest.raises(ValueError, match=r"got \(300, 4\) and \(299, 4\)"):
        kl(logits[0], logits[1][:-1])
