"""One generated sentence per property: its levels, its declared effect and the verdict."""

import math
from collections.abc import Mapping

from kdib.estimands import Cell, Effect
from kdib.properties.base import Property
from kdib.report.tables import digits, interval, places, probability
from kdib.report.verdicts import PLACEBO, Word, card_verdict
from kdib.report.view import View, listed, metric_name

CONCLUSIONS: dict[Word, str] = {
    "transferred": "the teacher’s advantage transferred, beyond the effect of self-distillation",
    "a trace": "a trace of the teacher’s advantage transferred, beyond the effect of self-distillation",
    "bias, imitated": "the teachers’ bias transferred, and the student also imitates its own teacher’s function",
    "imitated": "the student imitates its own teacher’s function",
    "bias": "the teachers’ bias transferred, since the student also resembles the teachers of other seeds",
    "undecided": "undecided",
    "no advantage": "no advantage of the teacher was shown that could transfer",
    "did not transfer": "did not transfer",
    "above self": "distillation raised it above self-distillation",
    "below self": "distillation lowered it below self-distillation",
}


def finding(view: View, prop: Property) -> str:
    """The levels, the declared difference with its interval, p and n, and the verdict, as one sentence."""
    cell = view.primary(prop)
    effects = view.effects_at(cell)
    name = metric_name(cell)
    named = prop.title if prop.title.lower() == name.lower() else f"{prop.title} ({name})"
    direction = {True: ", higher is better", False: ", lower is better", None: ""}[prop.higher_is_better]
    if prop.kind == "relational":
        direction = ", lower is more alike" if prop.higher_is_better is False else ""
    relational = prop.kind == "relational"
    declared = effects.get("own - sibling" if relational else "distilled - self")
    if declared is None or declared.n_seeds == 0:
        return f"{named}: not measured for every fit that the declared difference needs."
    said = _likeness(effects) if relational else _levels(view, cell)
    difference = "own − sibling" if relational else "distilled − self"
    placebo = effects.get(PLACEBO)
    beside = f", for the placebo {_with_interval(placebo)}" if relational and placebo and placebo.n_seeds else ""
    return (
        f"{named} on {cell.split}{direction}: {said}; {difference} is {_with_interval(declared)}{beside} "
        f"({_p(declared)}, n = {declared.n_seeds} seed{'' if declared.n_seeds == 1 else 's'}): "
        f"{CONCLUSIONS[card_verdict(prop, effects.values())]}."
    )


def _levels(view: View, cell: Cell) -> str:
    roles: Mapping[str, str] = view.material.config["roles"]
    found = {role: view.summary.get(cell, {}).get(roles[role]) for role in ("alone", "self", "distilled", "teacher")}
    return listed([f"{role} {_plain(level.estimate)}" for role, level in found.items() if level and level.n])


def _likeness(effects: Mapping[str, Effect]) -> str:
    words = {
        "own": "distilled student to its own teacher {}",
        "sibling": "to the teachers of other seeds {}",
        "floor": "student without a teacher to the teacher of its seed {}",
    }
    known = {name: effects[name] for name in words if name in effects and effects[name].n_seeds}
    return ", ".join([words[name].format(_plain(effect.estimate)) for name, effect in known.items()])


def _plain(value: float) -> str:
    return digits(value, places(value))


def _with_interval(effect: Effect) -> str:
    estimate, decimals = digits(effect.estimate, places(effect.estimate), signed=True), places(effect.estimate)
    if math.isnan(effect.low):
        return f"{estimate} (no interval)"
    return f"{estimate} {interval(effect.low, effect.high, decimals, signed=True)}"


def _p(effect: Effect) -> str:
    p = effect.p_holm
    if p is None or math.isnan(p):
        return "no p"
    return f"Holm p {'' if p < 0.001 else '= '}{probability(p).text}"
