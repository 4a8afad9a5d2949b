"""Which examples networks get wrong, and whether they are the same ones: functions of right and wrong, and an exhibit.

Everything here takes boolean columns [N], whether each example was classified correctly, or answers [N].
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdib.properties.base import Evidence, mean_and_se
from kdib.records import Subject
from kdib.stats import mean_interval


class Share(NamedTuple):
    """A share of `n` examples and its standard error over them; both None of no example."""

    value: float | None
    n: int
    se: float | None


def cohens_kappa(a_N: np.ndarray, b_N: np.ndarray) -> float | None:
    """Agreement of two sets of answers [N] beyond chance: (observed - expected) / (1 - expected), at most 1.

    Expected is what independent answers with the same frequencies would give. If both always give one and the
    same answer this is 0 / 0, and None is returned: such answers hold no evidence.

    Reference: Cohen, A coefficient of agreement for nominal scales, Educ. Psychol. Meas. 20 (1960), equation
    1.
    """
    a_N, b_N = np.asarray(a_N), np.asarray(b_N)
    check_same_shape(a_N, b_N)
    n = len(a_N)
    # In whole numbers, so that a constant answer gives exactly 0.
    expected = sum(int((a_N == c).sum()) * int((b_N == c).sum()) for c in np.unique(a_N))
    if expected == n * n:
        return None
    return (n * int((a_N == b_N).sum()) - expected) / (n * n - expected)


def error_consistency(correct_a_N: np.ndarray, correct_b_N: np.ndarray) -> float | None:
    """Cohen's kappa of being right: how far two networks err on the same examples, beyond what their accuracies give.

    1 is the same errors, 0 those of independent networks; which wrong answer was given does not matter. None if both
    are always right, or both always wrong. [N] bool of both.

    Reference: Geirhos, Meding, Wichmann, Beyond accuracy: quantifying trial-by-trial behaviour of CNNs and humans by
    measuring error consistency, NeurIPS (2020), section 2.
    """
    return cohens_kappa(_flags(correct_a_N), _flags(correct_b_N))


def error_overlap(correct_a_N: np.ndarray, correct_b_N: np.ndarray) -> float | None:
    """Jaccard's index of the two sets of errors: those in common as a share of all, in [0, 1]; None without errors.

    Two networks of the same accuracies overlap the more the worse they are, by chance alone: `error_consistency` takes
    that out. [N] bool of both. Reference: Jaccard, The distribution of the flora in the alpine zone, New Phytol. 11
    (1912).
    """
    wrong_a_N, wrong_b_N = ~_flags(correct_a_N), ~_flags(correct_b_N)
    check_same_shape(wrong_a_N, wrong_b_N)
    either = int((wrong_a_N | wrong_b_N).sum())
    return int((wrong_a_N & wrong_b_N).sum()) / either if either else None


def share_where(holds_N: np.ndarray, given_N: np.ndarray) -> Share:
    """How often something holds among the examples of a condition, such as agreement where the teacher is wrong.

    [N] bool of both. Reference: none, a conditional relative frequency.
    """
    holds_N, given_N = _flags(holds_N), _flags(given_N)
    check_same_shape(holds_N, given_N)
    n = int(given_N.sum())
    value, se = mean_and_se(holds_N[given_N]) if n else (None, None)
    return Share(value, n, se)


def error_sets(correct: Mapping[str, np.ndarray]) -> dict[frozenset[str], float]:
    """The share of the examples that exactly these networks get wrong, for every set of them that occurs.

    The sets are disjoint and their shares add up to 1; the empty set holds what every network gets right. It is the
    table behind an UpSet plot, and behind a Venn diagram where there are two or three networks.

    Args:
      correct: [N] bool a network, by name; any number of networks, all asked about the same examples.

    Raises:
      ValueError: of no network, no example, or different numbers of them.
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


# ---- what the report shows


def networks_of_roles(subjects: Sequence[Subject], evidence: Evidence) -> dict[int, dict[str, Subject]]:
    """By seed, the networks of the fits that play a role (alone, self, distilled, teacher), by fit and in this order.

    Raises ValueError for two networks of one fit and seed.
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
    """The block that draws `error_sets` over the first test set, means over seeds with t intervals; and what to say.

    `networks` are those of `networks_of_roles`. A seed that lacks one of the fits is left out, and what is said tells;
    without a seed that has all of two fits or more there is no block.
    """
    split, dataset = next(iter(evidence.sets.items()))
    names = list(dict.fromkeys(fit for of_seed in networks.values() for fit in of_seed))
    lacking = {seed: [fit for fit in names if fit not in of_seed] for seed, of_seed in networks.items()}
    complete = [of_seed for seed, of_seed in networks.items() if not lacking[seed]]
    if len(names) < 2 or not complete:
        return (
            [],
            f"Errors are not compared: no seed has all of {', '.join(names) or 'the fits'}, or there is one fit only.",
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
    """The ends of an interval as JSON, which has no nan."""
    return {"low": None, "high": None} if np.isnan(low) else {"low": low, "high": high}


def _in_words(sets: Sequence[Mapping[str, Any]]) -> str:
    largest = "; ".join(f"{' and '.join(found['members'])} only {found['mean']:.2%}" for found in sets[:4])
    return f"Shares of the test set by exactly which networks get it wrong: {largest or 'no network errs'}."


def _said(split: str, right: float, n: int, lacking: Mapping[int, Sequence[str]]) -> str:
    without = [f"seed {seed} (without {', '.join(fits)})" for seed, fits in lacking.items() if fits]
    left_out = f" Left out: {'; '.join(without)}." if without else ""
    return (
        f"Examples of {split} by exactly which of the networks of one seed get them wrong; means with 95 % t intervals "
        f"over n = {n} seed{'s' * (n > 1)}. Every network is right on {right:.1%}.{left_out}"
    )


def _flags(values_N: np.ndarray) -> np.ndarray:
    values_N = np.asarray(values_N)
    if values_N.ndim != 1 or values_N.dtype != bool:
        raise ValueError(f"expected booleans [N], got {values_N.dtype} of shape {values_N.shape}")
    return values_N


def check_same_shape(a: np.ndarray, b: np.ndarray) -> None:
    """Raise ValueError unless both have one shape and an example."""
    if np.shape(a) != np.shape(b) or not len(a):
        raise ValueError(f"expected the same examples and classes of both, got {np.shape(a)} and {np.shape(b)}")
