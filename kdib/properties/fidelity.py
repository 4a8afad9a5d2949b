"""Fidelity to the teacher: agreement of predictions, KL divergence, shared errors and confidence.

Metrics of the rows, on every test set, with the teacher as `other`. At group "" and coords ():

- "agreement", "kl" (nats, teacher || student) and "kappa". Agreement rises with the accuracy of both networks; kappa
  corrects for agreement by chance.
- "error_consistency" and "error_overlap": whether both err on the same examples (kdib.properties.errors).
- Agreement, conditional on who is correct: "agreement_teacher_right" among the examples that the teacher gets right,
  where it equals the student's accuracy; "agreement_teacher_wrong" among those that the teacher gets wrong, where only
  likeness makes a student predict the same wrong class; and, with three classes or more, "agreement_both_wrong" among
  those that both get wrong (do they confuse the same classes?). `n` is the number of such examples; the value is None
  if there are none.
- "exaggeration": the mean confidence of the student minus that of its teacher.

At group "teacher_confidence" and coords (("teacher_confidence", middle of the bin),): "exaggeration" by the teacher's
confidence, and "exaggeration_count".

Only the comparison of a student's own teacher with the teachers of other seeds tells whether a function or a bias was
copied (kdib.estimands).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdib.properties.base import Curve, Evidence, Primary, Property, check_classified, log_softmax, mean_and_se
from kdib.properties.errors import (
    check_same_shape,
    cohens_kappa,
    error_consistency,
    error_overlap,
    networks_of_roles,
    share_where,
    upset,
)
from kdib.records import Row, Subject

N_BINS = 10  # bins of the teacher's confidence
N_SHOWN = 12  # examples in the exhibit


def top1_agreement(a_NxK: np.ndarray, b_NxK: np.ndarray) -> np.ndarray:
    """Whether two networks predict the same class for each example, [N] bool; takes [N, K] logits or probabilities.

    Reference: Stanton et al., Does Knowledge Distillation Really Work?, NeurIPS (2021), section 3.
    """
    check_same_shape(a_NxK, b_NxK)
    return np.asarray(a_NxK).argmax(axis=1) == np.asarray(b_NxK).argmax(axis=1)


def kl(teacher_logits_NxK: np.ndarray, student_logits_NxK: np.ndarray) -> np.ndarray:
    """KL(teacher || student) of each example [N] at temperature 1, in nats, summed over classes.

    Reference: Kullback, Leibler, On information and sufficiency (1951); Stanton et al. (2021), section 3.
    """
    check_same_shape(teacher_logits_NxK, student_logits_NxK)
    teacher_NxK, student_NxK = log_softmax(teacher_logits_NxK), log_softmax(student_logits_NxK)
    return (np.exp(teacher_NxK) * (teacher_NxK - student_NxK)).sum(axis=1)


class Exaggeration(NamedTuple):
    """Per bin [n_bins] of the teacher's confidence: its middle, the number of examples, their mean and standard error.

    Mean and standard error are nan in an empty bin.
    """

    middle_B: np.ndarray
    count_B: np.ndarray
    mean_B: np.ndarray
    se_B: np.ndarray


def confidence(logits_NxK: np.ndarray) -> np.ndarray:
    """The largest probability of each example [N], in [1/K, 1]."""
    return np.exp(log_softmax(logits_NxK).max(axis=1))


def exaggeration(teacher_confidence_N: np.ndarray, student_confidence_N: np.ndarray, *, n_classes: int) -> Exaggeration:
    """Confidence of a student minus that of its teacher, in N_BINS bins (lo, hi] of the teacher's confidence.

    The bins divide [1/K, 1]. A student that copies its teacher exactly is at 0 in every bin. A network that never saw
    the teacher is not: it is below 0 where the teacher happens to be confident, and above 0 where the teacher happens
    to be unsure (regression to the mean). Therefore compare the own teacher with the teachers of other seeds, whose
    bins select examples in the same way.

    Args:
      teacher_confidence_N: [N] largest probabilities of the teacher.
      student_confidence_N: [N] largest probabilities of the student, each of its own prediction.
      n_classes: K, which sets the lower end 1/K of the bins; the first bin includes it.

    Raises:
      ValueError: for different shapes, or a teacher's confidence outside [1/K, 1].
    Reference: none; like the reliability diagram of Guo et al. (ICML 2017), with the student in place of the labels.
    """
    teacher_N, student_N = np.asarray(teacher_confidence_N, float), np.asarray(student_confidence_N, float)
    check_same_shape(teacher_N, student_N)
    low, slack = 1 / n_classes, 1e-6  # slack for rounding
    if not (teacher_N.min() >= low - slack and teacher_N.max() <= 1 + slack):
        found = f"{teacher_N.min()} to {teacher_N.max()}"
        raise ValueError(f"expected a teacher's confidence in [1/{n_classes}, 1], got {found}: see n_classes")
    edges_E = np.linspace(low, 1, N_BINS + 1)
    bin_N = np.searchsorted(edges_E[1:-1], teacher_N, side="left")  # (lo, hi]
    count_B = np.bincount(bin_N, minlength=N_BINS)
    size_B = np.where(count_B > 0, count_B, np.nan)
    mean_B = np.bincount(bin_N, weights=student_N - teacher_N, minlength=N_BINS) / size_B
    spread_N = np.square(student_N - teacher_N - mean_B[bin_N])
    se_B = np.sqrt(np.bincount(bin_N, weights=spread_N, minlength=N_BINS)) / size_B
    return Exaggeration((edges_E[1:] + edges_E[:-1]) / 2, count_B, mean_B, se_B)


def measure(subjects: Sequence[Subject], evidence: Evidence) -> Iterator[Row]:
    """The rows of every (student, teacher) pair of the evidence on every test set.

    Exaggeration by the teacher's confidence takes 20 rows per pair, so it is measured in distribution only, and only
    against the teachers of the role.
    """
    del subjects
    for student, teacher in evidence.pairs:
        for number, (split, dataset) in enumerate(evidence.sets.items()):
            logits = evidence.logits(student, split), evidence.logits(teacher, split)
            labels_N = np.asarray(dataset.inputs["label"])
            by_confidence = number == 0 and teacher.fit == evidence.fits.get("teacher", teacher.fit)
            for metric, group, coords, *numbers in _numbers(*logits, labels_N):
                if by_confidence or not coords:
                    yield Row(student.id, teacher.id, "fidelity", metric, split, group, coords, *numbers)


def _numbers(student_NxK: np.ndarray, teacher_NxK: np.ndarray, labels_N: np.ndarray) -> Iterator[tuple]:
    """(metric, group, coords, value, n, se) of one pair of networks on one test set."""
    check_classified(student_NxK, labels_N)
    same_N, n = top1_agreement(student_NxK, teacher_NxK), len(labels_N)
    value, se = mean_and_se(same_N)
    yield "agreement", "", (), value, n, se
    value, se = mean_and_se(kl(teacher_NxK, student_NxK))
    yield "kl", "", (), value, n, se
    yield "kappa", "", (), cohens_kappa(student_NxK.argmax(axis=1), teacher_NxK.argmax(axis=1)), n, None
    student_right_N, teacher_right_N = (logits.argmax(axis=1) == labels_N for logits in (student_NxK, teacher_NxK))
    yield "error_consistency", "", (), error_consistency(student_right_N, teacher_right_N), n, None
    yield "error_overlap", "", (), error_overlap(student_right_N, teacher_right_N), n, None
    yield "agreement_teacher_right", "", (), *share_where(same_N, teacher_right_N)
    yield "agreement_teacher_wrong", "", (), *share_where(same_N, ~teacher_right_N)
    if student_NxK.shape[1] > 2:  # with two classes, two wrong predictions are always the same
        yield "agreement_both_wrong", "", (), *share_where(same_N, ~teacher_right_N & ~student_right_N)
    yield from _exaggeration_numbers(confidence(teacher_NxK), confidence(student_NxK), student_NxK.shape[1])


def _exaggeration_numbers(teacher_N: np.ndarray, student_N: np.ndarray, n_classes: int) -> Iterator[tuple]:
    value, se = mean_and_se(student_N - teacher_N)
    yield "exaggeration", "", (), value, len(teacher_N), se
    for middle, count, mean, error in zip(*exaggeration(teacher_N, student_N, n_classes=n_classes), strict=True):
        at = ("teacher_confidence", (("teacher_confidence", round(float(middle), 9)),))
        yield "exaggeration", *at, *((float(mean), int(count), float(error)) if count else (None, 0, None))
        yield "exaggeration_count", *at, float(count), len(teacher_N), None


# ---- exhibit for the report


def exhibit(subjects: Sequence[Subject], evidence: Evidence) -> dict[str, Any]:
    """An UpSet plot of the networks' errors, and examples on which `distilled` and `alone` of one seed differ."""
    networks = networks_of_roles(subjects, evidence)
    blocks, said = upset(networks, evidence)
    pair = [evidence.fits[role] for role in ("distilled", "alone") if role in evidence.fits]
    with_both = [of_seed for of_seed in networks.values() if len(pair) == 2 and {*pair} <= {*of_seed}]
    examples = [differing(with_both[0], pair[0], pair[1], evidence)] if with_both else []
    return {"title": "Errors by example", "caption": said, "blocks": [*blocks, *(b for b in examples if b["items"])]}


def differing(networks: Mapping[str, Subject], fit: str, other: str, evidence: Evidence) -> dict[str, Any]:
    """A block of the N_SHOWN examples of the first test set on which two fits differ most, with all predictions."""
    split, dataset = next(iter(evidence.sets.items()))
    labels_N = np.asarray(dataset.inputs["label"])
    probs = {name: np.exp(log_softmax(evidence.logits(subject, split))) for name, subject in networks.items()}
    of_label = {name: np.take_along_axis(probs[name], labels_N[:, None], axis=1)[:, 0] for name in (fit, other)}
    difference_N = np.abs(of_label[fit] - of_label[other])
    rows = [int(i) for i in np.argsort(-difference_N, kind="stable")[:N_SHOWN] if difference_N[i] > 0]
    answers = [{name: f"{p[i].argmax()} ({p[i].max():.2f})" for name, p in probs.items()} for i in rows]
    items = [{**dataset.shown(i), "label": str(labels_N[i]), "answers": a} for i, a in zip(rows, answers, strict=True)]
    heading = (
        f"The {len(rows)} examples of {split} on which {fit} and {other} (seed {networks[fit].seed}) differ most in "
        "the probability of the correct label (selected for this difference, not a representative sample)"
    )
    return {"kind": "examples", "heading": heading, "items": items}


PROPERTY = Property(
    name="fidelity",
    title="Fidelity to the teacher",
    kind="relational",
    primary=Primary("agreement", split="", group=""),
    higher_is_better=True,
    measure=measure,
    caption="Agreement: how often a student predicts the same class as its own teacher (“own”) or as the teachers of "
    "other seeds (“sibling”). If both rise alike, this is evidence that the bias transferred; own far above sibling "
    "means that the student copied its own teacher’s function. Error consistency is the agreement on being right or "
    "wrong, beyond what the accuracies imply. Exaggeration is the student’s confidence minus its teacher’s.",
    reference="Stanton, Izmailov, Kirichenko, Alemi, Wilson (NeurIPS 2021), section 3; Cohen (1960); Geirhos, Meding, "
    "Wichmann (NeurIPS 2020)",
    curves=(
        Curve(
            "exaggeration",
            group="teacher_confidence",
            x="teacher_confidence",
            xlabel="confidence of the teacher",
            ylabel="exaggeration of confidence",
            weight_metric="exaggeration_count",
        ),
    ),
    exhibit=exhibit,
    caveat="Accurate networks agree, and err on the same examples, to some extent by chance. Any other network is less "
    "confident where a teacher happens to be very confident. Compare own with sibling and with the floor.",
)
