"""A whole study in miniature: the graph of fits, what resumes, what is refused, and what a failure leaves."""

import json
import os
import shutil
import subprocess
import sys

import jax
import pytest
from miniature import CONFIG, prints, tiny

from kdib import population, study, tasks
from kdib.checks import check_task
from kdib.config import parse
from kdib.main import load_config
from kdib.records import Records, Row, Subject, read_json
from kdib.runs import choose_learning_rate, development_runs, main_runs, subjects
from kdib.snapshots import SnapshotError
from kdib.tasks.base import Dataset, gather
from kdib.workdir import WorkdirError, claimed

pytestmark = pytest.mark.usefixtures("no_page")


def test_a_study_leaves_what_the_architecture_page_lists(finished):
    names = {path.name for path in finished.iterdir()}
    assert names >= {"config.json", "task.json", "fits", "metrics.jsonl", "subjects.jsonl", "rows.jsonl", "report"}
    everyone, damage = Records(finished / "subjects.jsonl", Subject).read()
    assert len(everyone) == 5 * 2 and damage == []
    rows, damage = Records(finished / "rows.jsonl", Row).read()
    assert {row.property for row in rows} == {"accuracy", "calibration", "fidelity"} and damage == []
    assert {row.split for row in rows} == {
        "test",
        "more_attractors",
        "longer_distance",
        "unseen_nouns",
        "nonce",
        "natural",
    }


def test_what_was_refused_may_be_put_right_in_the_same_folder(tmp_path):
    config = tiny()
    config["train"]["batch_size"] = 5_000
    with pytest.raises(ValueError, match=r"config\.train\.batch_size is 5000, but there are \d+ examples"):
        study.run(config, tmp_path)
    assert not (tmp_path / "config.json").exists()  # which would make the next another configuration


def test_a_test_set_that_is_too_small_for_a_property_is_named_before_training():
    config = parse(tiny(properties=("accuracy", "similarity")))
    task = tasks.build(config.task)
    check_task(config, task)
    few = Dataset(gather(task.tests["natural"].inputs, slice(0, 3)), groups={})
    with pytest.raises(ValueError, match=r"config\.properties: similarity needs 4 examples per test set; 'few' has 3"):
        check_task(config, task._replace(tests={**task.tests, "few": few}))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text('{"learning_rate": 0.1}')
    with pytest.raises(WorkdirError, match=r"config\.json is not a kdib study's .*use another --workdir"):
        study.run(tiny(), tmp_path)


def test_seeds_are_paired_and_no_student_starts_as_its_teacher():
    config = parse(tiny("full,smoke"))
    for name, fit in config.fits.items():
        for run in main_runs(config, name):
            teacher = main_runs(config, fit.teacher)[run.teacher] if fit.teacher else None
            assert teacher is None or (fit.model, run.init) != (config.fits[fit.teacher].model, teacher.init)
    inits = {name: [run.init for run in main_runs(config, name)] for name in config.fits}
    assert inits["alone"] == inits["self"] == inits["distilled"] == [0, 1, 2, 3, 4][: config.seeds]
    assert not set(inits["peer"]) & set(inits["alone"])
    orders = [[run.order for run in main_runs(config, name)] for name in config.fits]
    assert all(order == orders[0] for order in orders)  # no student's teacher has seen what another's has not
    assert not {run.init for run in development_runs(config, "alone")} & set(inits["alone"])


def test_paired_fits_share_their_first_snapshot(finished):
    first = {name: value for name, value in prints(finished).items() if name.endswith("seed1@0")}
    assert first["fits/alone/seed1@0"] == first["fits/self/seed1@0"] == first["fits/distilled/seed1@0"]
    assert first["fits/alone/seed1@0"] != first["fits/peer/seed1@0"]


def test_a_finished_study_only_redraws(copy, draws, monkeypatch):
    def refuse(config):
        raise AssertionError("the task of a finished study was built again")

    before = (copy / "rows.jsonl").read_bytes(), prints(copy)
    shutil.rmtree(copy / "report")
    monkeypatch.setattr(tasks, "build", refuse)
    assert study.run(tiny(), copy).is_file()
    assert ((copy / "rows.jsonl").read_bytes(), prints(copy)) == before


def test_more_seeds_and_more_properties_add_what_is_missing(tmp_path):
    study.run(tiny(properties=("accuracy",), seeds=1), tmp_path)
    before = prints(tmp_path)
    study.run(tiny(), tmp_path)
    after = prints(tmp_path)
    assert {name: after[name] for name in before} == before
    rows, _ = Records(tmp_path / "rows.jsonl", Row).read()
    fidelity = [row for row in rows if (row.property, row.metric, row.split) == ("fidelity", "agreement", "test")]
    assert len({(row.subject, row.other) for row in fidelity}) == len(fidelity) > 0
    pairs = {(row.subject.split("@")[0], (row.other or "").split("@")[0]) for row in fidelity}
    assert {("distilled/seed0", "teacher/seed1"), ("distilled/seed1", "teacher/seed0")} <= pairs


def test_rows_written_before_a_crash_are_not_written_again(copy):
    whole = (copy / "rows.jsonl").read_text().splitlines()
    (copy / "rows.jsonl").write_text("\n".join(whole[:-50]) + "\n" + whole[-50][:20])  # the last line cut off
    measured = read_json(copy / "measured.json")
    (copy / "measured.json").write_text(json.dumps({name: [] for name in measured}))
    study.run(tiny(), copy)
    rows, damage = Records(copy / "rows.jsonl", Row).read()
    assert len(rows) == len(whole) and len(damage) == 1 and "line" in damage[0]


def test_every_architecture_and_loss_is_traced_once(tmp_path, monkeypatch):
    traces, advance = [], population._advance
    monkeypatch.setattr(population, "_advance", lambda *of, **knobs: (traces.append(1), advance(*of, **knobs))[1])
    config = tiny("full,smoke", seeds=1)
    config["train"]["group_size"] = 1  # the number of runs in a group shapes the program too
    study.run(config, tmp_path)
    # teacher | peer, alone | self, distilled, shuffled_soft | reverse | label_smoothed; some traced by other tests
    assert len(traces) <= 5


def test_corruptions_of_other_pictures_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    config, build = load_config(str(CONFIG.with_name("cnn_to_mlp.py")), "smoke").to_dict(), tasks.build
    config["properties"] = ("accuracy", "corruptions")
    monkeypatch.setattr(tasks, "build", lambda of: build(of)._replace(shapes={"image_shape": (32, 32, 3)}))
    with pytest.raises(ValueError, match=r"corruptions need images \[28, 28, 1\].*images/digits has \[32, 32, 3\]"):
        study.run(config, tmp_path)
    assert not (tmp_path / "fits").exists()


def test_another_configuration_is_refused_with_the_difference(copy):
    config = tiny()
    config["train"]["learning_rate"] = 0.5
    with pytest.raises(WorkdirError, match=r"train\.learning_rate: 0\.002 -> 0\.5"):
        study.run(config, copy)


def test_a_configuration_of_another_version_is_not_taken_for_a_mistake_in_this_one(copy):
    old = read_json(copy / "config.json")
    old["train"]["momentum"] = 0.9
    (copy / "config.json").write_text(json.dumps(old))
    with pytest.raises(WorkdirError, match=r"config\.json is not a configuration of this version.*momentum"):
        study.run(tiny(), copy)


@pytest.mark.parametrize("change", [{"dropout": 0.3}, {"attention_dropout": 0.2}])
def test_a_teacher_with_the_same_initial_values_is_refused(tmp_path, change):
    config = tiny()
    config["models"]["twin"] = config["models"]["transformer"] | change
    config["fits"]["self"] |= {"model": "twin", "teacher": "alone"}
    with pytest.raises(ValueError, match=r"models 'twin' and 'transformer' draw the same initial values"):
        study.run(config, tmp_path)


def test_a_path_put_right_is_not_another_configuration(tmp_path):
    config = tiny("corpus,smoke")
    with pytest.raises(FileNotFoundError, match="no file or folder ''"):
        study.run(config, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_second_process_is_refused(tmp_path):
    config = parse(tiny())
    code = (
        "import pathlib, sys; from kdib.main import load_config; from kdib.config import parse\n"
        "from kdib.workdir import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1]), parse(load_config(sys.argv[2], 'smoke').to_dict())): pass"
    )
    with claimed(tmp_path, config):
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), str(CONFIG)], capture_output=True, text=True, check=False
        )
    assert other.returncode == 1 and f"is in use by process {os.getpid()}" in other.stderr


def test_a_damaged_teacher_is_named_and_teaches_nobody(copy):
    shutil.rmtree(copy / "fits" / "distilled")
    for data in (copy / "fits/teacher/seed0/snapshots/12").rglob("d/*"):
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(SnapshotError, match=r"teacher/seed0/snapshots/12"):
        study.run(tiny(), copy)
    assert not (copy / "fits" / "distilled" / "seed0").exists()


def test_a_teacher_of_another_workdir_opens_by_path(finished, tmp_path):
    config = tiny()
    config["fits"]["teacher"]["path"] = str(finished / "fits" / "teacher")
    before = sorted((path, path.stat().st_mtime_ns) for path in finished.rglob("*"))
    study.run(config, tmp_path)
    assert sorted((path, path.stat().st_mtime_ns) for path in finished.rglob("*")) == before
    assert not (tmp_path / "fits" / "teacher").exists()
    assert prints(tmp_path)["fits/distilled/seed1@12"] == prints(finished)["fits/distilled/seed1@12"]


def test_an_unfinished_run_of_another_workdir_does_not_teach(copy, tmp_path):
    config = tiny()
    config["fits"]["teacher"]["path"] = str(copy / "fits" / "teacher")
    shutil.rmtree(copy / "fits/teacher/seed1/snapshots/12")
    with pytest.raises(SnapshotError, match=r"seed1 is not a finished run"):
        study.run(config, tmp_path / "new")


def test_a_redraw_does_not_rewrite_what_made_the_numbers(copy):
    config = read_json(copy / "config.json")
    config["environment"]["jax"] = "0.0.1"
    (copy / "config.json").write_text(json.dumps(config))
    study.run(tiny(), copy)
    assert read_json(copy / "config.json")["environment"]["jax"] == "0.0.1"
    study.run(tiny(seeds=3), copy)
    assert read_json(copy / "config.json")["environment"]["jax"] == f"0.0.1, {jax.__version__}"


def test_a_teacher_that_read_other_words_is_refused(finished, tmp_path):
    config = tiny()
    config["fits"]["teacher"]["path"] = str(finished / "fits" / "teacher")
    config["task"]["data_seed"] = 5  # other sentences: the vocabulary, by frequency, is numbered otherwise
    with pytest.raises(SnapshotError, match=r"trained on inputs of digest"):
        study.run(config, tmp_path)


def test_a_rate_that_went_non_finite_is_not_chosen(tmp_path):
    config = parse(tiny("full,smoke"))
    grid = development_runs(config, "alone")
    for run in grid:
        (tmp_path / run.name).mkdir()
        (tmp_path / run.name / "failure.json").write_text("{}")
    with pytest.raises(ValueError, match="every learning rate"):
        choose_learning_rate(grid, tmp_path, 12)


def test_the_students_of_a_failed_teacher_are_recorded_and_the_rest_goes_on(copy, draws):
    for fit in ("teacher", "distilled"):
        shutil.rmtree(copy / "fits" / fit / "seed1")
    (copy / "fits/teacher/seed1").mkdir(parents=True)
    record = {"fit": "teacher", "run": "seed1", "step": 7, "metric": "loss"}
    (copy / "fits/teacher/seed1/failure.json").write_text(json.dumps(record))
    for name in ("subjects.jsonl", "rows.jsonl", "measured.json"):
        (copy / name).unlink()
    page = study.run(tiny(), copy)
    names = {f"{s.fit}/{s.run}" for s in subjects(parse(tiny()), copy)}
    assert not {"teacher/seed1", "distilled/seed1"} & names and {"teacher/seed0", "alone/seed1"} <= names
    assert [f["fit"] for f in read_json(copy / "failures.json")] == ["teacher", "distilled"]
    assert "distilled/seed1" in page.read_text() or "seed1" in page.read_text()
