"""The report of a study: one self-contained page from the files of its workdir, and its figures as PNG and SVG."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from kdib.estimands import Cell
from kdib.fields import flatten, known
from kdib.properties import of_task
from kdib.properties.base import Property
from kdib.report import figures
from kdib.report.card import card_blocks, exploratory_blocks
from kdib.report.grid import grid_blocks
from kdib.report.material import Material, read
from kdib.report.over_fits import curve_sections
from kdib.report.properties import property_section
from kdib.report.tables import (
    NOTHING,
    Block,
    Details,
    Entry,
    Section,
    Table,
    Text,
    digits,
    key_values,
    mean_entry,
    number,
)
from kdib.report.view import KNOWN_AS, View, metric_words, source_of, view
from kdib.verdict import has_direction, headline

LEARNING = {"accuracy": "validation accuracy", "loss": "validation loss (nats)"}


class Page(NamedTuple):
    """Where a page was written, and the problems that its head lists: missing, failed or damaged data."""

    path: pathlib.Path
    problems: Sequence[str]


def write(workdir: pathlib.Path, folder: pathlib.Path) -> Page:
    """Draw the page and the figures of a workdir into `folder`; see `kdib.report.write`."""
    material = read(workdir)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    study = view(material, declared(material), folder / "figures")
    title, problems, fits = material.config["title"], material.problems, [*study.look, *material.on_curves]
    path = folder / "index.html"
    save(path, title=title, headline=_headline(study), problems=problems, sections=_sections(study), fits=fits)
    return Page(path, problems)


def save(path: pathlib.Path, **context: Any) -> None:
    """Write a page atomically: a reader finds either the old page or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(_render(**context), encoding="utf-8")
    os.replace(partial, path)


def declared(material: Material) -> dict[str, Property]:
    """The properties of a study by name.

    Raises ValueError if the study's task does not have one of them.
    """
    properties = of_task(material.config["task"]["name"])
    for name in material.config["properties"]:
        known("config.properties", name, properties)
    return {name: properties[name] for name in material.config["properties"]}


def _render(**context: Any) -> str:
    loader = PackageLoader("kdib.report", package_path=".")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    here = pathlib.Path(__file__).parent
    own = {name: Markup((here / name).read_text(encoding="utf-8")) for name in ("style.css", "page.js")}
    return environment.get_template("page.html.jinja").render(css=own["style.css"], script=own["page.js"], **context)


def _headline(study: View) -> str:
    """The verdict on the first property that the configuration declares, whatever the others show."""
    first = next(iter(study.properties.values()), None)
    if first is not None and has_direction(first):
        return headline(study.effects.values(), first)
    return (
        "No headline: it is generated from the first of config.properties, which must be scalar and have a direction "
        "(higher or lower is better)."
    )


def _sections(study: View) -> list[Section]:
    """All sections: the transfer card first, then the measurements behind it, then data and configuration."""
    properties = [property_section(study, prop) for prop in study.properties.values()]
    grid = [Section("grid", "Students by teachers", grid_blocks(study))] if study.material.config["grid"] else []
    return [
        Section("transfer", "What transferred", [*card_blocks(study), *exploratory_blocks(study)]),
        *grid,
        *curve_sections(study),
        *properties[:1],
        Section("learning", "Learning curves", _learning(study)),
        *properties[1:],
        Section("published", "Published and measured numbers", _published(study)),
        Section("data", "Data", _data(study.material.facts)),
        Section("config", "Configuration, seeds and versions", _config(study.material.config, study)),
    ]


def _learning(study: View) -> list[Block]:
    everything = study.material.traces
    traces = {
        label: shown
        for metric, label in LEARNING.items()
        if (shown := [trace for trace in everything.get(("validation", metric), ()) if trace.fit in study.look])
    }
    if not traces:
        return [Text("No fit that figures show was trained here with validation metrics.", "note")]
    caption = (
        "Validation accuracy and loss against the training step. Thin lines are single seeds, thick lines the mean of "
        "a fit. The vertical range covers the last nine tenths of training, so the start may be cut off. If the gap "
        "between two fits closes with more steps, distillation only made training faster."
    )
    ends = {label: "; ".join(f"{t.fit} {t.values[-1]:.3f}" for t in found) for label, found in traces.items()}
    alt = "Learning curves. At the last step: " + ". ".join(f"{label}: {text}" for label, text in ends.items())
    return [study.picture(figures.learning(traces, study.look), "learning-curves", alt, caption), *_rates(study)]


def _rates(study: View) -> list[Block]:
    """A table of the learning-rate grid and the rate chosen for each fit; empty for a study without a grid."""
    found = study.material.rates
    if not found:
        return []
    tried = sorted({rate for losses in found.values() for rate in losses})
    rows = [
        (Entry(fit), *(number(losses.get(rate)) for rate in tried), Entry(f"{best:g}", best))
        for fit, losses in found.items()
        if (best := min(losses, key=lambda rate: losses[rate], default=None)) is not None
    ]
    caption = (
        "Validation loss (nats) after the last step, on development seeds that no main run uses. The rate with the "
        "lowest loss is chosen. If this is an end of the grid, a rate beyond it might be better still."
    )
    return [Table("Learning rates.", caption, ("Fit", *(f"{rate:g}" for rate in tried), "Chosen"), rows)]


def _published(study: View) -> list[Block]:
    published = study.material.config["published"]
    if not published.get("rows"):
        return [Text("The configuration lists no published numbers beyond those in the tables above.", "note")]
    rows = [
        (_published_name(study, name, label), Entry(fit), number(value), _ours(study, name, label, fit))
        for name, labels in published["rows"].items()
        for label, values in labels.items()
        for fit, value in values.items()
        if study.material.config["roles"].get(fit, fit) in study.material.fits
    ]
    caption = (
        f"{source_of(published)} Ours: mean ± half of the 95 % t interval, in distribution unless a test set is named."
    )
    return [Table("Published | ours.", caption, ("Metric", "Fit", "Published", "Ours"), rows)]


def _published_name(study: View, name: str, label: str) -> Entry:
    label, comma, split = label.partition(", ")
    title = study.properties[name].title if name in study.properties else name
    return Entry(title, small=f"{metric_words(label)}{comma}{split}")


def _ours(study: View, name: str, label: str, fit: str) -> Entry:
    """Our mean for a published row's `label`: "metric" or "metric, test set", or the literature's name (KNOWN_AS)."""
    label, _, split = label.partition(", ")
    keys = {alias: key for key, alias in KNOWN_AS.items()}
    metric, group, coords = keys.get(label, (label, "", ()))
    cell = Cell(name, metric, split or study.in_distribution, group, coords)
    role_fit = study.material.config["roles"].get(fit, fit)
    return mean_entry(study.summary.get(cell, {}).get(role_fit))


def _data(facts: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    sets = facts.get("sets", {})
    if sets:
        blocks.append(_set_table(sets))
        blocks += _examples(sets)
    rest = {name: value for name, value in facts.items() if name not in ("sets", "baselines")}
    blocks.append(Details("All other facts about the task", [_flat("Task facts.", rest)]))
    return blocks


def _set_table(sets: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table of the numbers that describe each set (sizes, labels, coverage), one column per number."""
    flat = {name: {k: v for k, v in flatten(facts).items() if _is_overview(k, v)} for name, facts in sets.items()}
    columns = list(dict.fromkeys(column for values in flat.values() for column in values))
    rows = [
        (Entry(name), *(_fact(values[column]) if column in values else Entry(NOTHING) for column in columns))
        for name, values in flat.items()
    ]
    header = ("Set", *(column.replace(".", ", ").replace("_", " ") for column in columns))
    return Table("Sizes.", "The contents of each set of examples.", header, rows)


def _is_overview(name: str, value: Any) -> bool:
    return not name.startswith(("groups.", "limits.")) and isinstance(value, int | float)


def _fact(value: float) -> Entry:
    return Entry(f"{value:,}" if isinstance(value, int) else digits(value, 3), value)


def _examples(sets: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    rows = [(Entry(name), Entry(text)) for name, facts in sets.items() for text in facts.get("examples", ())]
    return [Table("Examples.", "The first of each set.", ("Set", "Example"), rows, words=True)] if rows else []


def _config(config: Mapping[str, Any], study: View) -> list[Block]:
    environment = config["environment"]
    settings = {name: value for name, value in config.items() if name not in ("published", "environment")}
    runs = [
        (subject.fit, subject.run, subject.step, subject.fingerprint[:12])
        for subject in study.material.subjects.values()
    ]
    networks = [tuple(Entry(str(item)) for item in run) for run in runs]
    blocks: list[Block] = []
    if environment:
        items = [(name, str(value)) for name, value in flatten(environment).items()]
        blocks.append(key_values("Versions.", "The software that was used.", ("Software", "Version"), items))
    blocks.append(_flat("Configuration.", settings))
    header = ("Fit", "Run", "Step", "Fingerprint")
    table = Table("Networks.", "Fingerprints are SHA-256 of the parameters.", header, networks)
    return [*blocks, Details(f"The {len(networks)} networks that were measured", [table])]


def _flat(title: str, values: Mapping[str, Any]) -> Table:
    items: Sequence[tuple[str, object]] = list(flatten(values).items())
    return key_values(title, "As resolved for this run.", ("Name", "Value"), items)
