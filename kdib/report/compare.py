"""Several studies on one page: a transfer card for every property, with one row per study."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kdib.estimands import Cell, Effect
from kdib.properties.base import Property
from kdib.report import canvas, figures
from kdib.report.card import HEADER, card_row, meanings
from kdib.report.figures import Dot
from kdib.report.material import read
from kdib.report.page import Page, declared, save
from kdib.report.sentences import finding
from kdib.report.tables import Block, Entry, Section, Table, Text, key_values
from kdib.report.view import View, capital, listed, metric_name, view


class Compared(NamedTuple):
    """A property's primary metric, and its cell in every study that measured it, by the study's name."""

    prop: Property
    cells: Mapping[str, Cell]


def write(runs: Sequence[pathlib.Path], out: pathlib.Path) -> Page:
    """Write out/index.html, which shows the studies of `runs` (workdirs) side by side.

    Raises:
      FileNotFoundError: if a workdir lacks config.json or task.json.
      ValueError: if one of these is damaged, or if no two studies share a property with the same primary metric.
    """
    views = {name: _view(run, out / "figures") for name, run in zip(names_of(runs), runs, strict=True)}
    compared = _compared(views)
    shared = [one for one in compared if len(one.cells) > 1]
    if not shared:
        raise ValueError(f"nothing to compare: no two studies share a property. {_what_each_has(views)}")
    problems = [f"{name}: {problem}" for name, study in views.items() for problem in study.material.problems]
    (out / "figures").mkdir(parents=True, exist_ok=True)
    title = f"Comparison of {len(views)} studies"
    path = out / "index.html"
    save(path, title=title, headline=_headline(shared, views), problems=problems, fits=[],
         sections=_sections(views, compared, out / "figures"))  # fmt: skip
    return Page(path, problems)


def names_of(runs: Sequence[pathlib.Path]) -> list[str]:
    """The names of the folders, with as many parent folders as are needed to tell them apart.

    Raises ValueError if a folder is given twice.
    """
    if len(set(runs)) < len(runs):
        raise ValueError(f"a study is given twice: {listed(sorted({str(run) for run in runs if runs.count(run) > 1}))}")
    length = next(n for n in range(1, 100) if len({run.parts[-n:] for run in runs}) == len(runs))
    return ["/".join(run.parts[-length:]) for run in runs]


def _view(run: pathlib.Path, folder: pathlib.Path) -> View:
    material = read(run)
    return view(material, declared(material), folder)


def _compared(views: Mapping[str, View]) -> list[Compared]:
    """The properties in the order of the studies; one name with two different primary metrics counts as two."""
    found: dict[tuple, dict[str, Cell]] = {}
    properties: dict[tuple, Property] = {}
    for name, study in views.items():
        for prop in study.properties.values():
            key = (prop.name, prop.primary)
            properties.setdefault(key, prop)
            if study.by_cell.get(study.primary(prop)):
                found.setdefault(key, {})[name] = study.primary(prop)
    return [Compared(properties[key], cells) for key, cells in found.items()]


def _what_each_has(views: Mapping[str, View]) -> str:
    said = [
        f"{name} (task {study.material.config['task']['name']}) has {', '.join(study.properties) or 'none'}"
        for name, study in views.items()
    ]
    return "; ".join(said)


def _headline(shared: Sequence[Compared], views: Mapping[str, View]) -> str:
    tasks = sorted({study.material.config["task"]["name"] for study in views.values()})
    said = f"{len(shared)} properties were measured in two or more of {listed(list(views))}."
    if len(tasks) > 1:
        said += f" The studies differ in their task ({listed(tasks)}): compare verdicts and signs, not values."
    return f"{said} Every row stands for one study; differences between studies are not tested."


def _sections(views: Mapping[str, View], compared: Sequence[Compared], folder: pathlib.Path) -> list[Section]:
    sections = [
        Section(f"property-{one.prop.name}-{i}", one.prop.title, _blocks(views, one, folder, i))
        for i, one in enumerate(compared)
        if len(one.cells) > 1
    ]
    single = [(one.prop.title, next(iter(one.cells))) for one in compared if len(one.cells) == 1]
    studies: list[Block] = [_studies(views), meanings()]
    if single:
        studies.append(key_values("Not compared.", "Measured in one study only.", ("Property", "Study"), single))
    return [*sections, Section("studies", "The studies", studies)]


def _blocks(views: Mapping[str, View], one: Compared, folder: pathlib.Path, number: int) -> list[Block]:
    """The card with one row per study, a figure of the declared differences, and each study's sentence."""
    rows = [(Entry(name, small=cell.split), *card_row(views[name], one.prop, cell)) for name, cell in one.cells.items()]
    metric = metric_name(next(iter(one.cells.values())))
    caption = (
        f"{capital(metric)}. Columns as on the card of a single study; p is adjusted within each study. "
        f"{one.prop.caption}"
    )
    blocks: list[Block] = [Table(f"{one.prop.title}.", caption, ("Study", *HEADER[1:]), rows, card=True)]
    blocks += _forest(views, one, folder, number)
    return [*blocks, *(Text(f"{name}. {finding(views[name], one.prop)}", "note") for name in one.cells)]


def _forest(views: Mapping[str, View], one: Compared, folder: pathlib.Path, number: int) -> list[Block]:
    estimand = "own - sibling" if one.prop.kind == "relational" else "distilled - self"
    effects = {name: views[name].effects_at(cell).get(estimand) for name, cell in one.cells.items()}
    known = {name: e for name, e in effects.items() if e is not None and not math.isnan(e.estimate)}
    if not known:
        return []
    label = estimand.replace("-", "−")
    look = canvas.styles(list(views))
    dots = [Dot(name, name, (), e.estimate, e.low, e.high) for name, e in known.items()]
    figure = figures.dots({one.prop.title: dots}, look, xlabel=label)
    figure.axes[0].axvline(0, color=canvas.GREY, lw=1, ls=":")
    what = f"{one.prop.title}: {label} with its 95 % t interval, one row per study; dotted line: no difference."
    alt = f"{what} {'; '.join(_in_words(name, e) for name, e in known.items())}."
    study = next(iter(views.values()))
    return [study.picture(figure, f"{one.prop.name}-{number}-studies", alt, what)]


def _in_words(name: str, effect: Effect) -> str:
    return f"{name} {effect.estimate:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}]"


def _studies(views: Mapping[str, View]) -> Table:
    rows = [
        (
            Entry(name),
            Entry(study.material.config["title"]),
            Entry(study.material.config["task"]["name"]),
            Entry(study.seeds),
            Entry(study.in_distribution),
        )
        for name, study in views.items()
    ]
    return Table("Studies.", "", ("Study", "Title", "Task", "Seeds", "In distribution"), rows, words=True)
