"""The verdict on a study, by rules fixed before the run, and the headline: one sentence that states it."""

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

from kdib.estimands import TRANSFER_SCORE, Effect
from kdib.properties.base import Property

Verdict = Literal["transferred", "a trace", "did not transfer", "undecided", "no advantage"]

ALPHA = 0.05
NEGLIGIBLE = 0.1  # of the teacher's lead; a smaller lead of a student counts as none, or as a trace if it is shown


class Leads(NamedTuple):
    """The effects that decide, on a property's primary metric; differences are positive if the first is better."""

    teacher: Effect  # teacher - alone
    distilled: Effect  # distilled - alone
    beyond: Effect  # distilled - self, of the primary family
    score: Effect  # the transfer score, the same in either direction


def verdict(leads: Leads) -> Verdict:
    """The verdict on the teacher's advantage.

    The student's intervals are those of distilled - alone and distilled - self. The first rule that applies decides:

    - "undecided" if any of the three differences has no interval;
    - "no advantage" unless the interval of teacher - alone lies above 0;
    - "a trace" or "transferred" if both of the student's intervals lie above 0 and distilled - self has a Holm-adjusted
      p below 0.05: "a trace" if one of the two lies below a tenth of the lower end of the teacher's interval;
    - "did not transfer" if one of the student's intervals lies below that tenth;
    - "undecided" otherwise: an interval that includes 0 shows neither an effect nor its absence.
    """
    teacher, distilled, beyond = leads[:3]
    if any(math.isnan(effect.low) for effect in (teacher, distilled, beyond)):
        return "undecided"
    if teacher.low <= 0:
        return "no advantage"
    small = min(distilled.high, beyond.high) < NEGLIGIBLE * teacher.low
    if min(distilled.low, beyond.low) > 0 and beyond.p_holm is not None and beyond.p_holm < ALPHA:
        return "a trace" if small else "transferred"
    return "did not transfer" if small else "undecided"


def has_direction(prop: Property) -> bool:
    """Whether `verdict` applies to a property: it is scalar, and higher or lower is better."""
    return prop.kind == "scalar" and prop.higher_is_better is not None


def leads_of(effects: Iterable[Effect], prop: Property) -> Leads:
    """The effects that decide the verdict on a scalar property with a direction.

    Raises:
      ValueError: if the property has no direction, or no primary effect among `effects`.
    """
    own = [e for e in effects if e.property == prop.name and e.family != "exploratory"]
    by_name = {effect.estimand: effect for effect in own}
    if prop.higher_is_better is None or "distilled - self" not in by_name:
        raise ValueError(f"expected a scalar property with a direction, got {prop.name}: {sorted(by_name)}")
    teacher, distilled, beyond = (
        by_name[name] if prop.higher_is_better else _mirrored(by_name[name])
        for name in ("teacher - alone", "distilled - alone", "distilled - self")
    )
    return Leads(teacher, distilled, beyond, by_name[TRANSFER_SCORE])


def headline(effects: Iterable[Effect], prop: Property) -> str:
    """One sentence: the teacher's advantage on the primary metric, the share that transferred, and the verdict.

    Arguments and errors as in `leads_of`.
    """
    leads = leads_of(effects, prop)
    return f"On {_metric(leads.beyond, prop)}, {_finding(leads)} ({_seeds(leads)})."


def _finding(leads: Leads) -> str:
    teacher, distilled, beyond, score = leads
    decided = verdict(leads)
    students = f"the distilled student's lead over self-distillation is {_said(beyond)}"
    if any(math.isnan(effect.low) for effect in leads[:3]):
        return (
            "nothing is decided, for an interval needs two paired seeds that differ: the teacher's lead over "
            f"the student trained alone is {_said(teacher)}, {students}"
        )
    if decided == "no advantage":
        shown = "was worse than" if teacher.high < 0 else "was not shown to be better than"
        return (
            f"the teacher {shown} the student trained alone (its lead is {_said(teacher)}), so no advantage was "
            f"shown whose transfer could be measured; {students}"
        )
    share = f"{_percent(score.estimate)} [{_percent(score.low)}, {_percent(score.high)}]"
    taken = f"distillation transferred {share if score.bounded else 'an undecided share'} of it"
    return (
        f"the teacher's lead over the student trained alone is {_said(teacher)} and {taken}; {students} "
        f"(Holm-adjusted p {_p(beyond.p_holm)}) and over the student trained alone {_said(distilled)}, "
        f"so {_CONCLUSIONS[decided]}"
    )


_CONCLUSIONS = {
    "transferred": "the advantage transferred, beyond what self-distillation gives",
    "a trace": "a trace of the advantage transferred, beyond what self-distillation gives: a lead below a tenth of the "
    "teacher's",
    "did not transfer": "the advantage did not transfer: a lead stays below a tenth of the teacher's",
    "undecided": "whether the advantage transferred is undecided",
}


def _mirrored(effect: Effect) -> Effect:
    return effect._replace(estimate=-effect.estimate, low=-effect.high, high=-effect.low)


def _metric(effect: Effect, prop: Property) -> str:
    group = f" by {effect.group.replace('_', ' ')}" if effect.group else ""
    direction = "" if prop.higher_is_better else ", where lower is better"
    return f"{effect.metric.replace('_', ' ')}{group} ({effect.split}{direction})"


def _seeds(leads: Leads) -> str:
    counts = sorted({effect.n_seeds for effect in leads})
    missing = sorted({seed for effect in leads for seed in effect.missing_seeds})
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    without = f"; without seed {', '.join(map(str, missing))}" if missing else ""
    return f"95 % t intervals over {number} paired seed{'' if counts == [1] else 's'}{without}"


def _said(effect: Effect) -> str:
    if math.isnan(effect.estimate):
        return "not measured"
    if math.isnan(effect.low):
        return _signed(effect.estimate)
    return f"{_signed(effect.estimate)} [{_signed(effect.low)}, {_signed(effect.high)}]"


def _signed(value: float) -> str:
    return f"{value:+.{3 if abs(value) >= 0.01 or value == 0 else 4}f}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{round(share, 2) + 0.0:.0%}".replace("-", "−").replace("%", " %")


def _p(p: float | None) -> str:
    if p is None or math.isnan(p):
        return "undefined"
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
