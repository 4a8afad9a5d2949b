"""The word that a property gets on the transfer card, by rules fixed before the run, and the sentence that says it."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal

from kdib.estimands import Effect
from kdib.properties.base import Property
from kdib.verdict import ALPHA, has_direction, leads_of, verdict

Word = Literal[
    "transferred", "a trace", "bias, imitated", "imitated", "bias", "undecided", "no advantage", "did not transfer",
    "above self", "below self",
]  # fmt: skip
ICONS: dict[Word, str] = {
    "transferred": "✓", "a trace": "◔", "bias, imitated": "≅", "imitated": "=", "bias": "≈", "undecided": "?",
    "no advantage": "–", "did not transfer": "✗", "above self": "▲", "below self": "▼",
}  # fmt: skip
PLACEBO = "alone: own - sibling"
MEANINGS: dict[Word, str] = {
    "transferred": "The teacher is better than the student alone, and the distilled student is better than both the "
    "student alone and self-distillation (Holm-adjusted p below 0.05).",
    "a trace": "As “transferred”, but a lead of the distilled student, shown though it is, stays below a tenth of the "
    "teacher’s.",
    "bias, imitated": "Both of the next two: more like the teachers of other seeds than self-distillation is, and more "
    "like its own teacher still.",
    "imitated": "The distilled student is more like its own teacher than a student without any teacher is, and more "
    "than like the teachers of other seeds, beyond what the latter shows: this teacher’s function was copied.",
    "bias": "The distilled student is more like its own teacher and more like the teachers of other seeds than a "
    "student without any teacher is, and more like the latter than self-distillation; own and other teachers were not "
    "shown apart.",
    "undecided": "An interval includes 0, or there is none: neither an effect nor its absence was shown.",
    "no advantage": "The teacher was not shown to be better than the student alone: no lead to hand over was shown.",
    "did not transfer": "The lead over the student alone or over self-distillation stays below a tenth of the "
    "teacher’s; of a likeness: the distilled student is not more like its teacher than a student without any.",
    "above self": "Higher than self-distillation (Holm-adjusted p below 0.05); neither direction is better, or there "
    "is no teacher to compare with.",
    "below self": "Lower than self-distillation, otherwise as “above self”.",
}


def card_verdict(prop: Property, effects: Iterable[Effect]) -> Word:
    """One word for a property, from the effects on its primary cell; exploratory and foreign ones are ignored.

    Scalar with a direction: kdib.verdict.verdict. Without one, and pairwise: "above self" or "below self" where
    distilled - self has an interval on that side of 0 and a Holm-adjusted p below 0.05, else "undecided".

    Relational, turned so that higher is more alike (a distance is lower), in this order:
    - "bias, imitated" if both of the following hold;
    - "imitated" if the interval of own - floor lies above 0, and that of own - sibling above 0 and above the whole
      interval of the placebo (the same of the student alone, which never saw a teacher), with a Holm-adjusted p below
      0.05;
    - "bias" if the intervals of own - floor, sibling - floor and sibling - self: sibling all lie above 0: a student
      that is only softer, or better, for having had a teacher is more like anybody's;
    - "did not transfer" if the interval of own - floor ends at or below 0;
    - "undecided" otherwise, and where any of these differences has no interval.
    """
    own = {e.estimand: e for e in effects if e.property == prop.name and e.family != "exploratory"}
    if prop.kind == "relational":
        return _likeness(prop, own)
    if has_direction(prop) and "teacher - alone" in own:
        return verdict(leads_of(own.values(), prop))
    beyond = own.get("distilled - self")
    if beyond is None or not _is_shown(beyond) or beyond.low <= 0 <= beyond.high:
        return "undecided"
    return "above self" if beyond.estimate > 0 else "below self"


def _likeness(prop: Property, effects: Mapping[str, Effect]) -> Word:
    names = ("own - sibling", PLACEBO, "own - floor", "sibling - floor", "sibling - self: sibling")
    if any(name not in effects or math.isnan(effects[name].low) for name in names):
        return "undecided"
    bounds = [_bounds(effects[name], lower_is_alike=prop.higher_is_better is False) for name in names]
    (copied, _), (_, placebo), (own, own_high), (sibling, _), (beyond, _) = bounds
    is_copied = own > 0 and copied > max(0.0, placebo) and _is_shown(effects["own - sibling"])
    if min(own, sibling, beyond) > 0:
        return "bias, imitated" if is_copied else "bias"
    if is_copied:
        return "imitated"
    return "did not transfer" if own_high <= 0 else "undecided"


def _bounds(effect: Effect, *, lower_is_alike: bool) -> tuple[float, float]:
    return (-effect.high, -effect.low) if lower_is_alike else (effect.low, effect.high)


def _is_shown(effect: Effect) -> bool:
    return effect.p_holm is not None and effect.p_holm < ALPHA  # nan is not below
