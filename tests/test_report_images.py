"""The report of a made-up study of pictures: curves over fits, heat maps, categories, and facts that say little."""

import itertools
import re

import numpy as np
import pytest
import synthetic_images
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from matplotlib.text import Text
from report_page import Page
from synthetic_images import CHOSEN, CORRUPTIONS, OFFSETS, PROPERTIES, STEPS, STUDENTS

from kdib import report
from kdib.properties import of_task
from kdib.properties.base import Curve
from kdib.records import Records, Row, Subject, read_json, write_json
from kdib.report import canvas, categories, heat, over_fits
from kdib.report.canvas import styles
from kdib.report.over_fits import Strip
from kdib.stats import Interval


@pytest.fixture(scope="module")
def registry():
    """The images task with the two made-up properties."""
    with pytest.MonkeyPatch.context() as patch:
        for name, prop in PROPERTIES.items():
            patch.setitem(of_task("images"), name, prop)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory, registry):
    """(workdir, rows, page, figures by the name of what drew them)."""
    folder, drawn = tmp_path_factory.mktemp("images"), {}

    def keeping(function):
        def keep(*args, **options):
            drawn.setdefault(function.__name__, []).append((args, function(*args, **options)))
            return drawn[function.__name__][-1][1]

        return keep

    rows = synthetic_images.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((heat, "heat"), (categories, "categories"), (over_fits, "over_fits")):
            patch.setattr(module, name, keeping(getattr(module, name)))
        page = draw(folder)
    return folder, rows, page, drawn


def mean(rows, fit, **key):
    """The mean over seeds of the rows with these fields."""
    found = [r.value for r in rows if r.subject.startswith(f"{fit}/") and key.items() <= r._asdict().items()]
    assert len(found) == 3
    return np.mean(found)


def draw(folder):
    return Page(report.write(folder).read_text(encoding="utf-8"))


def alt(page, start):
    return next(value for _, name, value in page.attributes if name == "aria-label" and value.startswith(start))


def test_the_headline_is_said_on_the_first_property(study, tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "save", lambda figure, folder, name: "<svg></svg>")  # drawing takes long
    assert study[2].text.count("On accuracy (test), the teacher's lead") == 1
    workdir = tmp_path / "again"
    workdir.mkdir()
    rows = [row for row in study[1] if row.property in ("translation", "fidelity") and not row.coords]
    Records(workdir / "rows.jsonl", Row).append(rows)
    for name in ("task.json", "subjects.jsonl"):
        (workdir / name).write_bytes((study[0] / name).read_bytes())
    config = read_json(study[0] / "config.json") | {"curves": {}}
    write_json(workdir / "config.json", config | {"properties": ["translation", "fidelity"]})
    assert "On area under curve (test), the teacher's lead" in draw(workdir).text
    write_json(workdir / "config.json", config | {"properties": ["fidelity"]})
    assert "No headline: it is generated from the first" in draw(workdir).text


def test_the_page_is_whole(study):
    _, _, page, _ = study
    assert page.open == []
    titles = [value for tag, name, value in page.attributes if tag == "h2" and name == "id"]
    assert titles[:3] == ["transfer", "curve-teacher_step", "property-accuracy"]
    assert "Read this first" not in page.text and not re.search(r"\bnan\b", page.text)
    assert "Examples." not in page.text  # pictures have no sentences to show
    assert not any(row[0]["text"].startswith("Corruptions, shifted") for row in page.rows)  # measured on test only
    assert "Shifted is MNIST-C-style: test, moved." in page.text and "Elsewhere is" not in page.text


def test_the_curve_table_holds_the_means_in_order_of_x(study):
    _, rows, page, _ = study
    start = next(i for i, row in enumerate(page.rows) if row[1]["text"] == "Teacher's training steps")
    shown = page.rows[start + 1 : start + 13]
    assert [row[0]["text"] for row in shown] == [*STUDENTS, "alone", "distilled", "cnn"]
    assert [row[1]["text"] for row in shown[:9]] == [f"{step:,}" for step in STEPS]
    cells = [("accuracy", "accuracy", "test"), ("translation", "area_under_curve", "test"),
             ("corruptions", "mean_accuracy", "test"), ("calibration", "ece", "test")]  # fmt: skip
    for row in shown:
        expected = [mean(rows, row[0]["text"], property=p, metric=m, split=s, coords=()) for p, m, s in cells]
        np.testing.assert_allclose([cell["number"] for cell in row[2:6]], expected)
        expected = [
            mean(rows, row[0]["text"], property="accuracy", metric="accuracy", split=s) for s in ("shifted", "noisy")
        ]
        np.testing.assert_allclose([cell["number"] for cell in row[7:9]], expected)


def test_what_validation_chooses_stands_beside_the_last(study):
    _, rows, page, _ = study
    start = next(i for i, row in enumerate(page.rows) if row[0]["text"] == "Selection")
    last, validation, shifted = page.rows[start + 1 : start + 4]
    columns = [cell["text"] for cell in page.rows[start]]
    assert [row[1]["text"] for row in (last, validation, shifted)] == [
        "student_12800 (3)", "student_400 (2), student_50 (1)", "student_1600 (3)",
    ]  # fmt: skip
    key = {"property": "translation", "metric": "area_under_curve", "split": "test", "coords": ()}
    at = columns.index("Translation, test")
    assert last[at]["number"] == pytest.approx(mean(rows, "student_12800", **key))
    assert shifted[at]["number"] == pytest.approx(mean(rows, "student_1600", **key))
    wanted = ("translation", "area_under_curve", "test", ())
    values = {row.subject: row.value for row in rows if (row.property, row.metric, row.split, row.coords) == wanted}
    picked = [values[f"{fit}/seed{seed}@600"] for fit, seed in CHOSEN["accuracy"]]
    assert validation[at]["number"] == pytest.approx(np.mean(picked))


def test_likeness_on_a_curve_is_to_the_own_teacher_of_the_role(study):
    _, rows, page, _ = study
    for fit in ("student_400", "alone", "distilled"):
        own = [
            row.value
            for row in rows
            if row.property == "fidelity" and row.split == "test" and row.subject.startswith(f"{fit}/")
            and row.subject.split("/")[1] == str(row.other).split("/")[1]
        ]  # fmt: skip
        row = next(r for r in page.rows if r[0]["text"] == fit and len(r) > 8)
        assert row[6]["number"] == pytest.approx(np.mean(own)) and len(own) == 3


def test_the_fits_of_a_curve_do_not_crowd_the_other_figures(study):
    folder, _, page, _ = study
    for figure in ("accuracy-levels", "fidelity-levels", "learning-curves", "translation-accuracy-test"):
        text = (folder / "report" / "figures" / f"{figure}.svg").read_text()
        assert "distilled" in text and "student_50" not in text, figure
    assert "Numbers of the 9 fits on curves" in page.text
    assert sum(row[0]["text"] == "student_50" and len(row) == 5 for row in page.rows) == 1  # by radius, folded away


def test_a_map_has_dx_to_the_right_and_dy_down(study):
    _, rows, page, drawn = study
    ((maps_YxX, xs, ys), figure) = drawn["heat"][0]
    assert list(maps_YxX) == ["cnn", "peer", "alone", "self", "distilled"]
    assert list(xs) == list(ys) == list(OFFSETS)
    expected_YxX = [
        [mean(rows, "distilled", group="offset", coords=(("dy", dy), ("dx", dx))) for dx in OFFSETS] for dy in OFFSETS
    ]
    np.testing.assert_allclose(maps_YxX["distilled"], expected_YxX)
    *panels, bar = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == list(maps_YxX)
    for axes in panels:
        (image,) = axes.get_images()
        np.testing.assert_allclose(image.get_array(), maps_YxX[axes.get_title(loc="left")])
        assert axes.get_ylim()[0] > axes.get_ylim()[1] and axes.get_xlim()[0] < axes.get_xlim()[1]
        assert axes.get_aspect() == 1.0 and image.norm is panels[0].get_images()[0].norm
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["−6", "−4", "−2", "0", "2", "4", "6"]
    assert bar.get_ylabel() == "accuracy"
    assert re.search(r"cnn from 0\.\d+ at \(-?6, 6\) to 0\.9\d+ at \(0, 0\)", alt(page, "Accuracy on test by dx"))


def test_what_a_map_lacks_is_grey_and_its_ticks_go_through_zero():
    values_YxX = np.array([[0.1, np.nan], [0.5, 0.9]])
    figure = heat.heat({"a": values_YxX}, [0, 1], [-1, 0], xlabel="x", ylabel="y", label="m")
    image = figure.axes[0].get_images()[0]
    assert image.to_rgba(image.get_array())[0, 1].tolist() == pytest.approx(to_rgba(heat.PALE), abs=0.01)
    places, labels = heat._ticks(list(range(-10, 11)))
    assert "0" in labels and len(labels) <= 7 and [float(t.replace("−", "-")) + 10 for t in labels] == places


def test_categories_stand_in_the_order_of_the_rows(study):
    _, rows, page, drawn = study
    ((levels, _), figure) = drawn["categories"][0]
    assert list(levels) == list(CORRUPTIONS)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == list(CORRUPTIONS)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cnn", "peer", "alone", "self", "distilled"]
    for name in CORRUPTIONS:
        row = next(row for row in page.rows if row[0]["text"] == name)
        expected = [mean(rows, fit, coords=(("corruption", name),)) for fit in levels[name]]
        np.testing.assert_allclose([cell["number"] for cell in row[1:]], expected)


def test_the_mean_corruption_error_is_relative_to_alone_of_the_same_seed(study):
    _, rows, page, _ = study
    of = [
        r for r in rows if (r.property, r.metric, r.split, r.coords != ()) == ("corruptions", "accuracy", "test", True)
    ]
    assert {r.coords[0][1] for r in of} == {*CORRUPTIONS}
    errors = {(r.subject, r.coords): 1 - r.value for r in of}
    assert min(errors.values()) > 0
    start = next(i for i, row in enumerate(page.rows) if row[-1]["text"] == "Mean corruption error")
    shown = {row[0]["text"]: row[1]["number"] for row in page.rows[start + 1 : start + 6]}
    for fit, found in shown.items():
        ratios = [e / errors[s.replace(fit, "alone", 1), c] for (s, c), e in errors.items() if s.startswith(f"{fit}/")]
        assert found == pytest.approx(np.mean(ratios)) and len(ratios) == 3 * len(CORRUPTIONS)
    assert shown["alone"] == 1 and shown["cnn"] != 1


def strip(estimates, beside, half=0.01):
    """A strip with intervals of one width; nan for none."""
    levels = {x: Interval(y, y - half, y + half, 3, 0.95) for x, y in estimates.items()}
    others = {fit: Interval(y, y - half, y + half, 3, 0.95) for fit, y in beside.items()}
    return Strip(of_task("images")["accuracy"], "test", levels, others)


def test_bands_are_named_beside_themselves_without_overlap():
    beside = {"alone": 0.900, "self": 0.901, "distilled": 0.902, "teacher": 0.99}
    figure = over_fits.over_fits(
        [strip({10: 0.9, 1000: 0.95}, beside)], styles(list(beside)), xlabel="steps", ylabel="accuracy", log=True
    )
    figure.draw_without_rendering()
    (axes,) = figure.axes
    names = sorted(axes.texts, key=lambda text: Text.get_window_extent(text).y0)
    assert [text.get_text() for text in names] == list(beside)  # in the order of their levels
    boxes = [Text.get_window_extent(text) for text in names]  # of the words, without the lines to the levels
    assert all(above.y0 >= below.y1 for below, above in itertools.pairwise(boxes))
    assert all(box.x0 > axes.bbox.x1 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert axes.get_xscale() == "log" and not axes.get_xticks(minor=True).size


def test_a_curve_of_one_seed_has_no_bands():
    lonely = strip({1: 0.5}, {"alone": 0.4}, half=np.nan)
    figure = over_fits.over_fits([lonely], styles(["alone"]), xlabel="steps", ylabel="accuracy", log=False)
    figure.draw_without_rendering()
    assert len(figure.axes[0].patches) == 0 and np.isfinite(figure.axes[0].get_ylim()).all()
    assert over_fits._in_words(lonely) == "test: from 0.500 at 1 to 0.500 at 1; alone 0.400"


def test_labels_of_the_axis_fit_and_every_value_has_a_tick():
    values = [50 * 2**k for k in range(9)]
    places, labels = over_fits._ticks(values, 5.2, log=True)
    assert places == values and labels[0] == "50" and 3 <= sum(map(bool, labels)) < 9
    assert over_fits._ticks(values, 20.0, log=True)[1] == [f"{value:,}" for value in values]
    assert sum(map(bool, over_fits._ticks(values, 20.0, log=False)[1])) < 9  # the first ones crowd on a linear axis


@given(st.lists(st.floats(0, 200), min_size=1, max_size=8))
def test_labels_move_apart_and_no_further_than_they_must(heights):
    places = np.sort(heights)
    moved = over_fits._apart(places, 11.0)
    assert (np.diff(moved) >= 11.0 - 1e-9).all()
    if (np.diff(places) >= 11.0).all():
        np.testing.assert_array_equal(moved, places)
    assert np.abs(moved - places).max() <= 11.0 * (len(places) - 1) + 1e-9


def test_an_unknown_property_of_the_task_is_named(study, tmp_path):
    for name in ("task.json", "subjects.jsonl"):
        (tmp_path / name).write_bytes((study[0] / name).read_bytes())
    config = read_json(study[0] / "config.json")
    write_json(tmp_path / "config.json", config | {"properties": ["perplexity"]})
    with pytest.raises(ValueError, match=r"'perplexity' is unknown\. Known: accuracy, corruptions, translation"):
        report.write(tmp_path)
    assert Records(tmp_path / "subjects.jsonl", Subject).read()[1] == []


def test_a_relational_property_has_curves_of_the_likeness_to_the_own_teacher(study, tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "save", lambda figure, folder, name: "<svg></svg>")
    curve = Curve("agreement", "radius", "radius", "radius", "agreement")
    monkeypatch.setitem(of_task("images"), "fidelity", of_task("images")["fidelity"]._replace(curves=(curve,)))
    whole = [row for row in study[1] if row.split == "test" and row.property in ("fidelity", "accuracy")]
    radii = [
        row._replace(group="radius", coords=(("radius", r),), value=(row.value or 0) - 0.1 * r)
        for row in whole if row.other for r in (0, 1)
    ]  # fmt: skip
    Records(tmp_path / "rows.jsonl", Row).append([*whole, *radii])
    for name in ("task.json", "subjects.jsonl"):
        (tmp_path / name).write_bytes((study[0] / name).read_bytes())
    config = read_json(study[0] / "config.json") | {"curves": {}, "properties": ["accuracy", "fidelity"]}
    write_json(tmp_path / "config.json", config)
    shown = next(row for row in draw(tmp_path).rows if row[0]["text"] == "student_400" and len(row) == 3)
    own = next(row for row in study[2].rows if row[0]["text"] == "student_400" and len(row) > 8)[6]["number"]
    np.testing.assert_allclose([cell["number"] for cell in shown[1:]], [own, own - 0.1])
