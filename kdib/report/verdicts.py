"""The verdict on each property of the transfer card, by rules fixed before the run, and what each verdict means."""

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
    "transferred": "The teacher is better than the student trained alone. The distilled student is better than the "
    "student trained alone and better than self-distillation (Holm-adjusted p below 0.05).",
    "a trace": "As “transferred”, but the distilled student’s lead over one of the two is below a tenth of the "
    "teacher’s lead.",
    "bias, imitated": "“Imitated” and “bias” both hold: the distilled student resembles the teachers of other seeds "
    "more than self-distillation does, and resembles its own teacher even more.",
    "imitated": "The distilled student resembles its own teacher more than a student without a teacher does. It also "
    "resembles its own teacher more than the teachers of other seeds, by more than a student without a teacher does: "
    "it copied this teacher’s function.",
    "bias": "The distilled student resembles its own teacher and the teachers of other seeds more than a student "
    "without a teacher does, and the teachers of other seeds more than self-distillation does. It was not shown to "
    "copy its own teacher in particular.",
    "undecided": "An interval includes 0 or cannot be computed: neither an effect nor its absence was shown.",
    "no advantage": "The teacher was not shown to be better than the student trained alone, so no lead was shown that "
    "could transfer.",
    "did not transfer": "The distilled student’s lead over the student trained alone or over self-distillation is "
    "below a tenth of the teacher’s lead. For properties that measure likeness: the distilled student does not "
    "resemble its teacher more than a student without a teacher does.",
    "above self": "The distilled student scores higher than self-distillation (Holm-adjusted p below 0.05). Used where "
    "neither direction is better, or where there is no teacher to compare with.",
    "below self": "The distilled student scores lower than self-distillation; otherwise as “above self”.",
}


def card_verdict(prop: Property, effects: Iterable[Effect]) -> Word:
    """The verdict on a property, from the effects on its primary cell; exploratory effects do not count.

    Scalar properties with a direction follow `kdib.verdict.verdict`. Scalar properties without one and pairwise
    properties are "above self" or "below self" if the interval of distilled - self lies on that side of 0 with a
    Holm-adjusted p below 0.05, else "undecided".

    Relational properties are signed so that higher means more alike (distances are negated). The first rule that
    applies decides:
    - "bias, imitated" if the rules for "imitated" and "bias" both hold;
    - "imitated" if the interval of own - floor lies above 0, and the interval of own - sibling lies above 0 and above
      the whole interval of the placebo, with a Holm-adjusted p below 0.05. The placebo is own - sibling of the student
      trained alone, which never saw a teacher;
    - "bias" if the intervals of own - floor, sibling - floor and sibling - self: sibling all lie above 0. The last one
      is needed because any teacher can make a student softer or better, and thereby more like every teacher;
    - "did not transfer" if the interval of own - floor ends at or below 0;
    - "undecided" otherwise, and whenever one of these differences has no interval.
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
    return effect.p_holm is not None and effect.p_holm < ALPHA  # False for nan
