"""One section per property, built from its declaration alone: levels on every test set, curves and their numbers."""

from collections.abc import Mapping, Sequence

import numpy as np

from kdib.estimands import Cell
from kdib.properties.base import Curve, Property
from kdib.report import figures
from kdib.report.categories import category_blocks, is_categorical
from kdib.report.embedding import embedding_blocks
from kdib.report.exhibits import exhibit_blocks
from kdib.report.figures import Band, Panel
from kdib.report.heat import map_blocks
from kdib.report.interpolation import GROUP as INTERPOLATION
from kdib.report.interpolation import interpolation_blocks
from kdib.report.levels import level_blocks
from kdib.report.sentences import finding
from kdib.report.tables import NOTHING, Block, Details, Entry, Picture, Section, Table, Text, mean_entry, number
from kdib.report.view import LIKENESS_NOTE, View, capital, intervals, listed

BALANCED = "balanced_accuracy"  # the metric of a task's baselines; undefined for small groups


def property_section(view: View, prop: Property) -> Section:
    """The finding in one sentence, the primary metric on all test sets, then curves, maps and exhibits."""
    blocks: list[Block] = [Text(finding(view, prop), "finding"), Text(prop.caption)]
    blocks += [Text(f"Caveat: {prop.caveat}", "caveat")] if prop.caveat else []
    blocks += level_blocks(view, prop)
    for i, split in enumerate(view.splits):
        found = _split_blocks(view, prop, split)
        if found and i > 0:
            found = [Details(f"{prop.title} on {split} (another test set, exploratory)", found)]
        blocks += found
    blocks += [*embedding_blocks(view, prop), *interpolation_blocks(view, prop), *exhibit_blocks(view, prop)]
    blocks.append(Text(f"Reference: {prop.reference}.", "reference"))
    return Section(f"property-{prop.name}", prop.title, blocks)


# ------------------------------------------------------------------------------------------------------- curves


def _split_blocks(view: View, prop: Property, split: str) -> list[Block]:
    """Curves, tables and maps of a property on one test set.

    Curves of one metric share a figure and a scale. The numbers of the first curve follow the figure; those of the
    other curves are folded away.
    """
    blocks: list[Block] = []
    declared = [curve for curve in prop.curves if curve.group != INTERPOLATION]  # interpolation_blocks draws these
    categorical = [curve for curve in declared if is_categorical(view, prop, curve, split)]
    numeric = [curve for curve in declared if curve not in categorical and _bands(view, prop, curve, split)]
    for metric in dict.fromkeys(curve.metric for curve in numeric):
        curves = [curve for curve in numeric if curve.metric == metric]
        draw = _reliability if curves[0].diagonal else _lines
        tables = [_table(view, prop, curve, split) for curve in curves]
        open_, folded = (tables[:1], tables[1:]) if not curves[0].diagonal else ([], tables)
        blocks += [draw(view, prop, curves, split), *open_]
        if folded:
            names = [curve.xlabel for curve in curves[-len(folded) :]]
            blocks.append(Details(f"Numbers by {listed(names)}", folded))
        blocks += _on_curves(view, prop, curves, split)
    for curve in categorical:
        blocks += category_blocks(view, prop, curve, split)
    return blocks + (map_blocks(view, prop) if split == view.in_distribution else [])


def _on_curves(view: View, prop: Property, curves: Sequence[Curve], split: str) -> list[Block]:
    """A folded table of the fits that are drawn on curves only."""
    fits = view.material.on_curves
    if not fits:
        return []
    tables = [_table(view, prop, curve, split, fits) for curve in curves]
    return [Details(f"Numbers of the {len(fits)} fits on curves", tables)]


def _lines(view: View, prop: Property, curves: Sequence[Curve], split: str) -> Picture:
    panels = [
        Panel(curve.xlabel, _bands(view, prop, curve, split), baselines=_baseline_points(view, curve, split))
        for curve in curves
    ]
    chance = _chance(view, split) if curves[0].metric == BALANCED else None
    roles = tuple(view.material.config["roles"].values())
    figure = figures.lines(panels, view.look, ylabel=curves[0].ylabel, chance=chance, first=roles)
    what = f"{capital(curves[0].ylabel)} on {split} by {listed([curve.xlabel for curve in curves])}"
    caption = (
        f"{what}: means with {intervals(view)}. Points are shifted sideways so that their intervals do not overlap."
        + " Groups that are too small are left out here and marked in the table." * (curves[0].metric == BALANCED)
    )
    if len({fit for panel in panels for fit in panel.bands}) > figures.IN_COLOUR:
        caption += (
            f" At most {figures.IN_COLOUR} fits are in colour: those with a role, then those farthest from the fits "
            "already chosen."
        )
    caption += LIKENESS_NOTE * _is_of_pairs(view, prop, curves[0], split)
    return view.picture(figure, f"{prop.name}-{curves[0].metric}-{split}", _alt(what, panels), caption)


def _is_of_pairs(view: View, prop: Property, curve: Curve, split: str) -> bool:
    cells = _points(view, prop, curve, split, curve.metric).values()
    return prop.kind == "relational" and not any(view.summary[cell] for cell in cells)


def _reliability(view: View, prop: Property, curves: Sequence[Curve], split: str) -> Picture:
    curve = curves[0]
    bands, weights = _bands(view, prop, curve, split), _weights(view, prop, curve, split)
    if curve.x_metric:
        at = _bands(view, prop, curve, split, curve.x_metric)
        bands = {fit: band._replace(x=at[fit].mean) for fit, band in bands.items()}
    panels = [
        Panel(fit, {fit: band}, weights={fit: weights[fit]} if fit in weights else {}) for fit, band in bands.items()
    ]
    figure = figures.reliability(panels, view.look, xlabel=curve.xlabel, ylabel=curve.ylabel)
    what = f"{capital(curve.ylabel)} against {curve.xlabel} on {split}"
    caption = (
        f"{what}, one panel per fit: means with {intervals(view)} (fewer if a seed has no example in the bin). "
        f"Points are at the mean {curve.xlabel} of a bin's examples. Bars: share of the examples in the bin, on the "
        "same axis."
    )
    return view.picture(figure, f"{prop.name}-{curve.metric}-{split}", _alt(what, panels), caption)


def _alt(what: str, panels: Sequence[Panel]) -> str:
    """The figure in words: the first and the last value of every line."""
    ends = [
        f"{fit} from {band.mean[0]:.3f} at {band.x[0]:g} to {band.mean[-1]:.3f} at {band.x[-1]:g}"
        for panel in panels[:1] if len(panels[0].bands) > 1
        for fit, band in panel.bands.items()
    ] or [f"{panel.title} to {next(iter(panel.bands.values())).mean[-1]:.3f}" for panel in panels]  # fmt: skip
    return f"{what}: {'; '.join(ends)}."


def _points(view: View, prop: Property, curve: Curve, split: str, metric: str) -> dict[float, Cell]:
    """The cells of a curve by increasing x."""
    found = view.places(prop, metric, split, curve.group, [curve.x])
    return dict(sorted((float(x), cell) for (x,), cell in found.items()))


def _bands(view: View, prop: Property, curve: Curve, split: str, metric: str = "") -> dict[str, Band]:
    points = _points(view, prop, curve, split, metric or curve.metric)
    bands = {}
    for fit in view.look:
        levels = {x: view.level(prop, cell, fit) for x, cell in points.items()}
        known = {x: level for x, level in levels.items() if level}
        if known:
            columns = zip(*(interval[:3] for interval in known.values()), strict=True)
            bands[fit] = Band(np.array(list(known)), *(np.array(column) for column in columns))
    return bands


def _weights(view: View, prop: Property, curve: Curve, split: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if curve.weight_metric is None:
        return {}
    bands = _bands(view, prop, curve, split, curve.weight_metric)
    return {fit: (band.x[band.mean > 0], (band.mean / band.mean.sum())[band.mean > 0]) for fit, band in bands.items()}


def _table(view: View, prop: Property, curve: Curve, split: str, fits: Sequence[str] = ()) -> Table:
    """One row per fit (by default those that figures show), then the baselines; one column per x."""
    points = {x: cell for x, cell in _points(view, prop, curve, split, curve.metric).items() if view.sizes[cell] > 0}
    rows = [
        (Entry(fit), *(_mean_or_size(view, prop, cell, fit) for cell in points.values())) for fit in fits or view.look
    ]
    for name, values in _baselines(view, curve, split).items():
        known = [values.get(f"{x:g}") for x in points]
        rows.append((Entry(name, small="baseline"), *(number(value) for value in known)))
    sizes = [str(view.sizes[cell]) if _is_measured(view, prop, cell) else NOTHING for cell in points.values()]
    rows.append((Entry("examples"), *map(Entry, sizes)))
    title = f"{capital(curve.ylabel)} on {split} by {curve.xlabel}."
    small = " “Too small (n)”: the rarest label has only n examples." * (curve.metric == BALANCED)
    caption = f"Mean ± half of the {intervals(view)}.{small}"
    header = (f"Fit \\ {curve.xlabel}", *(f"{x:.3g}" for x in points))
    return Table(title, caption, header, rows)


def _mean_or_size(view: View, prop: Property, cell: Cell, fit: str) -> Entry:
    if level := view.level(prop, cell, fit):
        return mean_entry(level)
    return Entry(NOTHING if _is_measured(view, prop, cell) else f"too small ({view.sizes[cell]})")


def _is_measured(view: View, prop: Property, cell: Cell) -> bool:
    return any(view.level(prop, cell, fit) for fit in view.material.fits)


# ---------------------------------------------------------------------------------------------------- baselines


def _baselines(view: View, curve: Curve, split: str) -> dict[str, Mapping[str, float | None]]:
    """The task's baselines by group value; empty if it has none for this column and metric."""
    of_split = view.material.facts.get("baselines", {}).get(split, {})
    if curve.metric != BALANCED:
        return {}
    return {name.replace("_", " "): groups[curve.group] for name, groups in of_split.items() if curve.group in groups}


def _baseline_points(view: View, curve: Curve, split: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    known = {
        name: {float(x): y for x, y in values.items() if y is not None}
        for name, values in _baselines(view, curve, split).items()
    }
    return {name: (np.array(list(v)), np.array(list(v.values()))) for name, v in known.items() if v}


def _chance(view: View, split: str) -> float | None:
    """The balanced accuracy of guessing, 1 / number of labels; None if the task does not list its labels."""
    labels = view.material.facts.get("sets", {}).get(split, {}).get("labels")
    return 1 / len(labels) if labels else None
