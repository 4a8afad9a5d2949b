"""Maps of networks: their pairwise distances, embedded in the plane by multidimensional scaling."""

import functools
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdib.properties.base import Property
from kdib.records import Row
from kdib.report.canvas import GREY, Box, Style, grid, mark
from kdib.report.figures import handle, in_order, title
from kdib.report.material import fit_and_run
from kdib.report.tables import Block, Details
from kdib.report.view import View, metric_words

SNAPSHOTS = "snapshots"  # the group of rows that hold distances between snapshots
FEWEST = 4  # networks in a map: three points fit into the plane whatever their distances
SEED = 0


class Path(NamedTuple):
    """A run in a map: its fit, and the steps and positions [P, 2] of its snapshots."""

    fit: str
    steps: Sequence[int]
    xy_Px2: np.ndarray


class Chart(NamedTuple):
    """One map: its paths (single points if only final networks are shown) and its stress.

    `alike` counts the networks that are nearly identical to another one and share its point. `nothing` is the stress
    of a map of equally many networks that are all equally far from each other.
    """

    title: str
    paths: Sequence[Path]
    stress: float
    alike: int
    nothing: float


def embedding_blocks(view: View, prop: Property) -> list[Block]:
    """Maps of all final networks, of all snapshots of one seed, and of the snapshots of each run by itself."""
    own = [row for row in view.material.rows if row.property == prop.name and row.other]
    paths = [row for row in own if row.group == SNAPSHOTS and row.split == view.in_distribution]
    finals = [row for row in own if row[2:7] == tuple(view.primary(prop))]
    blocks = _networks(view, prop, finals) if prop.pairs == "everyone" else []
    return blocks + (_training_paths(view, prop, paths) if paths else [])


# ------------------------------------------------------------------------------------------------------ distances


def distances(rows: Sequence[Row], *, similar: bool) -> tuple[list[str], np.ndarray]:
    """Ids in the order of the rows, and their distances [N, N]; if `similar`, a distance is 1 - the row's value.

    Networks without a value for some pair are left out, those that lack most values first.
    """
    values = {(row.subject, str(row.other)): row.value for row in rows if row.value is not None}
    ids = _ids(rows)
    place = {name: i for i, name in enumerate(ids)}
    found_NxN = np.full((len(ids), len(ids)), np.nan)
    np.fill_diagonal(found_NxN, 0.0)
    for (a, b), value in values.items():
        i, j = place[a], place[b]
        found_NxN[i, j] = found_NxN[j, i] = max(1 - value, 0.0) if similar else value
    while (lacking_N := np.isnan(found_NxN).sum(axis=1)).any():
        worst = int(lacking_N.argmax())
        found_NxN = np.delete(np.delete(found_NxN, worst, axis=0), worst, axis=1)
        del ids[worst]
    return ids, found_NxN


def _ids(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in (row.subject, str(row.other))))


def left_out(rows: Sequence[Row], ids: Sequence[str]) -> str:
    """A sentence for a caption that lists the networks of the rows that the map of `ids` leaves out; "" if none."""
    gone = Counter(fit_and_run(name) for name in _ids(rows) if name not in ids)
    names = ", ".join(run + f" ({n} snapshots)" * (n > 1) for run, n in gone.items())
    return f" Left out, because some of their distances are missing: {names}." * bool(gone)


def _chart(name: str, ids: Sequence[str], distances_NxN: np.ndarray) -> Chart:
    """The map that best preserves the distances between networks."""
    from kdib.properties import maps  # scikit-learn, which takes two seconds to import

    return _charted(name, ids, distances_NxN, *maps.mds(distances_NxN, SEED))


def _charts_of_runs(ids: Sequence[str], distances_NxN: np.ndarray) -> list[Chart]:
    """One map per run, rotated to match its part of the common map."""
    from kdib.properties import maps

    runs = [fit_and_run(network) for network in ids]
    _, alone = maps.path_maps(distances_NxN, runs, SEED)
    charts = []
    for run, (xy_Nx2, stress) in alone.items():
        own = [i for i, of in enumerate(runs) if of == run]
        if len(own) >= FEWEST:
            charts.append(_charted(run, [ids[i] for i in own], distances_NxN[np.ix_(own, own)], xy_Nx2, stress))
    return charts


def _charted(name: str, ids: Sequence[str], distances_NxN: np.ndarray, xy_Nx2: np.ndarray, stress: float) -> Chart:
    from kdib.properties import maps

    runs: dict[str, list[int]] = {}
    for i, network in enumerate(ids):
        runs.setdefault(fit_and_run(network), []).append(i)
    paths = []
    for run, members in runs.items():
        by_step = sorted(members, key=lambda i: _step(ids[i]))
        paths.append(Path(run.rpartition("/")[0], [_step(ids[i]) for i in by_step], xy_Nx2[by_step]))
    alike = sum(len(group) for group in maps.nearly_identical(distances_NxN))
    return Chart(name, paths, float(stress), alike, _stress_of_nothing(len(ids)))


@functools.cache
def _stress_of_nothing(n: int) -> float:
    from kdib.properties import maps

    return maps.structureless(n).stress


def _step(subject_id: str) -> int:
    return int(subject_id.rpartition("@")[2])


# --------------------------------------------------------------------------------------------------------- blocks


def _networks(view: View, prop: Property, rows: Sequence[Row]) -> list[Block]:
    """The map of all final networks, for a property that compares all of them with each other."""
    shown = {subject.id for subject in view.material.subjects.values() if subject.fit in view.look}
    rows = [row for row in rows if row.subject in shown and row.other in shown]
    ids, distances_NxN = distances(rows, similar=prop.higher_is_better is not False)
    if len(ids) < FEWEST or len({fit_and_run(network).rpartition("/")[0] for network in ids}) < 2:
        return []
    measure = metric_words(prop.primary.metric)
    distance = f"1 − {measure}" if prop.higher_is_better is not False else measure
    chart = _chart(f"all networks, {distance}", ids, distances_NxN)
    what = f"Map of {len(ids)} networks by {distance} on {view.in_distribution}"
    figure = atlas([chart], view.look, label=f"distance in the plane ({distance})")
    caption = _caption(what, [chart]) + left_out(rows, ids)
    return [view.picture(figure, f"{prop.name}-networks", f"{what}. {_in_words(chart)}", caption)]


def _training_paths(view: View, prop: Property, rows: Sequence[Row]) -> list[Block]:
    """One common map per seed, the first one open; also, as in the literature, one map per run, folded away."""
    similar = prop.higher_is_better is True
    seeds = {run: seed for run, seed in view.material.seeds.items() if run.rpartition("/")[0] in view.look}
    rows = [r for r in rows if fit_and_run(r.subject) in seeds and fit_and_run(str(r.other)) in seeds]
    by_seed: dict[int, list[Row]] = {}
    for row in rows:
        seed = seeds[fit_and_run(row.subject)]
        if seed == seeds[fit_and_run(str(row.other))]:
            by_seed.setdefault(seed, []).append(row)
    found = {seed: distances(of, similar=similar) for seed, of in sorted(by_seed.items())}
    found = {seed: of for seed, of in found.items() if len(of[0]) >= FEWEST}
    missing = [left_out(by_seed[seed], ids) for seed, (ids, _) in found.items()]
    common = [_chart(f"seed {seed}", *of) for seed, of in found.items()]
    single = _charts_of_runs(*next(iter(found.values()))) if found else []
    label = "distance in the plane" + (f" ({metric_words(rows[0].metric)})" if rows and similar else "")
    blocks: list[Block] = []
    if common:
        what = f"Training paths on {view.in_distribution}, all runs of {common[0].title} in one map"
        figure = atlas(common[:1], view.look, label=label)
        caption = _caption(what, common[:1]) + " The hollow mark is the first snapshot, the large full mark the last."
        caption += missing[0]
        blocks.append(view.picture(figure, f"{prop.name}-paths", f"{what}. {_in_words(common[0])}", caption))
    for name, charts, of, gone in (
        ("other-seeds", common[1:], "the other seeds", missing[1:]),
        ("single", single, "each run by itself", missing[:1]),
    ):
        if charts:
            what = f"Training paths on {view.in_distribution}, {of}"
            figure = atlas(charts, view.look, label=label)
            alt = f"{what}. {' '.join(map(_in_words, charts))}"
            caption = _caption(what, charts) + "".join(gone)
            picture = view.picture(figure, f"{prop.name}-paths-{name}", alt, caption)
            blocks.append(Details(f"Training paths: {of}", [picture]))
    return blocks


def _caption(what: str, charts: Sequence[Chart]) -> str:
    alike = sum(chart.alike for chart in charts)
    stress = "; ".join(f"{chart.title} {chart.stress:.2f} ({chart.nothing:.2f})" for chart in charts)
    return (
        f"{what}: metric multidimensional scaling. Only distances have a meaning; the axes have none. Kruskal’s stress "
        "is 0 if the plane preserves all distances. The number in brackets is the stress of a map without structure, "
        f"of as many networks that are all equally far from each other: {stress}."
        + f" {alike} networks are nearly identical to another one and share its point."
        * bool(alike)
    )


def _in_words(chart: Chart) -> str:
    """A map in words: its stress, and the distances in the plane between the mean end points of the fits."""
    ends: dict[str, list[np.ndarray]] = {}
    for path in chart.paths:
        ends.setdefault(path.fit, []).append(path.xy_Px2[-1])
    centres = {fit: np.mean(of, axis=0) for fit, of in ends.items()}
    said = [f"{a} to {b} {np.linalg.norm(centres[a] - centres[b]):.3f}" for a, b in itertools.combinations(centres, 2)]
    between = f"; in the plane, between the ends of the fits: {', '.join(said[:12])}" if said else ""
    return f"{chart.title}, stress {chart.stress:.2f}{between}."


# -------------------------------------------------------------------------------------------------------- picture


def atlas(charts: Sequence[Chart], look: Mapping[str, Style], *, label: str) -> Figure:
    """One square panel per map, with its stress; one line per run from its first snapshot to its last."""

    def draw(axes: Axes, chart: Chart) -> None:
        title(axes, f"{chart.title}; stress {chart.stress:.2f}")
        for path in chart.paths:
            style = look[path.fit]
            drawn = axes.plot(*path.xy_Px2.T, color=style.colour, ls=style.line, lw=1.1, alpha=0.8)
            drawn += axes.plot(*path.xy_Px2[1:-1].T, style.marker, color=style.colour, ms=2.5)
            if len(path.steps) > 1:
                drawn += axes.plot(*path.xy_Px2[:1].T, style.marker, color=style.colour, ms=5, mfc="none")
            mark([*drawn, *axes.plot(*path.xy_Px2[-1:].T, style.marker, color=style.colour, ms=6)], style)
        _square(axes, np.concatenate([path.xy_Px2 for path in chart.paths]))

    names = in_order(look, [path.fit for chart in charts for path in chart.paths])
    handles: list[Line2D] = [handle(fit, look[fit]) for fit in names]
    side = 4.2 if len(charts) == 1 else 2.5
    if any(len(path.steps) > 1 for chart in charts for path in chart.paths):
        handles.append(Line2D([], [], color=GREY, marker="o", mfc="none", ls="", label="first snapshot"))
    box = Box(width=side, height=side, left=0.72, gap=0.55)
    return grid(charts, draw, xlabel=label, ylabel=label, handles=handles, columns=3, box=box, share=False)


def _square(axes: Axes, xy_Px2: np.ndarray) -> None:
    """Set the same scale on both axes, since a map shows distances."""
    middle, half = (xy_Px2.max(axis=0) + xy_Px2.min(axis=0)) / 2, np.ptp(xy_Px2, axis=0).max() / 2 * 1.1 or 1.0
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.locator_params(nbins=5)
