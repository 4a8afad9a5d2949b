"""Measure what the faults of the published work, whose code and data are public, change on the networks of a study.

Every fault has one function that returns JSON-ready numbers. `measured` runs them all, `report` writes the tables.
"""

import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from kdib import losses
from kdib.answers import mean_entropy
from kdib.models import transformer
from kdib.models.base import split
from kdib.properties.base import Evidence, evenly, log_softmax
from kdib.properties.calibration import expected_calibration_error
from kdib.properties.dissimilarities import second_orders
from kdib.properties.fidelity import kl, top1_agreement
from kdib.properties.maps import mds, nearly_identical, structureless
from kdib.records import Subject
from kdib.tasks.base import gather

ROWS = runpy.run_path(str(Path(__file__).parent.parent / "rows.py"))
BINS = 1_000_000  # as in the published analysis
EXAMPLES = 1_000
CHECKPOINTS = 11  # as in the published training path of an MLP
SHORT = 0.25  # the share of the shortest sentences, which are tested with and without padding to the longest


def measured(evidence: Evidence, subjects: Sequence[Subject], temperature: float) -> dict[str, Any]:
    """Measure every fault that the networks of this study can show; `temperature` is that of the study's KD loss."""
    roles = {fit: role for role, fit in evidence.fits.items()}
    mine = [subject for subject in subjects if subject.fit in roles]
    alone = [s for s in mine if s.fit == evidence.fits["alone"]]
    found = {
        "copies": _copies(evidence, alone[0]),
        "bins": [_bins(evidence, subject) for subject in mine],
        "training_mode": [_training_mode(evidence, s) for s in mine if s.fit == evidence.fits["teacher"]],
        "temperature": [_temperature(evidence, *pair, temperature) for pair in _pairs(evidence, mine)],
    }
    if "tokens" in next(iter(evidence.sets.values())).inputs:
        found["padding"] = [_padding(evidence, s) for s in alone]
    return found


def _copies(evidence: Evidence, subject: Subject) -> list[dict[str, Any]]:
    """Maps of a run's training path, of a path of copies, and of equidistant networks.

    A shallow copy collects the last network in place of every snapshot. Rounding errors made the published map of such
    copies look like networks that are all equally far from each other.
    """
    split_name, snapshots = next(iter(evidence.sets)), evidence.snapshots(subject)

    def entry(what, members, distances, found):
        groups = nearly_identical(distances)
        apart = len(distances) - sum(len(group) - 1 for group in groups)
        spread = float(np.ptp(found.xy_Nx2, axis=0).max())
        numbers = {"largest": float(distances.max()), "apart": apart, "spread": spread, "stress": found.stress}
        return {"what": what, "n": members, **numbers}

    entries = []
    for what, run in (("snapshots", snapshots), ("copies", [snapshots[-1]] * CHECKPOINTS)):
        hidden = {s.id: evidence.hidden(s, split_name)["penultimate"] for s in run}
        distances = 1 - second_orders([hidden[snapshot.id] for snapshot in run])
        np.fill_diagonal(distances, 0)  # rounding leaves small numbers there
        entries.append(entry(what, len(run), distances, mds(distances)))
    equal = 1 - np.eye(CHECKPOINTS)
    return [*entries, entry("equal", CHECKPOINTS, equal, structureless(CHECKPOINTS))]


def _pairs(evidence: Evidence, subjects: Sequence[Subject]) -> list[tuple[Subject, Subject]]:
    """Return the pairs (alone, teacher) of the same seed."""
    by_seed = {(s.fit, s.seed): s for s in subjects}
    names = evidence.fits["alone"], evidence.fits["teacher"]
    seeds = sorted({seed for fit, seed in by_seed if fit == names[0]} & {s for fit, s in by_seed if fit == names[1]})
    return [(by_seed[names[0], seed], by_seed[names[1], seed]) for seed in seeds]


def _bins(evidence: Evidence, subject: Subject) -> dict[str, Any]:
    """ECE with 15 and with a million bins, and the mean |correct - confidence| that the latter amounts to."""
    name, data = next(iter(evidence.sets.items()))
    probs_NxK, label_N = np.exp(log_softmax(evidence.logits(subject, name))), data.inputs["label"]
    gap = np.abs((probs_NxK.argmax(1) == label_N) - probs_NxK.max(1)).mean()
    million = expected_calibration_error(probs_NxK, label_N, n_bins=BINS)
    return {
        "fit": subject.fit,
        "seed": subject.seed,
        "ece": expected_calibration_error(probs_NxK, label_N),
        "million": million,
        "gap": float(gap),
    }


def _training_mode(evidence: Evidence, subject: Subject) -> dict[str, Any]:
    """Compare a teacher's outputs in training mode (dropout, batch statistics) with those in evaluation mode."""
    (model, variables), inputs = evidence.network(subject), _some(evidence)
    params, state = split(variables)
    modes = [
        np.asarray(model.apply(params, state, inputs, train=train, key=key)[0].logits, np.float32)
        for train, key in ((False, None), (True, jax.random.key(0)))
    ]
    right = [float((logits.argmax(1) == inputs["label"]).mean()) for logits in modes]
    return {
        "seed": subject.seed,
        "accuracy": right,
        "entropy": [mean_entropy(logits) for logits in modes],
        "kl": float(kl(*modes).mean()),
        "agreement": float(top1_agreement(*modes).mean()),
    }


def _temperature(evidence: Evidence, student: Subject, teacher: Subject, temperature: float) -> dict[str, Any]:
    """Share of distillation in the gradient of equally weighted cross-entropy and KL, with T^2 and with 1 / T^2."""
    name, data = next(iter(evidence.sets.items()))
    rows = evenly(data.size, EXAMPLES)
    own, other = (jnp.asarray(evidence.logits(s, name)[rows]) for s in (student, teacher))
    label_N = jnp.asarray(data.inputs["label"][rows])

    def norm(loss):
        return float(jnp.linalg.norm(jax.grad(lambda logits: loss(logits).mean())(own)))

    ce = norm(lambda logits: losses.label_smoothing(logits, label_N, epsilon=0.0))
    kd = norm(lambda logits: losses.softened_kl(logits, other, temperature=temperature))
    wrong = kd / temperature**4  # softened_kl multiplies by T^2; the fault divides by it
    return {"seed": student.seed, "T": temperature, "right": kd / (kd + ce), "wrong": wrong / (wrong + ce)}


def _padding(evidence: Evidence, subject: Subject) -> dict[str, Any]:
    """How padding changes the outputs on the shorter sentences, with our mask and with one that masks nothing."""
    model, variables = evidence.network(subject)
    inputs = _some(evidence)
    limit = int(np.quantile(inputs["length"], SHORT))
    longer = gather(inputs, np.flatnonzero(inputs["length"] <= limit))
    short = {**longer, "tokens": longer["tokens"][:, :limit]}

    def changed() -> list[float]:
        answers = [
            np.asarray(model.apply(variables["params"], {}, x, train=False, key=None)[0].logits)
            for x in (short, longer)
        ]
        return [float((answers[0].argmax(1) != answers[1].argmax(1)).mean()), float(kl(*answers).mean())]

    with mock.patch.object(transformer, "attention_mask", _adds_a_constant):
        wrong = changed()
    tokens = longer["tokens"].shape[1] - limit
    return {"seed": subject.seed, "tokens": tokens, "right": changed(), "wrong": wrong}


def _adds_a_constant(length_B: jax.Array, size: int, *, causal: bool) -> jax.Array:
    """The published mask of a bidirectional network: one constant per row of keys, to which softmax is invariant."""
    del causal
    return jnp.ones((len(length_B), size, size), bool)


def _some(evidence: Evidence) -> dict[str, np.ndarray]:
    data = next(iter(evidence.sets.values()))
    return gather(data.inputs, evenly(data.size, EXAMPLES))


# ---------------------------------------------------------------------------------------------------- tables


def report(found: Mapping[str, Any]) -> str:
    """Return the tables of a study as Markdown."""
    parts = [_copies_table(found["copies"]), _bins_table(found["bins"]), _lines_table(found)]
    return "\n\n".join(parts)


def _copies_table(entries: Sequence[Mapping[str, Any]]) -> str:
    names = {
        "snapshots": "the snapshots of `alone`, seed 0",
        "copies": "its last snapshot in place of every one (a shallow copy), as kdib draws it",
        "equal": "networks that are all equally far from each other, as published",
    }
    lines = [
        (names[e["what"]], str(e["n"]), *(f"{e[key]:.2f}" for key in ("largest", "spread", "stress")), str(e["apart"]))
        for e in entries
    ]
    head = ("a training path", "networks", "largest distance", "width of the map", "stress", "places on the map")
    return ROWS["markdown"](head, lines)


def _bins_table(entries: Sequence[Mapping[str, Any]]) -> str:
    by_fit: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        by_fit.setdefault(entry["fit"], []).append(entry)
    lines = [(fit, *(_mean([e[key] for e in own]) for key in ("ece", "million", "gap"))) for fit, own in by_fit.items()]
    return ROWS["markdown"](("fit", "ECE, 15 bins", "ECE, 1,000,000 bins", "mean of abs(correct − confidence)"), lines)


def _lines_table(found: Mapping[str, Any]) -> str:
    modes, heat = found["training_mode"], found["temperature"]
    lines = [
        ("the teacher's accuracy", *(_mean([e["accuracy"][i] for e in modes]) for i in (0, 1))),
        ("its mean entropy, nats", *(_mean([e["entropy"][i] for e in modes]) for i in (0, 1))),
        ("agreement with its own answers in evaluation mode", "1", _mean([e["agreement"] for e in modes])),
        ("KL from them, nats", "0", _mean([e["kl"] for e in modes])),
    ]
    head = ("a teacher in training mode", "right", "as published")
    tables = [ROWS["markdown"](head, lines)]
    if heat[0]["T"] != 1:  # at T = 1 both factors are 1
        shares = (_mean([e[key] for e in heat], 5) for key in ("right", "wrong"))
        line = (f"share of distillation in the gradient of CE + KD, T = {heat[0]['T']:g}", *shares)
        tables.append(ROWS["markdown"](("1 / T² in place of T²", "right", "as published"), [line]))
    if own := found.get("padding"):
        lines = [
            (
                f"{what} with {own[0]['tokens']} more tokens of padding",
                *(_mean([e[mask][i] for e in own], 4) for mask in ("right", "wrong")),
            )
            for i, what in enumerate(("answers that change", "KL, nats,"))
        ]
        tables.append(ROWS["markdown"](("a mask that adds one constant a row", "right", "as published"), lines))
    return "\n\n".join(tables)


def _mean(values: Sequence[float], places: int = 3) -> str:
    interval = ROWS["spread"](dict(enumerate(values)))
    half = "" if np.isnan(interval.high) else f" ± {interval.high - interval.estimate:.{places}f}"
    return f"{interval.estimate:.{places}f}{half}"
