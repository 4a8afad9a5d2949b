"""The report: one self-contained page from the files of a workdir, and its figures as PNG and SVG."""

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
    """Where a page was written, and what it says was incomplete or damaged."""

    path: pathlib.Path
    problems: Sequence[str]


def write(workdir: pathlib.Path, folder: pathlib.Path) -> Page:
    """Draw the page and the figures of a workdir into a folder; see kdib.report.write."""
    material = read(workdir)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    study = view(material, declared(material), folder / "figures")
    title, problems, fits = material.config["title"], material.problems, [*study.look, *material.on_curves]
    path = folder / "index.html"
    save(path, title=title, headline=_headline(study), problems=problems, sections=_sections(study), fits=fits)
    return Page(path, problems)


def save(path: pathlib.Path, **context: Any) -> None:
    """Write a page whole: a reader finds the old one or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(_render(**context), encoding="utf-8")
    os.replace(partial, path)


def declared(material: Material) -> dict[str, Property]:
    """The properties of a study by name; ValueError for one that its task does not have."""
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
    """The verdict on the first property of the configuration, as declared, whatever the others show."""
    first = next(iter(study.properties.values()), None)
    if first is not None and has_direction(first):
        return headline(study.effects.values(), first)
    return "No headline: it is said on the first of config.properties, which must be scalar and have a direction."


def _sections(study: View) -> list[Section]:
    """The table that answers the study's question, how it came about, then what everything rests on."""
    properties = [property_section(study, prop) for prop in study.properties.values()]
    grid = [Section("grid", "Students by teachers", grid_blocks(study))] if study.material.config["grid"] else []
    return [
        Section("transfer", "What came along", [*card_blocks(study), *exploratory_blocks(study)]),
        *grid,
        *curve_sections(study),
        *properties[:1],
        Section("learning", "Learning curves", _learning(study)),
        *properties[1:],
        Section("published", "Published numbers beside ours", _published(study)),
        Section("data", "Data", _data(study.material.facts)),
        Section("config", "Configuration, seeds and versions", _config(study.material.config, study)),
    ]


def _learning(study: View) -> list[Block]:
    traces = {
        label: [trace for trace in study.material.traces[("validation", metric)] if trace.fit in study.look]
        for metric, label in LEARNING.items()
        if ("validation", metric) in study.material.traces
    }
    if not traces:
        return [Text("No validation metrics were written.", "note")]
    caption = (
        "Validation accuracy and loss against the training step: a thin line is one seed, a thick one the mean of "
        "a fit. What lies before a tenth of the steps may be cut off. Where a gap closes with more steps, distillation "
        "was only faster."
    )
    ends = {label: "; ".join(f"{t.fit} {t.values[-1]:.3f}" for t in found) for label, found in traces.items()}
    alt = "Learning curves. At the last step: " + ". ".join(f"{label}: {text}" for label, text in ends.items())
    return [study.picture(figures.learning(traces, study.look), "learning-curves", alt, caption), *_rates(study)]


def _rates(study: View) -> list[Block]:
    """The grid of learning rates, and what each fit chose; nothing without a grid."""
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
        "Validation loss (nats) after the last step, on development seeds that no main run shares. The lowest is "
        "chosen; where that is an end of the grid, a rate beyond it might serve the fit better."
    )
    return [Table("Learning rates.", caption, ("Fit", *(f"{rate:g}" for rate in tried), "Chosen"), rows)]


def _published(study: View) -> list[Block]:
    published = study.material.config["published"]
    if not published.get("rows"):
        return [Text("The configuration names no published numbers beside those of the tables above.", "note")]
    rows = [
        (_published_name(study, name, label), Entry(fit), number(value), _ours(study, name, label, fit))
        for name, labels in published["rows"].items()
        for label, values in labels.items()
        for fit, value in values.items()
        if study.material.config["roles"].get(fit, fit) in study.material.fits
    ]
    caption = f"{source_of(published)} Ours: mean ± half of the 95 % t interval, in distribution where no set is named."
    return [Table("Published | ours.", caption, ("Metric", "Fit", "Published", "Ours"), rows)]


def _published_name(study: View, name: str, label: str) -> Entry:
    label, comma, split = label.partition(", ")
    title = study.properties[name].title if name in study.properties else name
    return Entry(title, small=f"{metric_words(label)}{comma}{split}")


def _ours(study: View, name: str, label: str, fit: str) -> Entry:
    """Our mean of what a published row calls `label`: "metric" or "metric, test set", in the literature's name, too."""
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
    blocks.append(Details("Everything else the task says of itself", [_flat("Task facts.", rest)]))
    return blocks


def _set_table(sets: Mapping[str, Mapping[str, Any]]) -> Table:
    """Every number that a set states of itself (sizes, labels, coverage), one column a number."""
    flat = {name: {k: v for k, v in flatten(facts).items() if _is_overview(k, v)} for name, facts in sets.items()}
    columns = list(dict.fromkeys(column for values in flat.values() for column in values))
    rows = [
        (Entry(name), *(_fact(values[column]) if column in values else Entry(NOTHING) for column in columns))
        for name, values in flat.items()
    ]
    header = ("Set", *(column.replace(".", ", ").replace("_", " ") for column in columns))
    return Table("Sizes.", "What each set of examples holds.", header, rows)


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
        blocks.append(key_values("Versions.", "The software that made the numbers.", ("Software", "Version"), items))
    blocks.append(_flat("Configuration.", settings))
    header = ("Fit", "Run", "Step", "Fingerprint")
    table = Table("Networks.", "Fingerprints are SHA-256 of the parameters.", header, networks)
    return [*blocks, Details(f"The {len(networks)} networks that were measured", [table])]


def _flat(title: str, values: Mapping[str, Any]) -> Table:
    items: Sequence[tuple[str, object]] = list(flatten(values).items())
    return key_values(title, "As resolved for this run.", ("Name", "Value"), items)
