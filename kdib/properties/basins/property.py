"""Whether two networks of one architecture lie in one basin: the loss on the straight line between them.

Metrics of the rows, with `subject` at alpha = 0 and `other` at alpha = 1, measured on N_EXAMPLES evenly spaced examples
(or all) of the first test set and of the training set, whose rows carry the name of that test set too:

- at group "" and coords (): "barrier", the highest cross-entropy (nats) of an inner point above the chord between the
  two ends, on the test set; "error_barrier", of the share of wrong answers above its chord; "train_barrier" and
  "train_error_barrier", the same on training examples; with "_mean" after it each of these four above the mean of the
  two ends. Negative where the line sags.
  "aligned_barrier", as "barrier" after the units of `other` are put into the order that brings its weights closest to
  those of `subject`; and "aligned_repaired_barrier", after REPAIR too: of an MLP without batch
  normalisation only, as with it the statistics that are collected at every point do the same. None of a network whose
  permutations are not covered (maxout, networks of other libraries).
- "loss" and "error" of group "interpolation" at (("alpha", alpha),), on the test set; also from earlier snapshots
  (`subject`) of one run to its end (`other`).

Batch normalisation has its statistics collected again at every point, the ends included, from training examples.
`chosen` says which couples are measured.
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

N_POINTS = 21  # on a line, ends included
N_COUPLES = 10  # for each unordered pair of fits
N_EXAMPLES = 1_000
ANCHORS = ("alone", "distilled")  # the roles that every other fit is compared with
MATCHING_SEED, RESTARTS = 0, 2
N_SNAPSHOTS = 8  # of the one run that is followed, evenly spaced over those that there are


class Couple(NamedTuple):
    """The network at alpha = 0 and the one at alpha = 1."""

    a: Subject
    b: Subject


def chosen(pairs: Sequence[tuple[Subject, Subject]], anchors: Collection[str]) -> list[Couple]:
    """The couples that are measured, those of one fit first; all couples would be quadratic in the number of networks.

    Of one fit, neighbouring seeds, and 0 with 2: without that couple three seeds, the default, would have no interval,
    since leaving out seed 1 would leave none. Of two fits, one of which is an anchor, equal seeds: those share the
    order of examples and their initial values, unless the config gives one of them others. Seeds from N_COUPLES on
    are left out. Whether a couple is chosen depends on nothing but itself, so that a study that is given more seeds
    keeps its couples.
    """
    wanted = [Couple(a, b) for a, b in pairs if _is_chosen(a, b) and (a.fit == b.fit or {a.fit, b.fit} & {*anchors})]
    return sorted(wanted, key=lambda couple: couple.a.fit != couple.b.fit)


def _is_chosen(a: Subject, b: Subject) -> bool:
    near = abs(a.seed - b.seed) == (a.fit == b.fit) or (a.fit == b.fit and {a.seed, b.seed} == {0, 2})
    return near and min(a.seed, b.seed) < N_COUPLES


def followed(couples: Sequence[Couple], evidence: Evidence) -> list[Couple]:
    """(snapshot, final) of seed 0 of the fit that learns alone, if one of the couples has it."""
    alone = evidence.fits.get("alone")
    finals = [subject for couple in couples for subject in couple if (subject.fit, subject.seed) == (alone, 0)]
    if not finals:
        return []
    earlier = [snapshot for snapshot in evidence.snapshots(finals[0]) if snapshot.id != finals[0].id]
    if not earlier:
        return []
    return [Couple(earlier[i], finals[0]) for i in evenly(len(earlier), N_SNAPSHOTS)]


def measure(subjects: Sequence[Subject], evidence: Evidence) -> Iterator[Row]:
    """The rows of the chosen couples, and of the snapshots of one run; one compiled program an architecture."""
    del subjects
    couples = chosen(evidence.pairs, [evidence.fits[role] for role in ANCHORS if role in evidence.fits])
    if not couples:
        return
    data, split_name = data_of(evidence, N_EXAMPLES), next(iter(evidence.sets))
    alphas_A = np.linspace(0, 1, N_POINTS)
    weights_Ax2 = np.stack([1 - alphas_A, alphas_A], axis=1)
    for couple in couples:
        answered = answers_at([evidence.network(subject) for subject in couple], weights_Ax2, data)
        yield from _barrier_rows(couple, split_name, alphas_A, answered, data)
        yield from _path_rows(couple, split_name, alphas_A, answered["test"], data)
        yield from _aligned_rows(couple, split_name, evidence, data)
    for couple in followed(couples, evidence):
        answered = answers_at([evidence.network(subject) for subject in couple], weights_Ax2, data)
        yield from _path_rows(couple, split_name, alphas_A, answered["test"], data)


def _barrier_rows(couple: Couple, split_name: str, alphas_A, answered: Mapping[str, Answered], data: Data):
    def row(metric, value, n):
        return Row(couple.a.id, couple.b.id, "basins", metric, split_name, "", (), value, n, None)

    for examples, prefix, n in (("test", "", data.n_test), ("train", "train_", data.n_train)):
        for metric, values_A in zip(("barrier", "error_barrier"), answered[examples], strict=True):
            height = barrier(values_A, alphas_A)
            yield row(f"{prefix}{metric}", height.above_chord, n)
            yield row(f"{prefix}{metric}_mean", height.above_mean, n)


def aligned(model: Model, a: Variables, b: Variables) -> tuple[str, Variables] | None:
    """The family of b, and b with its units in the order that brings its weights closest to those of a.

    None for a network whose permutations are not covered. Reference: Ainsworth, Hayase, Srinivasa (ICLR 2023).
    """
    try:
        spec = spec_of(b, heads=dict(model.fields).get("heads"))  # which variables do not tell
    except ValueError:
        return None
    key = jax.random.key(MATCHING_SEED)
    permutation = weight_matching(spec, a["params"], b["params"], key, restarts=RESTARTS)
    return spec.family, apply(spec, permutation, b)


def _aligned_rows(couple: Couple, split_name: str, evidence: Evidence, data: Data) -> Iterator[Row]:
    alphas_A = np.linspace(0, 1, N_POINTS)
    (model, a), (_, b) = (evidence.network(subject) for subject in couple)
    found = aligned(model, a, b)
    metrics = {"aligned_barrier": False}
    if found and found[0] == "mlp" and set(b) == {"params"}:
        metrics["aligned_repaired_barrier"] = True
    for metric, repaired in metrics.items():
        value = None
        if found:
            networks, weights_Ax2 = [(model, a), (model, found[1])], np.stack([1 - alphas_A, alphas_A], axis=1)
            answered = answers_at(networks, weights_Ax2, data, repaired=repaired)
            value = barrier(answered["test"].loss, alphas_A).above_chord
        n = data.n_test if found else 0
        yield Row(couple.a.id, couple.b.id, "basins", metric, split_name, "", (), value, n, None)


def _path_rows(couple: Couple, split_name: str, alphas_A: np.ndarray, answered: Answered, data: Data) -> Iterator[Row]:
    for metric, values_A in zip(("loss", "error"), answered, strict=True):
        for alpha, value in zip(alphas_A, values_A, strict=True):
            at = (("alpha", round(float(alpha), 4)),)
            key = (couple.a.id, couple.b.id, "basins", metric, split_name, "interpolation", at)
            yield Row(*key, float(value), data.n_test, None)


_EXAMPLES = f"at most {N_EXAMPLES:,} evenly spaced examples"
PROPERTY = Property(
    name="basins",
    title="Basins of the loss",
    kind="pairwise",
    primary=Primary("barrier", split="", group=""),
    higher_is_better=False,
    measure=measure,
    caption="How far the cross-entropy (nats) rises above the chord on the straight line between two networks, at "
    f"{N_POINTS} points, on {_EXAMPLES} of the test set in distribution; near 0 or below means one basin. Couples are "
    "neighbouring seeds of a fit (and 0 with 2), and equal seeds of two fits; a fit has the mean over its couples. "
    "Batch normalisation has its statistics collected again at every point.",
    reference="Frankle, Dziugaite, Roy, Carbin (ICML 2020); Entezari, Sedghi, Saukh, Neyshabur (ICLR 2022); "
    "plane: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson (NeurIPS 2018)",
    curves=(
        Curve("loss", "interpolation", x="alpha", xlabel="alpha", ylabel="cross-entropy (nats)"),
        Curve("error", "interpolation", x="alpha", xlabel="alpha", ylabel="share of wrong answers"),
    ),
    pairs="architecture",
    exhibit=exhibit,
    caveat="Neighbouring runs share a couple: intervals are by the jackknife over runs. A "
    "barrier on the line says nothing of curved paths, nor of units that are merely numbered otherwise: of those "
    "aligned_barrier does.",
)
