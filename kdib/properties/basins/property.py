"""Loss barriers: whether two networks of one architecture lie in one basin, from the loss on the line between them.

Metrics of the rows, with `subject` at alpha = 0 and `other` at alpha = 1. They are measured on N_EXAMPLES evenly spaced
examples (or all) of the first test set and of the training set; all rows carry the name of the test set.

- At group "" and coords (): "barrier", the largest height of the cross-entropy (nats) at an inner point above the chord
  between the two ends, on the test set; "error_barrier", the same for the error rate; "train_barrier" and
  "train_error_barrier", the same on training examples. With the suffix "_mean", each of these four is relative to the
  mean of the two ends instead. A value is negative if all inner points lie below the chord (or the mean).
- Also at group "" and coords (): "aligned_barrier", the "barrier" after the units of `other` are permuted to bring its
  weights closest to those of `subject`; and "aligned_repaired_barrier", the same followed by REPAIR. The latter exists
  only for MLPs without batch normalization; with batch normalization, the statistics collected at every point have the
  same effect. "aligned_barrier" is None for a network whose permutations are not covered (maxout, networks of other
  libraries).
- "loss" and "error" of group "interpolation" at (("alpha", alpha),), on the test set; also from earlier snapshots
  (`subject`) of one run to its end (`other`).

Batch-normalization statistics are collected anew at every point, including the ends, from training examples. `chosen`
selects the pairs that are measured.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from kdib.models.base import Model, Variables
from kdib.properties.base import Curve, Evidence, Primary, Property, evenly
from kdib.properties.basins.interpolation import Answered, barrier
from kdib.properties.basins.matching import weight_matching
from kdib.properties.basins.permutations import apply, spec_of
from kdib.properties.basins.plane import exhibit
from kdib.properties.basins.program import Data, answers_at, data_of
from kdib.records import Row, Subject

N_POINTS = 21  # points on a line, including the ends
N_PAIRS = 10  # pairs of networks for each unordered pair of fits
N_EXAMPLES = 1_000
ANCHORS = ("alone", "distilled")  # the roles with which every other fit is compared
MATCHING_SEED, RESTARTS = 0, 2
N_SNAPSHOTS = 8  # snapshots of the one run that is followed through training, evenly spaced


class Pair(NamedTuple):
    """A pair of networks: `a` is at alpha = 0, `b` at alpha = 1."""

    a: Subject
    b: Subject


def chosen(pairs: Sequence[tuple[Subject, Subject]], anchors: Collection[str]) -> list[Pair]:
    """The pairs that are measured, pairs within a fit first; measuring all pairs would be too many.

    Within a fit: neighbouring seeds, and seeds 0 and 2. Without the pair (0, 2), three seeds (the default) would have
    no jackknife interval, since leaving out seed 1 would leave no pair. Between two fits, one of which must be an
    anchor: equal seeds, which share the order of examples and the initialization unless the config says otherwise.
    Pairs whose smaller seed is N_PAIRS or more are left out. The choice of a pair depends on nothing else, so a study
    that gets more seeds keeps its pairs.
    """
    wanted = [Pair(a, b) for a, b in pairs if _is_chosen(a, b) and (a.fit == b.fit or {a.fit, b.fit} & {*anchors})]
    return sorted(wanted, key=lambda pair: pair.a.fit != pair.b.fit)


def _is_chosen(a: Subject, b: Subject) -> bool:
    near = abs(a.seed - b.seed) == (a.fit == b.fit) or (a.fit == b.fit and {a.seed, b.seed} == {0, 2})
    return near and min(a.seed, b.seed) < N_PAIRS


def followed(pairs: Sequence[Pair], evidence: Evidence) -> list[Pair]:
    """(snapshot, final network) of seed 0 of the fit trained alone, if it occurs in one of the pairs."""
    alone = evidence.fits.get("alone")
    finals = [subject for pair in pairs for subject in pair if (subject.fit, subject.seed) == (alone, 0)]
    if not finals:
        return []
    earlier = [snapshot for snapshot in evidence.snapshots(finals[0]) if snapshot.id != finals[0].id]
    if not earlier:
        return []
    return [Pair(earlier[i], finals[0]) for i in evenly(len(earlier), N_SNAPSHOTS)]


def measure(subjects: Sequence[Subject], evidence: Evidence) -> Iterator[Row]:
    """The rows of the chosen pairs and of the snapshots of one run, with one compiled program per architecture."""
    del subjects
    pairs = chosen(evidence.pairs, [evidence.fits[role] for role in ANCHORS if role in evidence.fits])
    if not pairs:
        return
    data, split_name = data_of(evidence, N_EXAMPLES), next(iter(evidence.sets))
    alphas_A = np.linspace(0, 1, N_POINTS)
    weights_Ax2 = np.stack([1 - alphas_A, alphas_A], axis=1)
    for pair in pairs:
        answered = answers_at([evidence.network(subject) for subject in pair], weights_Ax2, data)
        yield from _barrier_rows(pair, split_name, alphas_A, answered, data)
        yield from _path_rows(pair, split_name, alphas_A, answered["test"], data)
        yield from _aligned_rows(pair, split_name, answered["test"].loss[-1], evidence, data)
    for pair in followed(pairs, evidence):
        answered = answers_at([evidence.network(subject) for subject in pair], weights_Ax2, data)
        yield from _path_rows(pair, split_name, alphas_A, answered["test"], data)


def _barrier_rows(pair: Pair, split_name: str, alphas_A, answered: Mapping[str, Answered], data: Data):
    def row(metric, value, n):
        return Row(pair.a.id, pair.b.id, "basins", metric, split_name, "", (), value, n, None)

    for examples, prefix, n in (("test", "", data.n_test), ("train", "train_", data.n_train)):
        for metric, values_A in zip(("barrier", "error_barrier"), answered[examples], strict=True):
            height = barrier(values_A, alphas_A)
            yield row(f"{prefix}{metric}", height.above_chord, n)
            yield row(f"{prefix}{metric}_mean", height.above_mean, n)


def aligned(model: Model, a: Variables, b: Variables) -> tuple[str, Variables] | None:
    """The family of b, and b with its units permuted to bring its weights closest to those of a.

    None for a network whose permutations are not covered. Reference: Ainsworth, Hayase, Srinivasa (ICLR 2023).
    """
    try:
        spec = spec_of(b, heads=dict(model.fields).get("heads"))  # variables do not reveal the number of heads
    except ValueError:
        return None
    key = jax.random.key(MATCHING_SEED)
    permutation = weight_matching(spec, a["params"], b["params"], key, restarts=RESTARTS)
    return spec.family, apply(spec, permutation, b)


def _aligned_rows(pair: Pair, split_name: str, loss_of_b: jax.Array, evidence: Evidence, data: Data) -> Iterator[Row]:
    """The barriers after weight matching; None where permuted units would make b another network.

    That happens to one's own network that names its layers like a covered one but connects them in another way.
    """
    alphas_A = np.linspace(0, 1, N_POINTS)
    weights_Ax2 = np.stack([1 - alphas_A, alphas_A], axis=1)
    (model, a), (_, b) = (evidence.network(subject) for subject in pair)
    values: dict[str, float | None] = {"aligned_barrier": None}
    if found := aligned(model, a, b):
        networks = [(model, a), (model, found[1])]
        loss_A = answers_at(networks, weights_Ax2, data)["test"].loss
        if np.isclose(loss_A[-1], loss_of_b, rtol=1e-4, atol=1e-6):
            values["aligned_barrier"] = barrier(loss_A, alphas_A).above_chord
            if found[0] == "mlp" and set(b) == {"params"}:
                loss_A = answers_at(networks, weights_Ax2, data, repaired=True)["test"].loss
                values["aligned_repaired_barrier"] = barrier(loss_A, alphas_A).above_chord
    for metric, value in values.items():
        n = 0 if value is None else data.n_test
        yield Row(pair.a.id, pair.b.id, "basins", metric, split_name, "", (), value, n, None)


def _path_rows(pair: Pair, split_name: str, alphas_A: np.ndarray, answered: Answered, data: Data) -> Iterator[Row]:
    for metric, values_A in zip(("loss", "error"), answered, strict=True):
        for alpha, value in zip(alphas_A, values_A, strict=True):
            at = (("alpha", round(float(alpha), 4)),)
            key = (pair.a.id, pair.b.id, "basins", metric, split_name, "interpolation", at)
            yield Row(*key, float(value), data.n_test, None)


_EXAMPLES = f"at most {N_EXAMPLES:,} evenly spaced examples"
PROPERTY = Property(
    name="basins",
    title="Basins of the loss",
    kind="pairwise",
    primary=Primary("barrier", split="", group=""),
    higher_is_better=False,
    measure=measure,
    caption="The barrier is how far the cross-entropy (nats) rises above the chord on the straight line between two "
    f"networks, at {N_POINTS} points, on {_EXAMPLES} of the test set in distribution. A barrier near 0 or below means "
    "that both networks lie in one basin. The value of a fit is the mean over pairs of its runs: neighbouring seeds, "
    "and seeds 0 and 2. Runs of two different fits are compared at equal seeds. Batch-normalization statistics are "
    "collected anew at every point.",
    reference="Frankle, Dziugaite, Roy, Carbin (ICML 2020); Entezari, Sedghi, Saukh, Neyshabur (ICLR 2022); "
    "plane: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson (NeurIPS 2018)",
    curves=(
        Curve("loss", "interpolation", x="alpha", xlabel="alpha", ylabel="cross-entropy (nats)"),
        Curve("error", "interpolation", x="alpha", xlabel="alpha", ylabel="error rate"),
    ),
    pairs="architecture",
    exhibit=exhibit,
    caveat="Pairs share runs, so intervals come from a jackknife over runs. A barrier on the straight line does not "
    "exclude a curved path without one, and it may be due to the order of hidden units alone; the aligned barrier "
    "corrects for that order.",
)
