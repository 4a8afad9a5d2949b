"""kdib.estimands and kdib.verdict on rows whose truth is known, faults planted among them."""

import math

import numpy as np
import pytest

from kdib.estimands import Effect, final_subjects, fit_summary, study_effects
from kdib.properties import of_task
from kdib.records import Row, Subject
from kdib.stats import holm, paired_difference, transfer_score
from kdib.verdict import Leads, headline, leads_of, verdict

PROPERTIES = of_task("agreement")
ROLES = {"teacher": "lstm", "alone": "alone", "self": "self", "distilled": "distilled"}
SCORES = {  # by fit, then by seed
    "lstm": (0.90, 0.93, 0.91, 0.92),
    "alone": (0.80, 0.84, 0.81, 0.83),
    "self": (0.82, 0.83, 0.82, 0.84),
    "distilled": (0.86, 0.90, 0.86, 0.88),
    "shuffled_soft": (0.81, 0.83, 0.82, 0.80),
}
SCALAR = {"accuracy": PROPERTIES["accuracy"]}
RELATIONAL = {"fidelity": PROPERTIES["fidelity"]}


def subject(fit, seed, step=100):
    return Subject(f"{fit}/seed{seed}@{step}", fit, seed, f"seed{seed}", step, "f")


def study(scores, prop="accuracy", split="test"):
    """Subjects, and rows on the primary metric of a scalar property; None leaves a value out."""
    primary = PROPERTIES[prop].primary
    subjects = [subject(fit, seed) for fit, values in scores.items() for seed in range(len(values))]
    rows = [
        Row(s.id, None, prop, primary.metric, split, primary.group, (), scores[s.fit][s.seed], 5, None)
        for s in subjects
    ]
    return rows, subjects


def similarities(sim, n=3):
    """Subjects, and agreement rows of every fit with the teachers: sim(fit, student's seed, teacher's seed)."""
    subjects = [subject(fit, seed) for fit in ("lstm", "alone", "self", "distilled") for seed in range(n)]
    teachers = [s for s in subjects if s.fit == "lstm"]
    rows = [
        Row(s.id, t.id, "fidelity", "agreement", "test", "", (), sim(s.fit, s.seed, t.seed), 100, None)
        for s in subjects
        for t in teachers
        if s.id != t.id
    ]
    return rows, subjects


def effects_of(rows, subjects, properties=None, **options):
    return study_effects(rows, subjects, ROLES, properties or SCALAR, in_distribution="test", **options)


def by_name(effects):
    return {effect.estimand: effect for effect in effects}


def test_scalar_effects_are_the_statistics_of_the_seeds():
    effects = by_name(effects_of(*study(SCORES)))
    interval, p = paired_difference(SCORES["distilled"], SCORES["self"])
    found = effects["distilled - self"]
    assert (found.estimate, found.low, found.high, found.n_seeds, found.p) == (*interval[:4], p)
    assert (found.p_holm, found.family) == (p, "primary")
    score = transfer_score(SCORES["distilled"], SCORES["alone"], SCORES["lstm"])
    assert effects["transfer score"][6:9] == score[:3] and effects["transfer score"].bounded
    assert effects["teacher - alone"].estimate == pytest.approx(0.095)
    assert effects["distilled - shuffled_soft"].estimate == pytest.approx(0.06)
    assert effects["shuffled_soft - alone"].family == "secondary"
    assert [e.estimand for e in effects.values() if e.family == "primary"] == ["distilled - self"]


def test_the_order_of_rows_and_subjects_is_irrelevant():
    """Pairing goes by seed: were it by position, these shuffled rows would give another interval."""
    rows, subjects = study(SCORES)
    shuffled = by_name(effects_of(rows[::-1], [subjects[i] for i in np.random.default_rng(0).permutation(20)]))
    assert shuffled == by_name(effects_of(rows, subjects))


def test_missing_seeds_are_named_and_not_imputed():
    scores = {**SCORES, "self": (0.82, None, 0.82, 0.84), "lstm": (0.90, 0.93, math.nan, 0.92)}
    effects = by_name(effects_of(*study(scores), failed=["distilled/seed3"]))
    found = effects["distilled - self"]
    assert (found.n_seeds, found.missing_seeds) == (2, (1, 3))
    assert found.estimate == pytest.approx(np.mean([0.86 - 0.82, 0.86 - 0.82]))
    assert (effects["transfer score"].n_seeds, effects["transfer score"].missing_seeds) == (2, (2, 3))
    assert "without seed 1, 2, 3" in headline(effects.values(), PROPERTIES["accuracy"])


def test_only_the_last_step_counts_and_a_stopped_run_has_none():
    rows, subjects = study(SCORES)
    early = [s._replace(id=f"{s.id}!", step=50) for s in subjects]
    worse = [row._replace(subject=f"{row.subject}!", value=0.1) for row in rows]
    expected = by_name(effects_of(rows, subjects))
    assert by_name(effects_of(worse + rows, early + subjects)) == expected
    stopped = [s for s in subjects if s.id != subject("self", 2).id]
    found = by_name(effects_of(worse + rows, early + stopped))["distilled - self"]
    assert (found.n_seeds, found.missing_seeds) == (3, (2,))


def test_two_runs_of_a_seed_are_refused():
    swept = subject("alone", 0)._replace(id="alone/seed0-learning_rate=0.1@100", run="seed0-learning_rate=0.1")
    with pytest.raises(ValueError, match=r"one run for each fit and seed, got alone/seed0@100 and alone/seed0-l"):
        final_subjects([subject("alone", 0), swept])


def test_families_and_holm():
    rows, subjects = study(SCORES)
    calibration, _ = study({fit: np.sqrt(values) for fit, values in SCORES.items()}, "calibration")
    ood, _ = study(SCORES, split="ood")
    fidelity, _ = similarities(lambda fit, s, t: 0.8 + 0.1 * (s == t) + 0.01 * (s * t))
    declared = {name: PROPERTIES[name] for name in ("accuracy", "calibration", "fidelity")}
    effects = effects_of([*ood, *calibration, *fidelity, *rows], subjects, declared)
    primary = [e for e in effects if e.family == "primary"]
    assert [(e.property, e.estimand) for e in primary] == [
        ("accuracy", "distilled - self"),
        ("calibration", "distilled - self"),
        ("fidelity", "own - sibling"),
    ]
    np.testing.assert_allclose([e.p_holm for e in primary], holm([e.p for e in primary]))
    assert all(e.p_holm is None for e in effects if e.family != "primary")
    assert {e.family for e in effects if e.split == "ood"} == {"exploratory"}
    order = [("primary", "secondary", "exploratory").index(e.family) for e in effects]
    assert order == sorted(order)


def test_a_declared_primary_that_was_not_measured_still_counts():
    rows, subjects = study(SCORES)
    properties = {name: PROPERTIES[name] for name in ("accuracy", "calibration")}
    accuracy, calibration = (e for e in effects_of(rows, subjects, properties) if e.family == "primary")
    assert accuracy.p_holm == pytest.approx(2 * accuracy.p)
    assert (calibration.n_seeds, math.isnan(calibration.p_holm)) == (0, True)
    other = [row._replace(metric="accuracy") for row in rows]
    with pytest.raises(ValueError, match=r"no row holds its primary .*measured are accuracy by 'attractors' on test"):
        effects_of(other, subjects)


def test_relational_effects_by_hand():
    sim = {"lstm": 0.9, "alone": 0.7, "self": 0.72, "distilled": 0.8}
    rows, subjects = similarities(lambda fit, s, t: sim[fit] + 0.01 * s + 0.02 * t + (0.05 + 0.01 * s) * (s == t))
    effects = by_name(effects_of(rows, subjects, RELATIONAL))
    # own: .8 + .01 s + .02 s + .05 + .01 s; sibling: .8 + .01 s + .02 (mean of the other two teachers)
    own = np.array([0.85, 0.89, 0.93])
    sibling = 0.8 + np.array([0.0 + 0.03, 0.01 + 0.02, 0.02 + 0.01])
    interval, p = paired_difference(own, sibling)
    found = effects["own - sibling"]
    np.testing.assert_allclose((*found[6:9], found.p), (*interval[:3], p))
    assert (found.family, found.n_seeds) == ("primary", 3)
    assert effects["own"].estimate == pytest.approx(own.mean())
    assert effects["sibling"].estimate == pytest.approx(sibling.mean())
    assert effects["floor"].estimate == pytest.approx(own.mean() - 0.1)
    assert effects["ceiling"].estimate == pytest.approx(sibling.mean() + 0.1)
    assert effects["self: own"].estimate == pytest.approx(own.mean() - 0.08)
    assert effects["own - floor"].estimate == pytest.approx(0.1)
    assert effects["own - self: own"].estimate == pytest.approx(0.08)
    assert effects["own - self: own"].family == "secondary"


def test_a_copied_function_is_told_from_a_shared_bias():
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.002, size=(3, 3))
    raised = {"lstm": 0.9, "alone": 0.7, "self": 0.7, "distilled": 0.85}
    shared = effects_of(*similarities(lambda f, s, t: raised[f] + noise[s, t]), RELATIONAL)
    copied = effects_of(*similarities(lambda f, s, t: raised[f] + noise[s, t] - 0.1 * (s != t)), RELATIONAL)
    assert by_name(shared)["own - sibling"].p > 0.05 > by_name(copied)["own - sibling"].p
    assert by_name(shared)["sibling - floor"].low > 0.1
    # a teacher mismatch, seed s measured as if it had learned from teacher s + 1, turns the sign
    swapped = similarities(lambda f, s, t: 0.8 + noise[s, t] + 0.1 * (t == (s + 1) % 3))
    assert by_name(effects_of(*swapped, RELATIONAL))["own - sibling"].high < 0


def test_similarities_to_other_fits_are_not_siblings():
    rows, subjects = similarities(lambda f, s, t: 0.8 + 0.01 * s * t)
    peers = [row._replace(other=subject("alone", 2).id, value=0.0) for row in rows if row.other == "lstm/seed2@100"]
    expected = by_name(effects_of(rows, subjects, RELATIONAL))
    assert by_name(effects_of(rows + peers, subjects, RELATIONAL)) == expected


def test_one_teacher_has_no_sibling():
    found = by_name(effects_of(*similarities(lambda f, s, t: 0.8, n=1), RELATIONAL))
    assert (found["own - sibling"].n_seeds, found["own"].n_seeds) == (0, 1)


def test_a_control_must_not_take_the_name_of_a_role():
    scores = {**SCORES, "teacher": SCORES["lstm"]}
    with pytest.raises(ValueError, match=r"fits \['teacher'\] have the name of a role"):
        effects_of(*study(scores))


def test_fit_summary():
    rows, subjects = study(SCORES)
    ((cell, summary),) = fit_summary(rows, subjects, failed=["lstm/seed1"]).items()
    assert (cell.property, cell.metric, cell.group) == ("accuracy", "mean_balanced_accuracy", "attractors")
    assert summary["lstm"].estimate == pytest.approx(0.91) and summary["lstm"].n == 3
    assert list(summary) == list(SCORES)


def leads(teacher, distilled, beyond, p_holm=0.01):
    """Leads with the given intervals."""

    def effect(low, high, p=None):
        names = ("accuracy", "m", "test", "", (), "e", (low + high) / 2)
        return Effect(*names, low, high, 3, 0.01, p, "primary", True, ())

    return Leads(effect(*teacher), effect(*distilled), effect(*beyond, p_holm), effect(0.2, 0.8))


NAN = (math.nan, math.nan)


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        (((0.05, 0.07), (0.03, 0.05), (0.02, 0.04)), "transferred"),
        (((0.05, 0.07), (0.03, 0.05), (0.02, 0.04), 0.06), "undecided"),  # not after Holm
        (((0.05, 0.07), (0.03, 0.05), (0.02, 0.04), math.nan), "undecided"),
        (((0.05, 0.07), (0.03, 0.05), (-0.01, 0.04)), "undecided"),
        (((0.05, 0.07), (-0.01, 0.05), (0.02, 0.04)), "undecided"),  # better than self, since self hurts
        (((0.05, 0.07), (0.001, 0.004), (0.02, 0.04)), "a trace"),  # shown, and below a tenth of .05
        (((0.05, 0.07), (0.001, 0.004), (0.02, 0.04), 0.06), "did not transfer"),
        (((0.05, 0.07), (0.03, 0.05), (-0.004, 0.004)), "did not transfer"),
        (((0.05, 0.07), (0.03, 0.05), (-0.004, 0.006)), "undecided"),  # a tenth of .05 is within
        (((0.05, 0.07), (0.03, 0.05), (-0.03, -0.01)), "did not transfer"),
        (((0.05, 0.07), (-0.03, -0.01), (0.02, 0.04)), "did not transfer"),
        (((-0.01, 0.07), (0.03, 0.05), (0.02, 0.04)), "no advantage"),
        (((-0.07, -0.05), (0.03, 0.05), (0.02, 0.04)), "no advantage"),
        ((NAN, (0.03, 0.05), (0.02, 0.04)), "undecided"),
        (((0.05, 0.07), NAN, (0.02, 0.04)), "undecided"),
        (((0.05, 0.07), (0.03, 0.05), NAN), "undecided"),
    ],
)
def test_verdict_rules(intervals, expected):
    assert verdict(leads(*intervals)) == expected


def test_lower_is_better():
    """The same study told as an error: every lead, the share and the verdict stay."""
    errors = {fit: tuple(1 - value for value in values) for fit, values in SCORES.items()}
    calibration = {"calibration": PROPERTIES["calibration"]}
    effects = effects_of(*study(errors, "calibration"), calibration)
    assert by_name(effects)["distilled - self"].estimate < 0  # the effect itself stays in natural units
    mirrored, plain = (
        leads_of(effects, PROPERTIES["calibration"]),
        leads_of(effects_of(*study(SCORES)), SCALAR["accuracy"]),
    )
    for a, b in zip(mirrored, plain, strict=True):
        np.testing.assert_allclose(a[6:9], b[6:9], atol=1e-9)
    assert verdict(mirrored) == verdict(plain) == "transferred"
    assert "where lower is better" in headline(effects, PROPERTIES["calibration"])


def sentence(**scores):
    return headline(effects_of(*study({**SCORES, **scores})), PROPERTIES["accuracy"])


def test_headline_transferred():
    assert sentence() == (
        "On mean balanced accuracy by attractors (test), the teacher's lead over the student trained alone is +0.095 "
        "[+0.086, +0.104] and distillation transferred 58 % [47 %, 70 %] of it; the distilled student's lead over "
        "self-distillation is +0.048 [+0.024, +0.071] (Holm-adjusted p = 0.008) and over the student trained alone "
        "+0.055 [+0.046, +0.064], so the advantage transferred, beyond what self-distillation gives "
        "(95 % t intervals over 4 paired seeds)."
    )


def test_headline_in_all_other_cases():
    undecided = sentence(self=(0.88, 0.80, 0.90, 0.78))
    assert "so whether the advantage transferred is undecided" in undecided and "58 %" in undecided
    not_transferred = sentence(self=(0.88, 0.93, 0.88, 0.91))
    assert "so the advantage did not transfer" in not_transferred and "−0.025" in not_transferred
    unclear = sentence(lstm=(0.80, 0.85, 0.81, 0.82))
    assert "the teacher was not shown to be better than the student trained alone (its lead is " in unclear
    assert "no advantage was shown whose transfer could be measured" in unclear
    assert "distillation transferred" not in unclear
    assert "the teacher was worse than the student" in sentence(lstm=(0.70, 0.75, 0.70, 0.72))


def test_headline_of_too_little():
    one = {fit: values[:1] for fit, values in SCORES.items()}
    found = headline(effects_of(*study(one)), PROPERTIES["accuracy"])
    assert "nothing is decided" in found and "+0.100" in found and "over 1 paired seed)" in found
    none = dict.fromkeys(SCORES, (None,) * 3)
    found = headline(effects_of(*study(none)), PROPERTIES["accuracy"])
    assert "not measured" in found and "without seed 0, 1, 2" in found and "nan" not in found


def test_headline_needs_a_scalar_property_with_a_direction():
    effects = effects_of(*study(SCORES))
    for prop in (PROPERTIES["fidelity"], PROPERTIES["accuracy"]._replace(higher_is_better=None)):
        with pytest.raises(ValueError, match="scalar property with a direction"):
            headline(effects, prop)


def test_points_of_a_map_have_levels_and_no_effects():
    rows, subjects = study(SCORES)
    point = [row._replace(metric="accuracy", group="offset", coords=(("dx", 1), ("dy", 2))) for row in rows]
    line = [row._replace(metric="accuracy", group="radius", coords=(("radius", 1),)) for row in rows]
    effects = effects_of([*rows, *point, *line], subjects)
    assert {effect.group for effect in effects} == {"attractors", "radius"}
    levels = {cell.group: summary for cell, summary in fit_summary([*rows, *point], subjects).items()}
    assert levels["offset"]["alone"].estimate == pytest.approx(np.mean(SCORES["alone"]))
    primary = PROPERTIES["accuracy"].primary._replace(metric="accuracy", group="offset", coords=(("dx", 1), ("dy", 2)))
    declared = {"accuracy": PROPERTIES["accuracy"]._replace(primary=primary)}
    assert {e.group for e in effects_of([*rows, *point], subjects, declared) if e.family == "primary"} == {"offset"}


# ---- pairwise properties, and relational ones whose pairs stand there once

PAIRWISE = {"basins": PROPERTIES["calibration"]._replace(name="basins", kind="pairwise", pairs="architecture")}


def pairs(value, n=3):
    """Subjects, and the rows of every two runs of one fit."""
    subjects = [subject(fit, seed) for fit in ROLES.values() for seed in range(n)]
    rows = [
        Row(a.id, b.id, "basins", "ece", "test", "", (), value(a, b), 100, None)
        for i, a in enumerate(subjects)
        for b in subjects[i + 1 :]
    ]
    return rows, subjects


def test_a_pairwise_value_of_a_run_is_its_mean_over_the_pairs_of_its_own_fit():
    base = {"lstm": 0.0, "alone": 5.0, "self": 3.0, "distilled": 1.0}
    rows, subjects = pairs(lambda a, b: base[a.fit] + 10.0 * (a.fit != b.fit) + a.seed * b.seed)
    effects = by_name(effects_of(rows, subjects, PAIRWISE))
    # pairs (0,1), (0,2), (1,2) have 0, 0, 2 more: runs 0, 1, 2 have 0, 1, 1 more
    assert effects["alone"].estimate == pytest.approx(5 + 2 / 3) and effects["teacher"].estimate == pytest.approx(2 / 3)
    assert effects["distilled - self"].estimate == pytest.approx(-2)
    assert effects["distilled - self"].family == "primary" and effects["distilled - alone"].family == "secondary"
    assert "transfer score" not in effects


def test_neighbours_that_share_runs_do_not_make_differences_significant():
    rng, rejected, n = np.random.default_rng(0), 0, 5
    subjects = [subject(fit, seed) for fit in ROLES.values() for seed in range(n)]
    neighbours = [(a, b) for a in subjects for b in subjects if a.fit == b.fit and b.seed == a.seed + 1]
    for _ in range(200):  # the height of a pair is what its two runs add up to
        of_run = {s.id: rng.normal() for s in subjects}
        rows = [
            Row(a.id, b.id, "basins", "ece", "test", "", (), of_run[a.id] + of_run[b.id], 100, None)
            for a, b in neighbours
        ]
        rejected += by_name(effects_of(rows, subjects, PAIRWISE))["distilled - self"].p < 0.05
    assert 0 < rejected / 200 < 0.1  # .3 with means over the pairs of each run


def test_three_runs_whose_neighbours_alone_are_compared_have_no_interval():
    rows, subjects = pairs(lambda a, b: len(a.fit) + 0.1 * a.seed)
    seeds = {s.id: s.seed for s in subjects}
    effects = by_name(effects_of([r for r in rows if seeds[r.other] - seeds[r.subject] == 1], subjects, PAIRWISE))
    lead = effects["distilled - self"]
    assert lead.estimate == pytest.approx(len("distilled") - len("self")) and lead.n_seeds == 3
    assert math.isnan(lead.low) and math.isnan(lead.p)


def test_pairs_that_share_no_run_have_no_interval():
    """Neighbours of five runs without the middle one: two independent numbers, which four runs would seem to share."""
    subjects = [subject(fit, seed) for fit in ROLES.values() for seed in (0, 1, 3, 4)]
    neighbours = [(a, b) for a in subjects for b in subjects if a.fit == b.fit and b.seed == a.seed + 1]
    rows = [
        Row(a.id, b.id, "basins", "ece", "test", "", (), len(a.fit) * (a.seed + 1.0), 100, None) for a, b in neighbours
    ]
    lead = by_name(effects_of(rows, subjects, PAIRWISE))["distilled - self"]
    assert lead.estimate == pytest.approx(2.5 * (len("distilled") - len("self"))) and math.isnan(lead.p)


def test_ten_runs_whose_pairs_are_all_alike_have_no_interval():
    rows, subjects = pairs(lambda a, b: 0.9 * (a.fit == "distilled"), n=10)
    seeds = {s.id: s.seed for s in subjects}
    compared = {(0, 2)} | {(i, i + 1) for i in range(9)}
    rows = [row for row in rows if (seeds[row.subject], seeds[row.other]) in compared]
    lead = by_name(effects_of(rows, subjects, PAIRWISE))["distilled - self"]
    assert lead.estimate == pytest.approx(0.9) and math.isnan(lead.low) and math.isnan(lead.p)  # p was 5e-139


def test_fits_are_compared_over_the_pairs_of_runs_that_both_have():
    """A failed run of one fit is left out of the other before pseudovalues, which have no meaning one by one."""
    barriers = {"distilled": {(0, 1): 0.9, (0, 2): 1.1, (1, 2): 1.3}, "self": {(0, 1): 0.5, (0, 2): 0.4, (1, 2): 0.7}}
    whole, subjects = pairs(lambda a, b: barriers.get(a.fit, {}).get((a.seed, b.seed), 0.0) + (a.fit != b.fit))
    lost = {subject("self", 2).id}
    rows = [row for row in whole if not lost & {row.subject, row.other}]
    lead = by_name(effects_of(rows, subjects, PAIRWISE))["distilled - self"]
    assert lead.estimate == pytest.approx(0.9 - 0.5) and math.isnan(lead.low) and math.isnan(lead.p)
    assert lead.n_seeds == 2 and lead.missing_seeds == (2,)
    assert by_name(effects_of(rows, subjects, PAIRWISE))["distilled"].estimate == pytest.approx(1.1)


def test_pairs_that_stand_once_count_for_both():
    def sim(a, b):
        return 1.0 - 0.1 * abs(a.seed - b.seed) - 0.2 * (a.fit != b.fit) - 0.01 * (a.seed + b.seed)

    subjects = [subject(fit, seed) for fit in ROLES.values() for seed in range(3)]
    once = [(b, a) for i, a in enumerate(subjects) for b in subjects[i + 1 :]]
    rows = [Row(a.id, b.id, "fidelity", "agreement", "test", "", (), sim(a, b), 9, None) for a, b in once]
    once_only = {"fidelity": RELATIONAL["fidelity"]._replace(pairs="everyone")}
    mirrored = [row._replace(subject=row.other, other=row.subject) for row in rows]
    found, expected = (
        by_name(effects_of(of, subjects, properties))
        for of, properties in ((rows, once_only), (rows + mirrored, RELATIONAL))
    )
    for name in ("own - sibling", "ceiling", "alone: own - sibling"):
        assert found[name].n_seeds == 3
        assert found[name].estimate == pytest.approx(expected[name].estimate)


def test_the_points_of_a_relational_map_have_no_effects():
    rows, subjects = similarities(lambda fit, s, t: 0.5 + 0.1 * (s == t) + 0.01 * s)
    at = (("layer", "block0"), ("teacher_layer", "block1"))
    layers = [row._replace(metric="layer", group="layers", coords=at) for row in rows]
    assert {effect.group for effect in effects_of(rows + layers, subjects, RELATIONAL)} == {""}
