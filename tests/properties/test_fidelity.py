"""kdib.properties.fidelity: against scikit-learn, optax and chance."""

import numpy as np
import pytest

from kdib.properties import of_task
from kdib.properties.base import Evidence, log_softmax
from kdib.properties.fidelity import cohens_kappa, kl, top1_agreement
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


def test_rows_name_student_and_teacher(logits):
    student, teacher = (Subject(f"{fit}/seed0@9", fit, 0, "seed0", 9, fit) for fit in ("distilled", "teacher"))
    answers = {student.id: logits[0], teacher.id: logits[1]}
    dataset = Dataset({"label": np.zeros(300, int), "id": np.arange(300)}, {})
    evidence = Evidence({"test": dataset}, lambda subject, split: answers[subject.id], [(student, teacher)])
    rows = {row.metric: row for row in PROPERTIES["fidelity"].measure([], evidence)}
    assert {(row.subject, row.other, row.n) for row in rows.values()} == {(student.id, teacher.id, 300)}
    assert rows["agreement"].value == top1_agreement(*logits).mean()
    assert rows["kl"].value == pytest.approx(kl(logits[1], logits[0]).mean())  # teacher || student
    assert rows["kl"].value != pytest.approx(kl(logits[0], logits[1]).mean(), rel=1e-2)
    assert rows["kappa"].value == cohens_kappa(logits[0].argmax(axis=1), logits[1].argmax(axis=1))


def test_shapes_are_checked(logits):
    with pytest.raises(ValueError, match=r"got \(300, 4\) and \(299, 4\)"):
        kl(logits[0], logits[1][:-1])
