"""The page in a real browser: nothing complains, tables sort, fits can be hidden, hostile names stay text."""

import json

import pytest
import synthetic_study
from report_page import in_browser

from kdib import report
from kdib.records import Records, Row, Subject, read_json, write_json
from kdib.report import canvas

EVIL = '<script>document.title = "broken"</script>'
QUOTE = '"><img src=x onerror="console.log(1)"> \'&amp;'

WIDE, PHONE = 1280, 390  # pixels
# What is seen at first.
LOOK = """
const seen = {}, $ = s => document.querySelector(s), all = s => [...document.querySelectorAll(s)];
seen.width = window.innerWidth;
const root = document.documentElement;
seen.wider = [root, document.body].some(of => of.scrollWidth > root.clientWidth);
const shown = cell => getComputedStyle(cell).display !== "none" && cell.textContent.trim() !== "";
const cells = [...$("table.card").tBodies[0].rows[0].cells].filter(shown);
seen.lines = new Set(cells.map(cell => Math.round(cell.getBoundingClientRect().top))).size;
seen.cut = cells.filter(cell => {
  const { left, right } = cell.getBoundingClientRect();
  return left < 0 || right > window.innerWidth || cell.scrollWidth > cell.clientWidth + 1;
}).map(cell => cell.textContent);
seen.labels = cells.map(cell => getComputedStyle(cell, "::before").content);
"""
# What a reader does, with what is seen after every step.
DRIVE = """
const head = (table, name) => [...table.tHead.rows[0].cells].find(cell => cell.textContent === name);
const column = (table, i) => [...table.tBodies[0].rows].map(row => row.cells[i].textContent.trim());
const levels = all("table").find(table => table.caption.textContent.startsWith("ECE."));
const test = head(levels, "test"), button = test.querySelector("button");
seen.declared = column(levels, 0);
button.click(); seen.up = column(levels, 1); seen.rose = test.getAttribute("aria-sort");
button.click(); seen.down = column(levels, 1); seen.fell = test.getAttribute("aria-sort");
head(levels, "Fit").querySelector("button").click(); seen.byName = column(levels, 0);
seen.cleared = test.hasAttribute("aria-sort");
const box = all(".filter label").find(label => label.textContent.trim() === "self").querySelector("input");
const visible = () => [...levels.tBodies[0].rows].filter(row => getComputedStyle(row).display !== "none")
  .map(row => row.cells[0].textContent.trim());
const marks = () => all("[data-fit='3']").filter(mark => getComputedStyle(mark).display !== "none").length;
seen.marks = [marks()]; box.click(); seen.without = visible(); seen.marks.push(marks());
box.click(); seen.again = visible(); seen.marks.push(marks());
seen.fits = all(".filter label").map(label => label.textContent.trim());
$(".skip").focus(); seen.skip = $(".skip").getBoundingClientRect().left >= 0;
seen.title = document.title;
window.dispatchEvent(new Event("beforeprint")); seen.closed = all("details:not([open])").length;
window.dispatchEvent(new Event("afterprint")); seen.opened = all("details[open]").length;
"""
# What was seen is written to <pre id="seen">.
TELL = """
const pre = document.createElement("pre"); pre.id = "seen";
pre.textContent = "SEEN" + JSON.stringify(seen) + "END"; document.body.append(pre);
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A study with hostile names, one property and one test set, so that it is drawn fast."""
    whole, folder = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("study")
    fits = ("teacher", EVIL, "alone", "self", "distilled")
    synthetic_study.write(whole, n_seeds=2, fits=fits)
    rows, _ = Records(whole / "rows.jsonl", Row).read()
    kept = [row for row in rows if row.property == "calibration" and row.split == "test" and not row.coords]
    Records(folder / "rows.jsonl", Row).append(kept)
    for name in ("subjects.jsonl", "metrics.jsonl"):
        (folder / name).write_bytes((whole / name).read_bytes())
    facts = read_json(whole / "task.json")
    facts["sets"]["test"]["examples"] = [EVIL, QUOTE]
    write_json(folder / "task.json", facts)
    config = read_json(whole / "config.json")
    write_json(folder / "config.json", config | {"title": f"{EVIL} {QUOTE}", "properties": ["calibration"]})
    return folder


@pytest.fixture(scope="module")
def browsed(workdir, tmp_path_factory):
    """(document, console, what was seen), after one visit."""
    return visit(workdir, LOOK + DRIVE + TELL, tmp_path_factory.mktemp("profile"), WIDE)


@pytest.fixture(scope="module")
def on_phone(workdir, tmp_path_factory):
    """As `browsed`, of a reader with a phone who only looks."""
    return visit(workdir, LOOK + TELL, tmp_path_factory.mktemp("phone"), PHONE)


def visit(workdir, script, profile, width):
    page, console = in_browser(report.write(workdir), script, profile, width=width)
    source = next(word for word in page.words if word.startswith("SEEN{"))
    return page, console, json.loads(source.removeprefix("SEEN").removesuffix("END"))


def test_nothing_complains_and_hostile_names_stay_text(browsed):
    page, console, seen = browsed
    assert console == []
    assert seen["title"] == f"{EVIL} {QUOTE}"
    assert seen["fits"] == ["teacher", EVIL, "alone", "self", "distilled"]
    assert "img" not in {tag for tag, _, _ in page.attributes}


def test_the_card_is_a_table_where_there_is_room_and_stacked_on_a_phone(browsed, on_phone):
    wide, phone = browsed[2], on_phone[2]
    assert (wide["width"], phone["width"]) == (WIDE, PHONE) and on_phone[1] == []
    assert not wide["wider"] and not phone["wider"]
    assert wide["lines"] == 1 and set(wide["labels"]) == {"none"}
    assert phone["lines"] >= 4 and phone["cut"] == []
    assert phone["labels"][2:6] == ['"Alone"', '"Self"', '"Distilled"', '"Teacher"']


@pytest.mark.parametrize("visited", ["browsed", "on_phone"])
def test_the_numbers_of_the_card_are_those_of_the_rows(visited, workdir, request):
    rows, _ = Records(workdir / "rows.jsonl", Row).read()
    subjects = {subject.id: subject.fit for subject in Records(workdir / "subjects.jsonl", Subject).read()[0]}
    card = request.getfixturevalue(visited)[0].row("Calibration")
    for column, fit in enumerate(("alone", "self", "distilled", "teacher"), start=2):
        values = [row.value for row in rows if row.metric == "ece" and subjects[row.subject] == fit]
        assert card[column]["number"] == pytest.approx(sum(values) / len(values)) and len(values) == 2


def test_a_table_sorts_by_its_numbers_and_back(browsed):
    seen = browsed[2]
    *up, size = [float(text.split("±")[0]) for text in seen["up"]]
    assert up == sorted(up) and len(set(up)) > 3
    assert seen["down"][:-1] == seen["up"][-2::-1]
    assert size == float(seen["down"][-1]) == 4800  # what is no measurement stands last either way
    assert (seen["rose"], seen["fell"], seen["cleared"]) == ("ascending", "descending", False)
    assert seen["declared"][0] == "teacher" and seen["byName"] == sorted(seen["byName"], key=str.lower)


def test_a_fit_can_be_hidden_and_shown(browsed):
    seen = browsed[2]
    assert set(seen["again"]) - set(seen["without"]) == {"self"}
    before, hidden, after = seen["marks"]
    assert before == after > 0 == hidden


def test_the_page_can_be_reached_by_keyboard_and_printed_whole(browsed):
    page, _, seen = browsed
    assert seen["skip"] and seen["closed"] == 0 and seen["opened"] == 0
    targets = [value for tag, name, value in page.attributes if tag == "a" and name == "href"]
    assert targets[0] == "#main"


def test_a_figure_takes_the_colours_of_the_page():
    svg = '<?xml?><svg id="a"><g style="fill: #ffffff; stroke: #000000"/><use style="fill: #d55e00"/></svg>'
    shown = canvas.inline(svg, "name")
    assert "fill: var(--card); stroke: var(--ink)" in shown and "fill: #d55e00" in shown
    assert 'id="name-a"' in shown
