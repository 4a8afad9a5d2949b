"""Shared errors: whether networks get the same examples wrong, and the exhibit that shows it.

All functions take booleans [N] (whether each example was classified correctly) or predictions [N].
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdib.properties.base import Evidence, mean_and_se
from kdib.records import Subject
from kdib.stats import mean_interval


class Share(NamedTuple):
    """A share of `n` examples and its standard error; both are None if there are no examples."""

    value: float | None
    n: int
    se: float | None


def cohens_kappa(a_N: np.ndarray, b_N: np.ndarray) -> float | None:
    """Agreement of two sets of predictions [N] beyond chance: (observed - expected) / (1 - expected), at most 1.

    The expected agreement is that of independent predictions with the same class frequencies. If both networks always
    predict the same single class, kappa is 0 / 0 and None is returned.

    Reference: Cohen, A coefficient of agreement for nominal scales, Educ. Psychol. Meas. 20 (1960), equation 1.
    """
    a_N, b_N = np.asarray(a_N), np.asarray(b_N)
    check_same_shape(a_N, b_N)
    n = len(a_N)
    # Integer arithmetic, so that a constant prediction gives exactly 0.
    expected = sum(int((a_N == c).sum()) * int((b_N == c).sum()) for c in np.unique(a_N))
    if expected == n * n:
        return None
    return (n * int((a_N == b_N).sum()) - expected) / (n * n - expected)


def error_consistency(correct_a_N: np.ndarray, correct_b_N: np.ndarray) -> float | None:
    """Cohen's kappa of being right: whether two networks err on the same examples, beyond what their accuracies imply.

    1 means identical errors, 0 those of independent networks; which wrong class was predicted does not matter. None if
    both are always right or both always wrong. Takes [N] bool of both networks.

    Reference: Geirhos, Meding, Wichmann, Beyond accuracy: quantifying trial-by-trial behaviour of CNNs and humans by
    measuring error consistency, NeurIPS (2020), section 2.
    """
    return cohens_kappa(_flags(correct_a_N), _flags(correct_b_N))


def error_overlap(correct_a_N: np.ndarray, correct_b_N: np.ndarray) -> float | None:
    """The Jaccard index of two sets of errors: common errors as a share of all errors, in [0, 1]; None without errors.

    By chance alone, less accurate networks overlap more; `error_consistency` corrects for that. Takes [N] bool of both
    networks. Reference: Jaccard, The distribution of the flora in the alpine zone, New Phytol. 11 (1912).
    """
    wrong_a_N, wrong_b_N = ~_flags(correct_a_N), ~_flags(correct_b_N)
    check_same_shape(wrong_a_N, wrong_b_N)
    either = int((wrong_a_N | wrong_b_N).sum())
    return int((wrong_a_N & wrong_b_N).sum()) / either if either else None


def share_where(holds_N: np.ndarray, given_N: np.ndarray) -> Share:
    """How often `holds_N` is true among the examples where `given_N` is, such as agreement where the teacher is wrong.

    Both are [N] bool. Reference: none, a conditional relative frequency.
    """
    holds_N, given_N = _flags(holds_N), _flags(given_N)
    check_same_shape(holds_N, given_N)
    n = int(given_N.sum())
    value, se = mean_and_se(holds_N[given_N]) if n else (None, None)
    return Share(value, n, se)


def error_sets(correct: Mapping[str, np.ndarray]) -> dict[frozenset[str], float]:
    """For every set of networks that occurs: the share of examples that exactly these networks get wrong.

    The shares add up to 1; that of the empty set is what every network gets right. This is the table behind an UpSet
    plot or, for two or three networks, a Venn diagram.

    Args:
      correct: [N] bool for each network, by name; all networks have the same examples.

    Raises:
      ValueError: for no networks, no examples, or different numbers of examples.
    Reference: Lex, Gehlenborg, Strobelt, Vuillemot, Pfister, UpSet: Visualization of Intersecting Sets, IEEE TVCG 20
    (2014).
    """
    columns = {name: _flags(column) for name, column in correct.items()}
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) != 1 or not next(iter(sizes.values())):
        raise ValueError(f"expected the same examples of every network, at least one; got sizes {sizes}")
    wrong_NxM, names = ~np.stack(list(columns.values()), axis=1), list(columns)
    patterns_PxM, counts_P = np.unique(wrong_NxM, axis=0, return_counts=True)
    return {
        frozenset(name for name, wrong in zip(names, pattern_M, strict=True) if wrong): int(count) / len(wrong_NxM)
        for pattern_M, count in zip(patterns_PxM, counts_P, strict=True)
    }


# ---- exhibit for the report


def networks_of_roles(subjects: Sequence[Subject], evidence: Evidence) -> dict[int, dict[str, Subject]]:
    """The networks of the fits with a role (alone, self, distilled, teacher, in this order), by seed and fit.

    Raises ValueError if two networks have the same fit and seed.
    """
    played = [evidence.fits[role] for role in ("alone", "self", "distilled", "teacher") if role in evidence.fits]
    found: dict[int, dict[str, Subject]] = {}
    for fit in dict.fromkeys(played):
        for subject in subjects:
            if subject.fit == fit:
                of_seed = found.setdefault(subject.seed, {})
                if fit in of_seed:
                    raise ValueError(f"expected one network a fit and seed, got {of_seed[fit].id} and {subject.id}")
                of_seed[fit] = subject
    return dict(sorted(found.items()))


def upset(networks: Mapping[int, Mapping[str, Subject]], evidence: Evidence) -> tuple[list[dict[str, Any]], str]:
    """A list with the block that draws `error_sets` on the first test set (means and t intervals), and its caption.

    `networks` is the result of `networks_of_roles`. Seeds that lack one of the fits are left out and named in the
    caption. The list is empty if there are fewer than two fits or no seed has all of them.
    """
    split, dataset = next(iter(evidence.sets.items()))
    names = list(dict.fromkeys(fit for of_seed in networks.values() for fit in of_seed))
    lacking = {seed: [fit for fit in names if fit not in of_seed] for seed, of_seed in networks.items()}
    complete = [of_seed for seed, of_seed in networks.items() if not lacking[seed]]
    if len(names) < 2 or not complete:
        return (
            [],
            f"Errors are not compared: no seed has all of {', '.join(names) or 'the fits'}, or there is only one fit.",
        )
    labels_N = np.asarray(dataset.inputs["label"])
    shares = [
        error_sets({fit: evidence.logits(of_seed[fit], split).argmax(axis=1) == labels_N for fit in names})
        for of_seed in complete
    ]
    occurring = dict.fromkeys(members for of_seed in shares for members in of_seed)
    levels = {members: mean_interval([of_seed.get(members, 0.0) for of_seed in shares]) for members in occurring}
    right = levels.pop(frozenset()).estimate if frozenset() in levels else 0.0
    sets = [
        {"members": [fit for fit in names if fit in members], "mean": level.estimate, **_ends(level.low, level.high)}
        for members, level in sorted(levels.items(), key=lambda item: -item[1].estimate)
    ]
    block = {"kind": "upset", "names": names, "sets": sets, "unit": "share of the test set", "n": len(shares)}
    return [{**block, "alt": _in_words(sets)}], _said(split, right, len(shares), lacking)


def _ends(low: float, high: float) -> dict[str, float | None]:
    """The ends of an interval for JSON, which has no nan."""
    return {"low": None, "high": None} if np.isnan(low) else {"low": low, "high": high}


def _in_words(sets: Sequence[Mapping[str, Any]]) -> str:
    largest = "; ".join(f"{' and '.join(found['members'])} only {found['mean']:.2%}" for found in sets[:4])
    return f"Shares of the test set by exactly which networks get it wrong: {largest or 'no network errs'}."


def _said(split: str, right: float, n: int, lacking: Mapping[int, Sequence[str]]) -> str:
    without = [f"seed {seed} (without {', '.join(fits)})" for seed, fits in lacking.items() if fits]
    left_out = f" Left out: {'; '.join(without)}." if without else ""
    return (
        f"Shares of the examples of {split} that exactly the marked networks of one seed get wrong: means with 95 % t "
        f"intervals over n = {n} seed{'s' * (n > 1)}. All networks are right on {right:.1%} of the examples.{left_out}"
    )


def _flags(values_N: np.ndarray) -> np.ndarray:
    values_N = np.asarray(values_N)
    if values_N.ndim != 1 or values_N.dtype != bool:
        raise ValueError(f"expected booleans [N], got {values_N.dtype} of shape {values_N.shape}")
    return values_N


def check_same_shape(a: np.ndarray, b: np.ndarray) -> None:
    """Raise ValueError unless both have the same shape and at least one example."""
    if np.shape(a) != np.shape(b) or not len(a):
        raise ValueError(f"expected the same examples and classes of both, got {np.shape(a)} and {np.shape(b)}")
