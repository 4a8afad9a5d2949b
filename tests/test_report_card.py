"""The words of the transfer card: one case for every rule, both directions, and what turns each into another word."""

import math
import pathlib
import re

import pytest
from report_page import Page
from synthetic_likeness import PROPERTIES
from synthetic_study import PROPERTIES as MEASURED

from kdib.estimands import Effect
from kdib.report import card, page
from kdib.report.tables import Section
from kdib.report.verdicts import ICONS, MEANINGS, card_verdict

NAN = math.nan


def effects(prop, **intervals):
    """Effects from (low, high) or (low, high, Holm's p); names have _ for " - "."""
    found = []
    for name, given in intervals.items():
        named = {"placebo": "alone: own - sibling", "beyond_self": "sibling - self: sibling"}
        estimand = named.get(name, name.replace("_", " - "))
        low, high, *p = given
        cell = (prop.name, prop.primary.metric, "test", "", ())
        family = "primary" if p else "secondary"
        p_holm = p[0] if p else None
        found.append(Effect(*cell, estimand, (low + high) / 2, low, high, 5, 0.01, p_holm, family, True, ()))
    return found


RAISED = {"own_floor": (0.2, 0.4), "sibling_floor": (0.1, 0.3), "beyond_self": (0.05, 0.1)}
LIKENESS = {
    "copied beyond the placebo": (
        {"own_sibling": (0.05, 0.09, 0.01), "placebo": (-0.01, 0.01), **RAISED},
        "bias, imitated",
    ),
    "copied without the bias": (
        {"own_sibling": (0.05, 0.09, 0.01), "placebo": (-0.01, 0.01), **RAISED, "sibling_floor": (-0.1, 0.1)},
        "imitated",
    ),
    "no more than the placebo": ({"own_sibling": (0.05, 0.09, 0.01), "placebo": (0.03, 0.06), **RAISED}, "bias"),
    "not after Holm": ({"own_sibling": (0.05, 0.09, 0.06), "placebo": (-0.01, 0.01), **RAISED}, "bias"),
    "not apart": ({"own_sibling": (-0.05, 0.09, 0.5), "placebo": (-0.01, 0.01), **RAISED}, "bias"),
    "siblings not raised": (
        {"own_sibling": (-0.05, 0.09, 0.5), "placebo": (-0.01, 0.01), **RAISED, "sibling_floor": (-0.01, 0.3)},
        "undecided",
    ),
    "no more than self-distillation": (
        {"own_sibling": (-0.05, 0.09, 0.5), "placebo": (-0.01, 0.01), **RAISED, "beyond_self": (-0.01, 0.1)},
        "undecided",
    ),
    "less like it than without a teacher": (
        {"own_sibling": (-0.05, 0.09, 0.5), "placebo": (-0.01, 0.01), "own_floor": (-0.3, -0.1),
         "sibling_floor": (-0.3, -0.1), "beyond_self": (-0.1, 0.1)},
        "did not transfer",
    ),
    "copied, and less like it than without a teacher": (
        {"own_sibling": (0.05, 0.09, 0.01), "placebo": (-0.01, 0.01), "own_floor": (-0.25, -0.15),
         "sibling_floor": (-0.3, -0.2), "beyond_self": (-0.1, 0.1)},
        "did not transfer",
    ),
    "no interval of the placebo": ({"own_sibling": (0.05, 0.09, 0.01), "placebo": (NAN, NAN), **RAISED}, "undecided"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIKENESS)
def test_likeness(case):
    intervals, word = LIKENESS[case]
    similarity, distance = PROPERTIES["similarity"], PROPERTIES["training_paths"]
    assert card_verdict(similarity, effects(similarity, **intervals)) == word
    turned = {name: (-high, -low, *p) for name, (low, high, *p) in intervals.items()}
    assert card_verdict(distance, effects(distance, **turned)) == word


def test_without_one_of_the_comparisons_a_likeness_is_undecided():
    prop, (intervals, _) = PROPERTIES["similarity"], LIKENESS["not apart"]
    for name in intervals:
        rest = {other: given for other, given in intervals.items() if other != name}
        assert card_verdict(prop, effects(prop, **rest)) == "undecided"


@pytest.mark.parametrize(
    ("beyond", "word"),
    [
        ((0.1, 0.2, 0.01), "above self"),
        ((-0.2, -0.1, 0.01), "below self"),
        ((0.1, 0.2, 0.06), "undecided"),
        ((-0.1, 0.2, 0.01), "undecided"),
        ((NAN, NAN, NAN), "undecided"),
    ],
)
def test_a_pairwise_property_has_no_teacher_to_take_after(beyond, word):
    prop = PROPERTIES["basins"]
    assert card_verdict(prop, effects(prop, distilled_self=beyond)) == word
    assert card_verdict(prop, []) == "undecided"


def test_a_scalar_property_with_a_direction_has_the_verdict_of_the_headline():
    prop = MEASURED["calibration"]  # lower is better
    lead = {"teacher_alone": (-0.3, -0.2), "distilled_alone": (-0.2, -0.1)}
    (score,) = effects(prop, score=(0.4, 0.8))
    score = score._replace(estimand="transfer score")
    better = [*effects(prop, **lead, distilled_self=(-0.2, -0.1, 0.01)), score]
    worse = [*effects(prop, **lead, distilled_self=(0.1, 0.2, 0.01)), score]
    assert card_verdict(prop, better) == "transferred"
    assert card_verdict(prop, worse) == "did not transfer"
    strangers = [e._replace(property="accuracy") for e in worse] + [e._replace(family="exploratory") for e in worse]
    assert card_verdict(prop, better + strangers) == "transferred"


def test_every_word_has_an_icon_of_its_own_and_a_meaning():
    assert ICONS.keys() == MEANINGS.keys()
    assert len(set(ICONS.values())) == len(ICONS)


def test_every_word_has_a_class_of_its_own_that_the_style_sheet_knows(tmp_path):
    sections = [Section("words", "Words", [card.meanings()])]
    page.save(tmp_path / "page.html", title="t", headline="h", problems=[], sections=sections, fits=[])
    found = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    classes = [value.split() for tag, name, value in found.attributes if (tag, name) == ("span", "class")]
    words = [own for first, *own in classes if first == "word"]
    assert len(words) == len({tuple(own) for own in words}) == len(ICONS)
    style = pathlib.Path(page.__file__).with_name("style.css").read_text(encoding="utf-8")
    selectors = {one.strip() for rule in re.findall(r"^([^{}@]+)\{", style, re.MULTILINE) for one in rule.split(",")}
    assert {f".{name}" for own in words for name in own} <= selectors
