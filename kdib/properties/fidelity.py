"""How far a student answers as its teacher does, right or wrong: top-1 agreement, KL, Cohen's kappa.

Metrics of the rows, at group "" and coords (), with `other` the teacher: "agreement", "kl" (nats, teacher ||
student) and "kappa". Agreement rises with the accuracy of both; kappa takes out what chance gives. Only the
comparison of the own teacher with its siblings says whether a function or a bias was copied (kdib.estimands).
"""

from collections.abc import Iterator, Sequence

import numpy as np

from kdib.properties.base import Evidence, Primary, Property, log_softmax, mean_and_se
from kdib.records import Row, Subject


def top1_agreement(a_NxK: np.ndarray, b_NxK: np.ndarray) -> np.ndarray:
    """Whether two networks answer alike, for each example [N] bool; [N, K] logits (or probabilities) of both.

    Reference: Stanton et al., Does Knowledge Distillation Really Work?, NeurIPS (2021), section 3.
    """
    _check_same_shape(a_NxK, b_NxK)
    return np.asarray(a_NxK).argmax(axis=1) == np.asarray(b_NxK).argmax(axis=1)


def kl(teacher_logits_NxK: np.ndarray, student_logits_NxK: np.ndarray) -> np.ndarray:
    """KL(teacher || student) of each example [N] at temperature 1, in nats, summed over classes.

    Reference: Kullback, Leibler, On information and sufficiency (1951); Stanton et al. (2021), section 3.
    """
    _check_same_shape(teacher_logits_NxK, student_logits_NxK)
    teacher_NxK, student_NxK = log_softmax(teacher_logits_NxK), log_softmax(student_logits_NxK)
    return (np.exp(teacher_NxK) * (teacher_NxK - student_NxK)).sum(axis=1)


def cohens_kappa(a_N: np.ndarray, b_N: np.ndarray) -> float | None:
    """Agreement of two sets of answers [N] beyond chance: (observed - expected) / (1 - expected), at most 1.

    Expected is what independent answers with the same frequencies would give. If both always give one and the
    same answer this is 0 / 0, and None is returned: such answers hold no evidence.

    Reference: Cohen, A coefficient of agreement for nominal scales, Educ. Psychol. Meas. 20 (1960), equation
    1.
    """
    a_N, b_N = np.asarray(a_N), np.asarray(b_N)
    _check_same_shape(a_N, b_N)
    n = len(a_N)
    # In whole numbers, so that a constant answer gives exactly 0.
    expected = sum(int((a_N == c).sum()) * int((b_N == c).sum()) for c in np.unique(a_N))
    if expected == n * n:
        return None
    return (n * int((a_N == b_N).sum()) - expected) / (n * n - expected)


def measure(subjects: Sequence[Subject], evidence: Evidence) -> Iterator[Row]:
    """The rows of every (student, teacher) pair of the evidence on every set; subjects alone have none."""
    del subjects
    for student, teacher in evidence.pairs:
        for split in evidence.sets:
            logits = evidence.logits(student, split), evidence.logits(teacher, split)
            yield from _pair_rows(student.id, teacher.id, split, *logits)


def _pair_rows(
    student: str, teacher: str, split: str, student_NxK: np.ndarray, teacher_NxK: np.ndarray
) -> Iterator[Row]:
    def row(metric, value, se):
        return Row(student, teacher, "fidelity", metric, split, "", (), value, len(student_NxK), se)

    yield row("agreement", *mean_and_se(top1_agreement(student_NxK, teacher_NxK)))
    yield row("kl", *mean_and_se(kl(teacher_NxK, student_NxK)))
    yield row("kappa", cohens_kappa(student_NxK.argmax(axis=1), teacher_NxK.argmax(axis=1)), None)


def _check_same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if np.shape(a) != np.shape(b) or not len(a):
        raise ValueError(f"expected the same examples and classes of both, got {np.shape(a)} and {np.shape(b)}")


PROPERTY = Property(
    name="fidelity",
    title="Fidelity to the teacher",
    kind="relational",
    primary=Primary("agreement", split="", group=""),
    higher_is_better=True,
    measure=measure,
    caption="How often a student answers as its own teacher does, and as the teachers of the other seeds do. "
    "Both raised alike is evidence for the bias; own far above sibling means that this teacher's function "
    "was copied.",
    reference="Stanton, Izmailov, Kirichenko, Alemi, Wilson (NeurIPS 2021), section 3; Cohen (1960)",
)
