"""kdib.properties.errors: against scikit-learn, sets of Python, and chance."""

import json

import numpy as np
import pytest

from kdib.properties.base import Evidence
from kdib.properties.errors import error_consistency, error_overlap, error_sets, networks_of_roles, share_where, upset
from kdib.records import Subject
from kdib.stats import mean_interval
from kdib.tasks.base import Dataset

# ---- two networks


def flags(text):
    return np.array([c == "1" for c in text])


def test_consistency_is_scikit_learns_kappa_of_right_and_wrong():
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    a, noise = rng.random((2, 500)) < 0.7
    b = np.where(rng.random(500) < 0.5, a, noise)
    assert error_consistency(a, b) == pytest.approx(cohen_kappa_score(a, b))
    assert error_consistency(a, a) == 1 and error_consistency(flags("10"), flags("01")) == -1


def test_consistency_is_the_papers():
    """Geirhos et al.: observed .8; expected by chance .8 * .6 + .2 * .4 = .56."""
    a, b = flags("1111111100"), flags("1111110000")
    assert error_consistency(a, b) == pytest.approx((0.8 - 0.56) / (1 - 0.56))


def test_independent_errors_overlap_and_are_not_consistent():
    """Why overlap is not read alone: two networks that share nothing overlap the more the worse they are."""
    rng = np.random.default_rng(1)
    for accuracy, expected in ((0.9, 0.1 / 1.9), (0.5, 1 / 3), (0.2, 0.64 / 0.96)):
        a, b = rng.random((2, 100_000)) < accuracy
        assert error_overlap(a, b) == pytest.approx(expected, abs=0.01)
        assert error_consistency(a, b) == pytest.approx(0, abs=0.02)


def test_overlap_is_jaccards():
    from sklearn.metrics import jaccard_score

    a, b = np.random.default_rng(2).random((2, 200)) < 0.8
    assert error_overlap(a, b) == pytest.approx(jaccard_score(~a, ~b))
    assert error_overlap(flags("0011"), flags("0111")) == 0.5  # one error in common, two in all
    assert error_overlap(flags("01"), flags("10")) == 0 and error_overlap(a, a) == 1


def test_what_holds_no_evidence_is_none():
    right, wrong = np.full(5, True), np.full(5, False)
    assert error_overlap(right, right) is None and error_consistency(right, right) is None
    assert error_consistency(wrong, wrong) is None and error_overlap(wrong, wrong) == 1
    assert error_consistency(right, flags("11011")) == 0 == error_overlap(right, flags("11011"))
    assert share_where(right, wrong) == (None, 0, None)


def test_share_where():
    value, n, se = share_where(flags("1100"), flags("1110"))
    assert (value, n) == (pytest.approx(2 / 3), 3) and se == pytest.approx(np.sqrt(2 / 9 / 3))


@pytest.mark.parametrize("function", [error_consistency, error_overlap, share_where])
def test_errors(function):
    with pytest.raises(ValueError, match=r"expected booleans \[N\], got int64 of shape \(2,\)"):
        function(np.array([1, 0]), np.array([True, False]))  # answers instead of right and wrong
    with pytest.raises(ValueError, match=r"got \(2,\) and \(1,\)"):
        function(flags("10"), flags("1"))


# ---- any number of them


def test_sets_are_those_of_python():
    rng = np.random.default_rng(3)
    correct = {name: rng.random(300) < 0.6 for name in "abcde"}
    wrong = {name: set(np.flatnonzero(~column)) for name, column in correct.items()}
    found = error_sets(correct)
    assert sum(found.values()) == pytest.approx(1)
    for members, share in found.items():
        inside = set.intersection(set(range(300)), *(wrong[name] for name in members))
        outside = set.union(set(), *(wrong[name] for name in wrong if name not in members))
        assert share == len(inside - outside) / 300 > 0
    for name, examples in wrong.items():  # the errors of one network are those of the sets that it is in
        assert sum(share for members, share in found.items() if name in members) == pytest.approx(len(examples) / 300)


def test_sets_of_two_give_the_overlap():
    a, b = np.random.default_rng(4).random((2, 400)) < 0.7
    found = error_sets({"a": a, "b": b})
    both = found[frozenset("ab")]
    assert error_overlap(a, b) == pytest.approx(both / (both + found[frozenset("a")] + found[frozenset("b")]))


def test_sets_of_different_examples_are_refused():
    with pytest.raises(ValueError, match=r"got sizes \{'a': 2, 'b': 1\}"):
        error_sets({"a": flags("10"), "b": flags("1")})
    for empty in ({}, {"a": np.zeros(0, bool)}):
        with pytest.raises(ValueError, match="at least one"):
            error_sets(empty)


# ---- what the report shows

FITS = {"teacher": "lstm", "alone": "bare", "self": "again", "distilled": "taught"}


def network(fit, seed):
    return Subject(f"{fit}/seed{seed}@9", fit, seed, f"seed{seed}", 9, fit)


def evidence_of(answers, labels, fits=FITS):
    """Evidence of right and wrong: `answers[fit, seed]` [N] bool."""
    logits = {key: np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)] for key, right in answers.items()}
    dataset = Dataset({"label": labels, "id": np.arange(len(labels))}, {})
    return Evidence({"test": dataset, "ood": dataset}, lambda s, split: logits[s.fit, s.seed], (), fits=fits)


@pytest.fixture
def study():
    """Right and wrong of four fits and three seeds on 200 examples; seed 2 has no `again`."""
    rng = np.random.default_rng(5)
    answers = {(fit, seed): rng.random(200) < 0.8 for fit in FITS.values() for seed in range(3)}
    del answers["again", 2]
    return answers, evidence_of(answers, rng.integers(0, 2, 200))


def test_upset_is_the_mean_over_complete_seeds(study):
    answers, evidence = study
    networks = networks_of_roles([network(*key) for key in answers], evidence)
    [block], said = upset(networks, evidence)
    assert json.loads(json.dumps(block, allow_nan=False)) == block
    assert (block["kind"], block["n"], block["unit"]) == ("upset", 2, "share of the test set")
    assert block["names"] == ["bare", "again", "taught", "lstm"]
    assert "n = 2 seeds" in said and said.endswith("Left out: seed 2 (without again).")
    by_seed = [error_sets({fit: answers[fit, seed] for fit in block["names"]}) for seed in (0, 1)]
    for drawn in block["sets"]:
        values = [found.get(frozenset(drawn["members"]), 0.0) for found in by_seed]
        level = mean_interval(values)
        assert drawn["mean"] == pytest.approx(np.mean(values))
        assert drawn["low"] == (None if np.isnan(level.low) else pytest.approx(level.low))
    means = [drawn["mean"] for drawn in block["sets"]]
    assert means == sorted(means, reverse=True)
    right = np.mean([found[frozenset()] for found in by_seed])
    assert sum(means) + right == pytest.approx(1) and f"right on {right:.1%}" in said
    assert "bare" in block["alt"]


def test_one_seed_has_no_interval(study):
    answers, evidence = study
    [block], said = upset(
        networks_of_roles([network(fit, 0) for fit, seed in answers if seed == 0], evidence), evidence
    )
    assert block["n"] == 1 and "n = 1 seed." in said
    assert {(drawn["low"], drawn["high"]) for drawn in block["sets"]} == {(None, None)}


def test_fits_that_are_missing_are_left_out(study):
    answers, evidence = study
    three = [network(*key) for key in answers if key[0] != "again"]
    [block], said = upset(networks_of_roles(three, evidence), evidence)
    assert block["names"] == ["bare", "taught", "lstm"] and block["n"] == 3 and "Left out" not in said
    roles = {role: fit for role, fit in FITS.items() if role != "teacher"}
    [block], _ = upset(networks_of_roles(three, evidence._replace(fits=roles)), evidence)
    assert block["names"] == ["bare", "taught"]


def test_nothing_to_compare_is_said(study):
    _, evidence = study
    alone = [network("bare", 0), network("bare", 1)]
    assert upset(networks_of_roles(alone, evidence), evidence)[0] == []
    apart = [network("bare", 0), network("taught", 1)]
    blocks, said = upset(networks_of_roles(apart, evidence), evidence)
    assert blocks == [] and said.startswith("Errors are not compared: no seed has all of bare, taught")


def test_two_networks_of_one_seed_are_refused(study):
    _, evidence = study
    twice = [network("bare", 0), network("bare", 0)._replace(id="bare/seed0-x@9")]
    with pytest.raises(ValueError, match="one network a fit and seed, got bare/seed0@9 and bare/seed0-x@9"):
        networks_of_roles(twice, evidence)
