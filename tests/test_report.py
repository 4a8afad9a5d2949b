"""The report of a synthetic study: its numbers are the rows' numbers, nothing is unescaped, every fault is named."""

import json
import math
import re
import types
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import synthetic_study
from report_page import Page
from synthetic_study import PROPERTIES

from kdib import report
from kdib.estimands import study_effects
from kdib.properties import of_task
from kdib.properties.base import Curve, Primary, Property
from kdib.records import Records, Row, Subject, read_json, write_json

ROLES = {role: role for role in ("teacher", "alone", "self", "distilled")}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    synthetic_study.write(folder)
    return folder


@pytest.fixture(scope="module")
def index(workdir):
    return report.write(workdir)


@pytest.fixture(scope="module")
def document(index):
    return Page(index.read_text(encoding="utf-8"))


@pytest.fixture
def small(tmp_path, workdir):
    """The same study without figures of curves, to be spoilt: copied files, one property, one test set."""
    rows, _ = Records(workdir / "rows.jsonl", Row).read()
    kept = [row for row in rows if row.property == "calibration" and row.split == "test" and not row.coords]
    Records(tmp_path / "rows.jsonl", Row).append(kept)
    for name in ("task.json", "subjects.jsonl", "metrics.jsonl"):
        (tmp_path / name).write_bytes((workdir / name).read_bytes())
    write_json(tmp_path / "config.json", {**read_json(workdir / "config.json"), "properties": ["calibration"]})
    return tmp_path


def draw(folder):
    return Page(report.write(folder).read_text(encoding="utf-8"))


def effects(folder):
    rows, _ = Records(folder / "rows.jsonl", Row).read()
    subjects, _ = Records(folder / "subjects.jsonl", Subject).read()
    found = study_effects(rows, subjects, ROLES, PROPERTIES, in_distribution="test")
    return {(e.property, e.metric, e.split, e.group, e.estimand): e for e in found if not e.coords}


def test_transfer_table_shows_the_effects(workdir, document):
    found = effects(workdir)
    for name, prop in PROPERTIES.items():
        metric, group = prop.primary.metric, prop.primary.group
        row = document.row(prop.title)
        estimand = "own - sibling" if prop.kind == "relational" else "distilled - self"
        effect = found[name, metric, "test", group, estimand]
        column = 7 if prop.kind == "relational" else 6
        assert row[column]["number"] == effect.estimate
        places = 3 if abs(effect.estimate) >= 0.01 else 4
        shown = f"[{effect.low:+.{places}f}, {effect.high:+.{places}f}]".replace("-", "−")
        assert shown in row[column]["text"].replace("\u00a0", " ")
        assert row[8]["number"] == effect.p_holm
    score = found["accuracy", "mean_balanced_accuracy", "test", "attractors", "transfer score"]
    assert document.row("Accuracy")[7]["number"] == score.estimate
    assert f"[{score.low:.2f}, {score.high:.2f}]" in document.row("Accuracy")[7]["text"]


def test_role_columns_are_the_means_over_seeds(workdir, document):
    rows, _ = Records(workdir / "rows.jsonl", Row).read()
    shown = document.row("Calibration")
    for column, role in enumerate(("alone", "self", "distilled", "teacher"), start=2):
        values = [r.value for r in rows if r.metric == "ece" and r.split == "test" and r.subject.startswith(f"{role}/")]
        assert len(values) == 3
        assert math.isclose(shown[column]["number"], sum(values) / 3, rel_tol=1e-12)


def test_accuracy_by_attractors_with_baselines_and_too_small_groups(document):
    first_noun = document.row("first noun")
    assert [cell["text"] for cell in first_noun[1:]] == ["0.500", "0.550", "0.600", "0.600", "0.600"]
    distilled = next(row for row in document.rows if row[0]["text"] == "distilled" and len(row) == 6)
    assert [bool(cell["number"]) for cell in distilled[1:]] == [True, True, True, True, False]
    assert re.fullmatch(r"too small \(\d+\)", distilled[5]["text"])


def test_every_section_is_there_in_order(document):
    titles = [value for tag, name, value in document.attributes if tag == "h2" and name == "id"]
    assert titles == [
        "transfer", "property-accuracy", "learning", "property-calibration", "property-fidelity",
        "published", "data", "config",
    ]  # fmt: skip
    for text in ("Exploratory: the other test sets.", "jax", "0.10.2", "[barks] at <them> & us", "train.learning_rate"):
        assert text in document.text
    assert [cell["number"] for cell in document.row("AccuracyA-accuracy")[2:3]] == [0.977]


def test_a_published_number_may_be_of_another_test_set_and_of_a_fit_that_is_not_here(workdir, document):
    rows, _ = Records(workdir / "rows.jsonl", Row).read()
    found = [
        row.value for row in rows
        if (row.property, row.metric, row.group, row.split) == ("calibration", "ece", "", "nonce")
        and row.subject.startswith("distilled/")
    ]  # fmt: skip
    _, fit, theirs, ours = document.row("CalibrationECE, nonce")
    assert (fit["text"], theirs["number"]) == ("distilled", 0.109)
    assert ours["number"] == pytest.approx(np.mean(found), rel=1e-9)
    assert "of a larger study" not in document.text


def test_html_is_balanced_and_loads_nothing(document):
    assert document.open == []
    loading = [
        (n, v) for _, n, v in document.attributes if n.split(":")[-1] in ("src", "href", "srcset", "data", "action")
    ]
    assert loading
    assert all(value.startswith(("#", "data:")) for _, value in loading)
    ids = [value for _, name, value in document.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for _, value in loading if value.startswith("#")}
    assert targets <= set(ids)
    styles = " ".join(value for _, name, value in document.attributes if name == "style")
    assert "url(http" not in styles and "@import" not in document.text


def test_figures_are_files_of_text_with_alt_texts(index, document):
    svgs = sorted((index.parent / "figures").glob("*.svg"))
    assert len(svgs) >= 8
    for path in svgs:
        root = ET.parse(path).getroot()
        assert root.tag.endswith("svg")
        words = " ".join(element.text or "" for element in root.iter() if element.tag.endswith("text"))
        assert re.search(r"[a-z]{3}", words), path.name
        assert path.with_suffix(".png").stat().st_size > 5_000
    alts = [value for tag, name, value in document.attributes if tag == "div" and name == "aria-label"]
    assert sum("teacher" in alt for alt in alts) >= len(svgs)


def test_the_same_files_give_the_same_bytes(small):
    def drawn():
        report.write(small)
        return {path.name: path.read_bytes() for path in (small / "report").rglob("*") if path.is_file()}

    assert drawn() == drawn()


def test_everything_from_config_and_data_is_escaped(tmp_path, monkeypatch):
    evil, quote = "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'
    monkeypatch.setattr(synthetic_study, "SETS", {f"a/b {quote}": 0.0})
    synthetic_study.write(tmp_path, n_seeds=2, fits=("teacher", evil, "alone", "self", "distilled"))
    config, facts = read_json(tmp_path / "config.json"), read_json(tmp_path / "task.json")
    write_json(tmp_path / "config.json", {**config, "title": evil, "properties": ["calibration"]})
    next(iter(facts["sets"].values()))["examples"] = [evil, quote]
    write_json(tmp_path / "task.json", facts)
    document = draw(tmp_path)
    assert (tmp_path / "report" / "index.html").read_text(encoding="utf-8").lower().count("<script") == 1  # page.js
    assert "img" not in {tag for tag, _, _ in document.attributes}
    assert not any(name.startswith("on") for _, name, _ in document.attributes)
    assert document.text.count(evil) > 4
    assert document.text.count(quote) > 1


def test_a_made_up_property_appears(small, monkeypatch):
    def nothing(subjects, evidence):
        return ()

    curve = Curve("depth", "level", x="level", xlabel="level of embedding", ylabel="depth (layers)")
    made_up = Property(
        "depth",
        "Depth of thought",
        "scalar",
        Primary("depth", "", ""),
        None,
        nothing,
        "How deep.",
        "Nobody (1900)",
        (curve,),
    )
    monkeypatch.setitem(of_task("agreement"), "depth", made_up)
    subjects, _ = Records(small / "subjects.jsonl", Subject).read()
    rows = [
        Row(s.id, None, "depth", "depth", "test", group, coords, value + s.seed * 0.125, 50, None)
        for s in subjects
        for group, coords, value in (("", (), 7.0), ("level", (("level", 1),), 3.0), ("level", (("level", 2),), 5.0))
    ]
    Records(small / "rows.jsonl", Row).append(rows)
    write_json(small / "config.json", {**read_json(small / "config.json"), "properties": ["calibration", "depth"]})
    document = draw(small)
    assert document.row("Depth of thought")[5]["number"] == 7.125
    assert document.row("Depth of thought")[1]["text"].endswith("undecided")
    assert [cell["number"] for cell in document.row("Fit \\ level of embedding")] == [None] * 3
    assert "Reference: Nobody (1900)." in document.text
    assert (small / "report" / "figures" / "depth-depth-test.svg").exists()


def test_damage_and_failures_are_named_at_the_top(small):
    with (small / "rows.jsonl").open("a") as file:
        file.write('{"subject": "alone/seed0@600", "other": nu')
    with (small / "metrics.jsonl").open("a") as file:
        file.write('{"run": "alone/seed0", "step": 3}\n')
    failed = {"fit": "self", "run": "seed1", "step": 120, "metric": "kl"}
    untaught = {"fit": "distilled", "run": "seed2", "step": 0, "metric": "", "teacher": "teacher/seed2"}
    write_json(small / "failures.json", [failed, untaught])
    text = draw(small).text
    head = text[: text.index("What transferred")]
    assert "Read this first" in head
    assert "self/seed1 went non-finite at step 120 in kl" in head
    assert "distilled/seed2 was not trained, because its teacher teacher/seed2 went non-finite" in head
    n_rows = len((small / "rows.jsonl").read_text().splitlines())
    assert f"rows.jsonl, line {n_rows}" in head
    assert "metrics.jsonl" in head
    assert "without seed 1" in text
    assert str(small) not in text


def test_missing_seeds_are_named_and_their_absence_is_quiet(small, document):
    assert "Read this first" not in document.text
    lines = (small / "subjects.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["id"] != "alone/seed2@600"]
    (small / "subjects.jsonl").write_text("\n".join(kept) + "\n")
    text = draw(small).text
    assert "Fit alone has 2 of 3 seeds." in text
    assert "rows are left out" in text


def test_students_of_an_ensemble_are_said_to_share_their_teacher(small, document):
    said = "All seeds of self share one teacher"
    assert said not in document.text
    config = json.loads((small / "config.json").read_text())
    config["fits"]["self"]["ensemble"] = "mean_logit"
    (small / "config.json").write_text(json.dumps(config))
    assert said in draw(small).text


def test_undecided_is_printed_plainly(small):
    rows, _ = Records(small / "rows.jsonl", Row).read()
    (small / "rows.jsonl").unlink()
    alike = {"teacher": 0.01, "alone": 0.011, "self": 0.0105, "distilled": 0.0102}
    wobble = (0.01, -0.02, 0.03)

    def value(row):
        fit, seed = row.subject.split("@")[0].split("/seed")
        return 0.2 + alike.get(fit, 0.0) + wobble[(int(seed) + len(fit)) % 3]

    Records(small / "rows.jsonl", Row).append(row._replace(value=value(row)) for row in rows)
    document = draw(small)
    row = document.row("Calibration")
    assert row[1]["text"].endswith("no advantage")
    assert row[7]["text"] == "undecided"
    assert row[7]["number"] is None


def test_one_seed_has_no_intervals(small):
    config = read_json(small / "config.json")
    write_json(small / "config.json", {**config, "seeds": 1})
    rows, _ = Records(small / "rows.jsonl", Row).read()
    subjects, _ = Records(small / "subjects.jsonl", Subject).read()
    for name, kind, found in (("rows", Row, rows), ("subjects", Subject, subjects)):
        (small / f"{name}.jsonl").unlink()
        Records(small / f"{name}.jsonl", kind).append([item for item in found if "/seed0@" in item[0]])
    document = draw(small)
    row = document.row("Calibration")
    assert "no interval (n = 1)" in row[6]["text"]
    assert row[8]["text"] == row[1]["text"].split()[-1] == "undecided"
    assert "±" not in row[2]["text"]
    assert "Read this first" not in document.text


def test_last_line_of_a_step_wins(small):
    from kdib.report import material

    with (small / "metrics.jsonl").open("a") as file:
        line = {"run": "alone/seed0", "fit": "alone", "seed": 0, "step": 600, "split": "validation"}
        file.write(json.dumps({**line, "metric": "accuracy", "value": 0.125}) + "\n")
        file.write(
            json.dumps({**line, "run": "alone/seed1000-learning_rate=0.1", "metric": "accuracy", "value": 9}) + "\n"
        )
    traces = material.read(small).traces["validation", "accuracy"]
    ends = [trace.values[-1] for trace in traces if trace.fit == "alone"]
    assert len(ends) == 3
    assert ends[0] == 0.125


def test_without_a_shown_fit_that_was_trained_there_are_no_learning_curves():
    from kdib.report.figures import Trace
    from kdib.report.page import _learning

    trace = Trace("from_50", np.array([0, 1]), np.array([0.1, 0.2]))
    material = types.SimpleNamespace(traces={("validation", "accuracy"): [trace]})
    (said,) = _learning(types.SimpleNamespace(material=material, look={"alone": None}))
    assert "was trained here" in said.text


def test_a_reliability_diagram_is_drawn_at_the_mean_confidence_of_its_bins(small, workdir, monkeypatch):
    from kdib.report import figures

    rows, _ = Records(workdir / "rows.jsonl", Row).read()
    kept = [row for row in rows if row.property == "calibration" and row.split == "test" and row.coords]
    Records(small / "rows.jsonl", Row).append(kept)
    drawn, draw_them = [], figures.reliability
    monkeypatch.setattr(
        figures, "reliability", lambda panels, *a, **k: drawn.append(panels) or draw_them(panels, *a, **k)
    )
    draw(small)
    (panel,) = (panel for panel in drawn[0] if panel.title == "distilled")
    at: dict[float, list[float]] = {}
    for row in kept:
        if row.metric == "reliability_confidence" and row.subject.startswith("distilled/"):
            at.setdefault(dict(row.coords)["confidence"], []).extend([row.value] * (row.value is not None))
    expected = [np.mean(values) for _, values in sorted(at.items()) if values]
    np.testing.assert_allclose(panel.bands["distilled"].x, expected)
    assert np.abs(np.array(expected) - [x for x, values in sorted(at.items()) if values]).max() > 1e-3


def test_a_start_at_chance_does_not_flatten_learning_curves():
    from kdib.report.canvas import Style
    from kdib.report.figures import Trace, learning

    steps = np.array([0, 25, 100, 400, 1600])
    traces = [
        Trace("a", steps, np.array([0.1, 0.5, 0.9, 0.95, 0.98])),
        Trace("b", steps, np.array([0.1, 0.4, *[np.nan] * 3])),
    ]
    look = {fit: Style("black", "o", "-") for fit in "ab"}
    shown, empty = learning({"accuracy": traces, "loss": traces[1:]}, look).axes[:2]
    low, high = shown.get_ylim()
    assert 0.5 < low < 0.95 and high > 0.98 and shown.get_xscale() == "symlog"
    assert learning({"loss": [traces[0]._replace(steps=400 * np.arange(5))]}, look).axes[0].get_xscale() == "linear"
    assert np.isfinite(empty.get_ylim()).all()


def test_of_many_fits_the_roles_and_what_lies_apart_are_in_colour():
    from kdib.report.canvas import Style
    from kdib.report.figures import IN_COLOUR, Band, Panel, lines

    x = np.arange(3.0)
    levels = {f"fit{i}": np.full(3, i / 1000) for i in range(20)} | {"apart": np.array([0.0, 0.5, np.nan])}
    bands = {fit: Band(x, level, level, level) for fit, level in levels.items()}
    look = {fit: Style("black", "o", "-") for fit in bands}

    def legend(bands):
        figure = lines([Panel("x", bands)], look, ylabel="y", chance=None, first=("fit3", "fit4"))
        return [text.get_text() for text in figure.legends[0].get_texts()]

    *coloured, others = legend(bands)
    assert len(coloured) == IN_COLOUR and {"fit3", "fit4", "apart", "fit19", "fit0"} <= {*coloured}
    assert others == "13 other fits"
    assert legend({fit: bands[fit] for fit in coloured}) == coloured


def test_learning_rates_that_were_tried_stand_beside_the_chosen_one(small):
    assert "Learning rates." not in draw(small).text  # no grid
    with (small / "metrics.jsonl").open("a") as file:
        for rate, loss in ((0.001, 0.5), (0.004, 0.25)):
            line = {"run": f"alone/seed1000-learning_rate={rate}", "fit": "alone", "seed": 1000, "step": 600}
            file.write(json.dumps({**line, "split": "validation", "metric": "loss", "value": loss}) + "\n")
    document = draw(small)
    assert "Learning rates." in document.text
    found = [[cell["number"] for cell in row[1:]] for row in document.rows if row[0]["text"] == "alone"]
    assert [0.5, 0.25, 0.004] in found


def test_a_study_without_rows_still_has_a_page(small):
    (small / "rows.jsonl").unlink()
    assert "Nothing was measured." in draw(small).text


def test_a_grid_shows_every_pair_beside_the_published_number(small):
    config = read_json(small / "config.json")
    grid = {"transformer": {"alone": "alone", "lstm": "distilled", "transformer": "self"}, "lstm": {"alone": "teacher"}}
    published = {"source": "them", "note": "elsewhere", "grid": {"ece": {"transformer": {"lstm": 0.048}}}}
    write_json(small / "config.json", {**config, "grid": grid, "published": published})
    shown = draw(small)
    rows, _ = Records(small / "rows.jsonl", Row).read()
    ece = {
        fit: np.array([r.value for r in sorted(rows) if r.metric == "ece" and r.subject.startswith(f"{fit}/")])
        for fit in ("alone", "self", "distilled")
    }
    scores, gains = (row for row in shown.rows if row[0]["text"].startswith("transformer"))
    numbers = [cell["number"] for cell in scores[1:]]
    np.testing.assert_allclose(numbers, [ece[fit].mean() for fit in ("alone", "distilled", "self")])
    assert "0.048" in scores[2]["text"]
    expected = [(ece["distilled"] - ece["self"]).mean(), (ece["self"] - ece["alone"]).mean()]
    np.testing.assert_allclose([cell["number"] for cell in gains[1:]], expected)
    assert "grid" in [value for tag, name, value in shown.attributes if tag == "h2" and name == "id"]
