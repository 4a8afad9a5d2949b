"""What the report shows of networks compared with each other: maps, lines between them, layers, exhibits."""

import itertools
import json
import math

import numpy as np
import pytest
import synthetic_likeness
from report_page import Page
from synthetic_likeness import ALPHAS, LAYERS, PROPERTIES, STEPS

from kdib import report
from kdib.properties import of_task
from kdib.records import Records, Row, read_json, write_json
from kdib.report import canvas, embedding, exhibits, heat, interpolation, material, sentences


@pytest.fixture(scope="module")
def registry():
    """The agreement task with the made-up properties."""
    with pytest.MonkeyPatch.context() as patch:
        for name, prop in PROPERTIES.items():
            patch.setitem(of_task("agreement"), name, prop)
        patch.setattr(canvas, "save", lambda figure, folder, name: "<svg></svg>")  # drawing takes long
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory, registry):
    """(workdir, rows, page, arguments and results of what drew the figures, by name)."""
    folder, drawn = tmp_path_factory.mktemp("likeness"), {}

    def keeping(function):
        def keep(*args, **options):
            drawn.setdefault(function.__name__, []).append((args, function(*args, **options)))
            return drawn[function.__name__][-1][1]

        return keep

    rows = synthetic_likeness.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((embedding, "atlas"), (interpolation, "between"), (heat, "heat"), (exhibits, "upset")):
            patch.setattr(module, name, keeping(getattr(module, name)))
        page = Page(report.write(folder).read_text(encoding="utf-8"))
    return folder, rows, page, drawn


@pytest.fixture
def basins(tmp_path, study):
    """The study with one property, to be spoilt."""
    for name in ("task.json", "subjects.jsonl"):
        (tmp_path / name).write_bytes((study[0] / name).read_bytes())
    write_json(tmp_path / "config.json", read_json(study[0] / "config.json") | {"properties": ["basins"]})
    kept = [row for row in study[1] if row.property == "basins" and not row.coords]
    Records(tmp_path / "rows.jsonl", Row).append(kept)
    (tmp_path / "exhibits").mkdir()
    return tmp_path


def draw(folder):
    return Page(report.write(folder).read_text(encoding="utf-8"))


def test_the_page_is_whole_and_snapshots_are_known(study):
    page = study[2]
    assert page.open == []
    assert "Read this first" not in page.text
    for text in ("Caveat: Steps are not epochs.", "Reference: Frankle et al. (2020).", "Where the networks err"):
        assert text in page.text
    assert not any(value == "nan" for row in page.rows for value in (cell["text"] for cell in row))


def test_the_card_holds_the_likeness_and_the_barriers_of_the_rows(study):
    _, rows, page, _ = study
    own = [
        r.value for r in rows
        if r.metric == "cka" and r.subject.startswith("distilled/") and str(r.other).startswith("teacher/")
        and r.subject.split("/")[1] == str(r.other).split("/")[1]
    ]  # fmt: skip
    card = page.row("Representations")
    assert len(own) == 3 and card[4]["number"] == pytest.approx(np.mean(own))
    pairs = [r for r in rows if r.metric == "barrier" and r.subject.startswith("self/")]
    pairs = [r.value for r in pairs if str(r.other).startswith("self/")]
    assert len(pairs) == 3 and page.row("Basins")[3]["number"] == pytest.approx(np.mean(pairs))
    assert page.row("Basins")[1]["text"].endswith("below self")


def test_the_finding_says_the_numbers_of_the_card(study):
    _, _, page, _ = study
    start = page.text.index("Basins (barrier) on test")
    said, card = page.text[start : start + 300], page.row("Basins")
    for shown in (card[2]["text"], card[3]["text"], card[4]["text"]):
        assert shown.split("±")[0].strip() in said
    assert "distillation lowered it below self-distillation" in said
    assert "without a teacher" in page.text[page.text.index("Training paths (path distance)") :][:300]
    assert sentences.CONCLUSIONS.keys() == report_words()


def report_words():
    from kdib.report.verdicts import ICONS

    return ICONS.keys()


# ----------------------------------------------------------------------------------------------------------- maps


def similarity(a, b, value):
    return Row(f"{a}@1", f"{b}@1", "p", "m", "test", "", (), value, 5, None)


def test_distances_are_those_of_the_rows_and_a_network_that_lacks_pairs_is_left_out():
    names = ("a/s0", "b/s0", "c/s0", "d/s0")
    values = {pair: 0.1 * i for i, pair in enumerate(itertools.combinations(names, 2))}
    whole = [similarity(*pair, value) for pair, value in values.items()]
    ids, found_NxN = embedding.distances(whole, similar=False)
    assert ids == [f"{name}@1" for name in names]
    for (i, a), (j, b) in itertools.permutations(enumerate(names), 2):
        assert found_NxN[i, j] == values[(a, b) if i < j else (b, a)]
    ids, found_NxN = embedding.distances(whole, similar=True)
    assert found_NxN[0, 3] == 1 - values["a/s0", "d/s0"] and (np.diag(found_NxN) == 0).all()
    ids, found_NxN = embedding.distances(whole[:2] + whole[3:], similar=False)  # without a - d
    assert len(ids) == 3 and np.isfinite(found_NxN).all()
    nothing = [similarity(a, b, None if "b/s0" in (a, b) else value) for (a, b), value in values.items()]
    assert embedding.distances(nothing, similar=False)[0] == ["a/s0@1", "c/s0@1", "d/s0@1"]


def test_networks_that_a_map_leaves_out_are_named_in_its_caption(tmp_path, study):
    for name in ("task.json", "subjects.jsonl", "config.json"):
        (tmp_path / name).write_bytes((study[0] / name).read_bytes())
    named = ["similarity", "training_paths"]
    write_json(tmp_path / "config.json", read_json(study[0] / "config.json") | {"properties": named})
    kept = [row._replace(value=None) if row.metric == "cka" and "self/seed1@600" in row[:2] else row
            for row in study[1] if row.property in named]  # fmt: skip
    kept = [row for row in kept if not (row.metric == "distance" and "@0" not in row.subject + str(row.other)
            and "distilled/seed0" in row.subject + str(row.other))]  # fmt: skip
    Records(tmp_path / "rows.jsonl", Row).append(kept)
    text = draw(tmp_path).text
    assert "Left out, because some of their distances are missing: self/seed1." in text
    gone = len(STEPS) - 1
    assert f"Left out, because some of their distances are missing: distilled/seed0 ({gone} snapshots)." in text
    assert "Left out" not in study[2].text


def test_paths_keep_the_distances_of_the_rows(study):
    _, rows, _, drawn = study
    charts = [chart for (found, _), _ in drawn["atlas"] for chart in found]
    (joint,) = [chart for chart in charts if chart.title == "seed 0"]
    assert joint.stress < 0.01 and joint.nothing > 0.2
    assert [list(path.steps) for path in joint.paths] == [list(STEPS)] * 5
    places = {f"{p.fit}/seed0@{step}": xy for p in joint.paths for step, xy in zip(p.steps, p.xy_Px2, strict=True)}
    for row in rows:
        if row.group == "snapshots" and row.subject in places:
            plane = np.linalg.norm(places[row.subject] - places[str(row.other)])
            assert plane == pytest.approx(row.value, abs=0.05)
    assert {chart.title for chart in charts} > {"seed 1", "seed 2", "distilled/seed0", "all networks, 1 − CKA"}


def test_the_stress_stands_in_the_figure(study):
    for (charts, _), figure in study[3]["atlas"]:
        for chart, axes in zip(charts, figure.axes, strict=True):
            assert axes.get_title(loc="left").endswith(f"stress {chart.stress:.2f}")
            width, height = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
            assert width == pytest.approx(height)


# -------------------------------------------------------------------------------------------- lines between networks


def test_lines_are_the_pairs_with_runs_of_one_fit_first(study):
    bundles = [bundle for (found, _), _ in study[3]["between"] for bundle in found]
    names = [bundle.name for bundle in bundles]
    assert names[:4] == ["peer – peer", "alone – alone", "self – self", "distilled – distilled"]
    distilled = bundles[3]
    assert distilled.alphas_A.tolist() == list(ALPHAS) and distilled.values_CxA.shape == (3, len(ALPHAS))
    heights = [
        row.value for row in study[1]
        if row.metric == "barrier" and row.subject.startswith("distilled/") and str(row.other).startswith("distilled/")
    ]  # fmt: skip
    np.testing.assert_allclose(sorted(distilled.values_CxA[:, 2]), sorted(0.1 + np.array(heights)))
    shown = study[2].row("distilled – distilled")
    assert shown[1]["number"] == pytest.approx(np.mean(heights)) and shown[-1]["text"] == "3"


def test_a_pair_that_lacks_a_place_is_left_out_and_snapshots_are_named():
    def line(a, b, alphas):
        return [Row(a, b, "p", "loss", "t", "interpolation", (("alpha", x),), x, 5, None) for x in alphas]

    rows = [
        *line("a/s0@9", "a/s1@9", (0, 0.5, 1)),
        *line("a/s0@9", "a/s2@9", (0, 1)),
        *line("a/s0@3", "a/s0@9", (0, 1)),
    ]
    bundles = interpolation.bundles_of(rows)
    assert [bundle.name for bundle in bundles] == ["a – a", "a/s0: snapshot to end"]
    assert bundles[0].values_CxA.tolist() == [[0, 0.5, 1]]


# ---------------------------------------------------------------------------------------------------------- layers


def test_layers_stand_in_the_order_of_the_network(study):
    ((maps_YxX, xs, ys), figure), *others = study[3]["heat"]
    assert not others and list(maps_YxX) == ["peer", "alone", "self", "distilled"]
    assert (xs, ys) == (LAYERS["lstm"], LAYERS["transformer"])
    expected_YxX = [[0.9 - 0.15 * abs(i - j) for j in range(3)] for i in range(4)]
    np.testing.assert_allclose(maps_YxX["distilled"], expected_YxX)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(LAYERS["transformer"])
    figure.draw_without_rendering()
    labels = [axes.xaxis.label.get_window_extent() for axes in figure.axes[:4]]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(labels))


# -------------------------------------------------------------------------------------------------------- exhibits


def test_an_exhibit_is_shown_as_picture_and_table(study):
    _, _, page, drawn = study
    ((names, sets, _), figure), *_ = drawn["upset"]
    assert all(one["members"] for one in sets)  # most examples are in none of the sets
    assert [bar.get_height() for bar in figure.axes[0].patches] == [one["mean"] for one in sets]
    assert [text.get_text() for text in figure.axes[1].get_yticklabels()] == names
    assert page.row("none of them")[1]["number"] == 0.5
    assert page.row("alone, self and distilled")[2]["text"] == "–"
    assert "[are] on the table" in page.text and "singular (0.91)" in page.text
    images = [value for tag, name, value in page.attributes if tag == "img" and name == "src"]
    assert len(images) == 1 and images[0].startswith("data:image/png;base64,iVBOR")
    assert "a one" in [value for tag, name, value in page.attributes if tag == "img" and name == "alt"]


def test_a_block_that_cannot_be_drawn_is_named_and_the_others_are_shown(basins):
    whole = synthetic_likeness.exhibit()
    whole["blocks"][0].pop("sets")
    whole["blocks"][2]["points"] = [[0, 0]]
    whole["blocks"].append({"kind": "hologram"})
    write_json(basins / "exhibits" / "basins.json", whole)
    text = draw(basins).text
    assert "block 1, is left out (KeyError: 'sets')" in text
    assert "block 3, is left out (ValueError: expected z [13, 13] and points [3, 2]" in text
    assert "block 4, is left out (KeyError: 'hologram')" in text
    assert "singular (0.91)" in text
    (basins / "exhibits" / "basins.json").write_text('{"title": "torn')
    assert "exhibits/basins.json is damaged" in draw(basins).text


def test_what_an_exhibit_says_is_escaped_and_only_a_png_is_an_image(basins):
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    whole = synthetic_likeness.exhibit()
    whole["title"] = whole["caption"] = evil
    item = whole["blocks"][1]["items"][0]
    item.update(text=evil, label=evil, answers={evil: evil})
    whole["blocks"][1]["items"][1]["alt"] = evil
    whole["blocks"][0]["names"][0] = whole["blocks"][0]["sets"][1]["members"][0] = evil
    write_json(basins / "exhibits" / "basins.json", whole)
    page = draw(basins)
    source = (basins / "report" / "index.html").read_text(encoding="utf-8")
    assert source.count("<script") == 1 and page.text.count(evil) >= 6
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert sum(tag == "img" and name == "src" for tag, name, _ in page.attributes) == 1
    for fake in ('x" onerror="alert(1)', "PHNjcmlwdD4="):
        with pytest.raises(ValueError, match="expected a PNG in base64"):
            exhibits._checked(fake)


def test_damage_that_takes_a_property_its_primary_rows_is_named(basins):
    path = basins / "rows.jsonl"
    kept = [line for line in path.read_text().splitlines() if json.loads(line)["metric"] != "barrier"]
    path.write_text("\n".join(kept) + '\n{"torn')
    found = material.read(basins)
    assert found.rows == []
    assert any("basins are left out; no row of its primary metric is intact" in said for said in found.problems)
    path.write_text("\n".join(kept) + "\n")  # nothing is damaged: the rows are those of another declaration
    with pytest.raises(ValueError, match="no row holds its primary"):
        report.write(basins)


def test_rows_of_runs_that_nobody_measured_are_left_out(basins):
    stranger = Row("alone/seed9@300", None, "basins", "barrier", "test", "", (), 1.0, 5, None)
    Records(basins / "rows.jsonl", Row).append([stranger])
    found = material.read(basins)
    assert stranger not in found.rows and "1 rows are left out" in found.problems[-1]
    assert math.isclose(len(found.rows), len(Records(basins / "rows.jsonl", Row).read()[0]) - 1)
