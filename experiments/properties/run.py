"""Compare students with their teachers property by property: what is transferred, and is it bias or imitation?

    python experiments/properties/run.py generated --workdir=runs/agreement_generated
    python experiments/properties/run.py text --data=FOLDER --workdir=runs/agreement_text
    python experiments/properties/run.py mnist --data=FOLDER --workdir=runs/vision_mnist
    python experiments/properties/run.py --report-only

The networks are those of experiments/agreement_transfer and experiments/vision_transfer. If `--workdir` is a workdir
of these, runs that are finished there are not trained again. The rows are kept in results/, with the measurements of
the published faults (faults.py). `--report-only` writes the README's tables and the figures from them.
"""

import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdib.estimands import Effect, study_effects
from kdib.main import load_config
from kdib.properties import of_task
from kdib.properties.base import Property
from kdib.records import read_json, write_json
from kdib.report.card import card_verdict
from kdib.stats import mean_interval

HERE = Path(__file__).parent
CONFIGS = HERE.parent.parent / "configs"
ROWS = runpy.run_path(str(HERE.parent / "rows.py"))
FAULTS = runpy.run_path(str(HERE / "faults.py"))
TRANSFER, VISION = (
    runpy.run_path(str(HERE.parent / name / "run.py")) for name in ("agreement_transfer", "vision_transfer")
)
ADDED = ("similarity", "training_paths", "basins", "sharpness")
SHOWN = ("similarity-networks", "training_paths-paths", "basins-loss-interpolation")  # the figures in the README
CONTROLS = ("alone", "label_smoothed", "shuffled_soft")
# The claims of Abnar, Dehghani & Zuidema (2020) on the properties that they discuss.
PUBLISHED = {
    "accuracy": "students take over the teacher's generalisation",
    "translation": "an MLP is more robust to translation after learning from a CNN",
    "fidelity": "students err where their teacher errs",
    "similarity": "students' representations become like their teacher's",
    "training_paths": "so does the path that they take in training",
}
# Pairs of fits whose barriers are tabulated, and what the two share. Two runs of one fit have neighbouring seeds.
SHARED = {
    ("alone", "alone"): "nothing",
    ("distilled", "distilled"): "nothing (teachers of one kind)",
    ("distilled", "distilled_peer"): "the teacher, order of examples",
    ("alone", "alone_reordered"): "initial values",
    ("alone", "distilled"): "initial values, order of examples",
    ("teacher", "teacher"): "nothing",
}


def study_config(name: str, data: Path | None) -> dict[str, Any]:
    """Return the configuration of a study; those on text and on MNIST need the folder `data`."""
    config = VISION["study_config"](name, data) if name == "mnist" else TRANSFER["study_config"](name, data)
    fits = load_config(str(CONFIGS / f"{'cnn_to_mlp' if name == 'mnist' else 'lstm_to_transformer'}.py"), "basins").fits
    config["fits"] |= {name: fits[name].to_dict() for name in ("alone_reordered", "distilled_peer")}
    config["properties"] = (*[p for p in config["properties"] if p not in ADDED], *ADDED)
    config["seeds"] = 5
    return config


def after(workdir: Path, target: Path) -> None:
    """Measure the published faults on the networks of a study, and keep them in `target`."""
    from kdib import tasks
    from kdib.config import parse
    from kdib.measuring import evidence_of
    from kdib.runs import subjects
    from kdib.teaching import open_lab

    config = read_json(workdir / "config.json")
    config.pop("environment")
    study = parse(config)
    lab = open_lab(study, tasks.build(study.task), workdir)
    temperature = float(study.losses["kd"]["kl"]["temperature"])
    write_json(target / "faults.json", FAULTS["measured"](evidence_of(lab), subjects(study, workdir), temperature))


def redraw(name: str) -> None:
    """Write the report, the figures and the README's tables of a study from its committed rows."""
    with ROWS["unpacked"](HERE / "results" / name) as workdir:
        ROWS["redraw"](workdir, HERE / "figures" / name, SHOWN)
        ROWS["fill"](HERE / "README.md", name, tables(workdir))
    ROWS["fill"](
        HERE / "README.md", f"{name} faults", FAULTS["report"](read_json(HERE / "results" / name / "faults.json"))
    )


def tables(workdir: Path) -> str:
    """Return the card with the published claims, and the tables against controls and of barriers, as Markdown."""
    study = ROWS["read"](workdir)
    known = of_task(study.config["task"]["name"])
    properties = {name: known[name] for name in study.config["properties"]}
    failed = [f"{failure['fit']}/{failure['run']}" for failure in read_json(workdir / "failures.json")]
    effects = study_effects(
        study.rows,
        study.subjects,
        study.config["roles"],
        properties,
        in_distribution=study.tests[0],
        failed=failed,
    )
    declared = {name: [e for e in effects if e.property == name and e.family != "exploratory"] for name in properties}
    return "\n\n".join(
        [
            _card(properties, declared),
            ROWS["claim_table"](_calibration_claims(study.by_fit(ROWS["ECE"]))),
            _against_controls(properties, declared, study.config["fits"]),
            _pairs(study),
        ]
    )


def _card(properties: Mapping[str, Property], declared: Mapping[str, Sequence[Effect]]) -> str:
    head = ("property (primary metric)", "beyond self, or own − sibling [95 %]", "Holm p", "published", "here")
    lines = []
    for name, prop in properties.items():
        primary = next(e for e in declared[name] if e.family == "primary")
        p = "undecided" if primary.p_holm is None else f"{primary.p_holm:.3g}"
        said = card_verdict(prop, declared[name])
        lines.append((_metric(prop), _effect(primary), p, PUBLISHED.get(name, "—"), said))
    return ROWS["markdown"](head, lines)


def _calibration_claims(ece: Mapping[str, Mapping[int, float]]) -> list[Any]:
    """The published claim that a student's ECE comes nearer to its teacher's, by distances between ECEs per seed."""
    return [
        ROWS["Claim"](
            f"students come nearer to their teacher's ECE than {other} is",
            ROWS["combined"](lambda t, d, o: abs(o - t) - abs(d - t), ece["teacher"], ece["distilled"], ece[other]),
        )
        for other in ("self", "alone")
    ]


def _against_controls(
    properties: Mapping[str, Property], declared: Mapping[str, Sequence[Effect]], fits: Mapping[str, Any]
) -> str:
    """Tables against every control: distilled minus control, or each fit's likeness to its teacher if relational."""
    controls = [control for control in CONTROLS if control in fits]
    parts = []
    for kinds, head, named in (
        (("scalar", "pairwise"), "distilled − ", lambda control: f"distilled - {control}"),
        (("relational",), "likeness to the teacher: ", lambda control: f"{control}: own"),
        (("relational",), "likeness to the teacher: distilled − ", lambda control: f"own - {control}: own"),
    ):
        of_kind = {name: prop for name, prop in properties.items() if prop.kind in kinds}
        columns = ["self", *controls] if head.endswith("− ") else ["distilled", "self", *controls]
        lines = [
            (_metric(prop), *(_of(declared[name], named(c), "own" if c == "distilled" else "") for c in columns))
            for name, prop in of_kind.items()
        ]
        parts.append(ROWS["markdown"](("property", *(head + c for c in columns)), lines))
    return "\n\n".join(parts)


def _of(effects: Sequence[Effect], estimand: str, instead: str) -> str:
    found = {e.estimand: e for e in effects}
    short = {"alone: own": "floor", "own - alone: own": "own - floor"}.get(estimand, estimand)
    own = found.get(instead or estimand) or found.get(short)
    return "—" if own is None else _effect(own, signed=" - " in own.estimand)


def _pairs(study: Any) -> str:
    """Table of barriers by what two networks share; "one teacher, one basin" concerns pairs that share the teacher."""
    fit_of = {subject.id: subject.fit for subject in study.subjects}
    values: dict[tuple[str, tuple[str, ...]], list[float]] = {}
    for row in study.rows:
        if (row.property, row.group, row.coords) == ("basins", "", ()) and row.other and row.value is not None:
            key = row.metric, tuple(sorted((fit_of[row.subject], fit_of[row.other])))
            values.setdefault(key, []).append(row.value)
    head = ("two networks", "both have", "pairs", "barrier, nats", "after weight matching")
    lines = [
        (" – ".join(pair), shared, str(len(own)), _mean(own), _mean(values.get(("aligned_barrier", pair), [])))
        for pair, shared in SHARED.items()
        if (own := values.get(("barrier", pair)))
    ]
    return ROWS["markdown"](head, lines)


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "—"
    interval = mean_interval(values)
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _effect(effect: Effect, *, signed: bool = True) -> str:
    sign = "+" if signed else ""
    if effect.low != effect.low:
        return f"{effect.estimate:{sign}.3f} (n = {effect.n_seeds})"
    return f"{effect.estimate:{sign}.3f} [{effect.low:{sign}.3f}, {effect.high:{sign}.3f}]"


def _metric(prop: Property) -> str:
    arrow = {True: " ↑", False: " ↓", None: ""}[prop.higher_is_better]
    by = f" by {prop.primary.group}" if prop.primary.group else ""
    return f"{prop.title} ({prop.primary.metric.replace('_', ' ')}{by}{arrow})"


if __name__ == "__main__":
    ROWS["main"](__doc__, HERE, ("generated", "text", "mnist"), study_config, redraw, after)
