"""What each run learns from: stored and live answers, controls, ensembles, budgets, a teacher beside its student."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from miniature import prints, tiny

from kdib import study, tasks
from kdib.answers import Answers, answer, matched_epsilon, mean_entropy, shuffled_within_class, summary
from kdib.checks import check_names, check_opened_by_path
from kdib.config import parse
from kdib.estimands import final_subjects
from kdib.models.combinators import RULES
from kdib.progress import Progress
from kdib.records import Records, Row, read_json
from kdib.runs import development_runs, main_runs, steps_of, subjects, teacher_folders
from kdib.selection import tried_rates
from kdib.snapshots import SnapshotError
from kdib.teaching import jobs_of, model_of, open_lab, plan_of, trains_alike

pytestmark = pytest.mark.usefixtures("no_page")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    config = parse(tiny("full,smoke", seeds=1))
    workdir = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.report, "write", lambda workdir: None)
        study.run(tiny("full,smoke", seeds=1), workdir)
    return open_lab(config, tasks.build(config.task), workdir)


def job_of(lab, fit, **changes):
    fits = {**lab.study.fits, fit: lab.study.fits[fit].__class__(**{**vars(lab.study.fits[fit]), **changes})}
    fresh = lab._replace(study=lab.study.__class__(**{**vars(lab.study), "fits": fits}))
    plan = plan_of(fit, fresh)._replace(folder=lab.workdir / "nowhere")
    return plan, jobs_of(main_runs(fresh.study, fit), plan, fresh, Progress({}, {}))[0]


def test_stored_answers_have_nothing_hidden():
    config = tiny()
    config["losses"]["features"] = {"alike": {"fn": "similarity_preserving", "weight": 1.0}}
    config["fits"]["distilled"]["loss"] = "features"
    with pytest.raises(
        ValueError, match=r"distilled\.answers='table' stores only logits.*\(alike\); use answers='live'"
    ):
        check_names(parse(config))
    config["fits"]["distilled"]["answers"] = "live"
    check_names(parse(config))


def test_schedules_of_different_lengths_do_not_train_together(lab):
    config = tiny()
    for name, steps in {"one": (5,), "two": (5, 8)}.items():
        schedule = {"name": "step_at", "boundaries": steps, "factor": 0.5}
        config["losses"][name] = {"ce": {"fn": "cross_entropy", "weight": 1.0, "schedule": schedule}}
        config["fits"][name] = config["fits"]["alone"] | {"loss": name}
    config["fits"]["three"] = config["fits"]["alone"] | {"loss": "two"}
    fresh = lab._replace(study=parse(config))
    one, two, three = (trains_alike(name, plan_of(name, fresh), fresh) for name in ("one", "two", "three"))
    assert one != two == three


def test_stored_answers_are_the_live_teachers(lab):
    _, stored = job_of(lab, "distilled")
    plan, live = job_of(lab, "distilled", answers="live")
    logits = answer(plan.arch.teacher, live.teachers[0], lab.task.train.inputs).logits
    np.testing.assert_array_equal(stored.teachers[0], logits)


def test_shuffled_answers_are_the_same_set_within_each_class(lab):
    _, whole = job_of(lab, "distilled")
    _, mixed = job_of(lab, "shuffled_soft")
    a, b = (job.teachers[0] for job in (whole, mixed))
    labels = lab.task.train.inputs["label"]
    for label in (0, 1):
        np.testing.assert_array_equal(np.sort(a[labels == label], 0), np.sort(b[labels == label], 0))
    assert (a != b).any(-1).mean() > 0.9


@pytest.mark.parametrize("tau", [1.0, 5.0])
def test_label_smoothing_is_as_soft_as_the_teacher(lab, tau):
    _, smoothed = job_of(lab, "label_smoothed", softness_at=tau)
    _, distilled = job_of(lab, "distilled")
    epsilon = float(smoothed.loss["smoothed"].hparams["epsilon"])
    p = np.array([1 - epsilon / 2, epsilon / 2])
    target = mean_entropy(distilled.teachers[0] / tau)
    np.testing.assert_allclose(-(p * np.log(p)).sum(), target, rtol=1e-5)


def test_every_fit_chooses_its_rate_by_validation_loss(lab):
    for fit in lab.study.fits:
        chosen = read_json(lab.workdir / "fits" / fit / "tuning.json")
        losses = {row["learning_rate"]: row["loss"] for row in chosen["tried"]}
        assert set(losses) == set(lab.study.tune.learning_rates)
        assert losses[chosen["learning_rate"]] == min(losses.values())
        shown = tried_rates(map(json.loads, (lab.workdir / "metrics.jsonl").read_text().splitlines()))[fit]
        assert shown == pytest.approx(losses)  # what the report says was tried


@pytest.mark.parametrize("rule", RULES)
def test_an_ensemble_is_every_seed_of_the_teacher_stored_or_live(finished, rule):
    config = parse(tiny())
    lab = open_lab(config, tasks.build(config.task), finished)
    inputs = lab.task.train.inputs
    _, stored = job_of(lab, "self", ensemble=rule)
    plan, live = job_of(lab, "self", ensemble=rule, answers="live")
    assert [path.name for path in teacher_folders(lab.study, live.run, finished)] == ["seed0"]  # as configured: paired
    members = [answer(plan.arch.teacher, {"params": (one,)}, inputs).logits for one in live.teachers[0]["params"]]
    assert len(members) == config.seeds == 2 and not np.allclose(*members)
    together = answer(plan.arch.teacher, live.teachers[0], inputs).logits
    np.testing.assert_allclose(stored.teachers[0], together, atol=1e-6)
    np.testing.assert_allclose(together, RULES[rule](np.stack(members)), atol=1e-5)
    assert stored.run.teacher is None and live.run.teacher is None


def test_an_ensemble_with_a_failed_member_teaches_nobody(copy, capsys):
    (copy / "fits/peer/seed1/failure.json").write_text("{}")
    config = tiny()
    config["fits"]["self"]["ensemble"] = "mean_logit"
    config = parse(config)
    lab = open_lab(config, tasks.build(config.task), copy)
    plan = plan_of("self", lab)._replace(folder=copy / "new")
    progress = Progress({"self": 2 * plan.recipe.steps}, {"self": "transformer"})
    assert jobs_of(main_runs(config, "self"), plan, lab, progress) == []
    assert (
        progress.eta_seconds() == (0, []) and "not trained, because its teacher peer/seed1" in capsys.readouterr().out
    )
    for seed in range(2):
        failure = read_json(copy / f"new/self/seed{seed}/failure.json")
        assert failure["teacher"] == "peer/seed1"


def test_in_development_an_ensemble_is_of_development_runs_at_the_chosen_rate(tmp_path):
    config = tiny("full,smoke")
    config["tune"]["seeds"] = 2
    config["fits"]["self"]["ensemble"] = "mean_probability"
    study_ = parse(config)
    (tmp_path / "fits/peer").mkdir(parents=True)
    (tmp_path / "fits/peer/tuning.json").write_text('{"learning_rate": 0.004}')
    for run in development_runs(study_, "self"):
        names = [path.name for path in teacher_folders(study_, run, tmp_path)]
        assert names == ["seed1000-learning_rate=0.004", "seed1001-learning_rate=0.004"]
    for run in main_runs(study_, "self"):
        assert [path.name for path in teacher_folders(study_, run, tmp_path)] == ["seed0", "seed1"]


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """A study with the controls `peer_ensemble` and `alone_long`, whose properties are measured."""
    workdir = tmp_path_factory.mktemp("controlled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.report, "write", lambda workdir: None)
        study.run(with_controls(), workdir)
    return workdir


def with_controls(**changes):
    config = tiny(properties=("accuracy",), **changes)
    fields = config["fits"]
    del fields["self"]
    fields["peer_ensemble"] = fields["distilled"] | {"teacher": "peer", "ensemble": "mean_probability"}
    fields["alone_long"] = fields["alone"] | {"budget": 1.5}
    config["roles"]["self"] = "peer_ensemble"
    config["tune"] = {"learning_rates": (0.002, 0.004), "seeds": 1}
    return config


def test_a_budget_is_the_length_of_a_fit_everywhere(controlled):
    config = parse(with_controls())
    assert (steps_of(config, "alone"), steps_of(config, "alone_long")) == (12, 18)
    steps = {name.split("@")[0]: step_in(name) for name in sorted(prints(controlled), key=step_in)}
    assert {name: step for name, step in steps.items() if step != 12} == {
        name: 18 for name in steps if "alone_long" in name
    }
    assert len(steps) == 6 * (2 + 2)
    assert len(read_json(controlled / "fits/alone_long/tuning.json")["tried"]) == 2
    everyone = subjects(config, controlled)
    rows, _ = Records(controlled / "rows.jsonl", Row).read()
    assert {subject.id for subject in everyone} == {row.subject for row in rows}
    finals = final_subjects(everyone)
    assert {subject.step for subject in finals.values() if subject.fit == "alone_long"} == {18}
    assert len(finals) == 6 * 2


def test_a_study_is_complete_when_every_fit_has_its_own_length(controlled, tmp_path, monkeypatch):
    def built(config):
        raise RuntimeError("built")

    monkeypatch.setattr(tasks, "build", built)
    copy = pathlib.Path(shutil.copytree(controlled, tmp_path / "copy"))
    study.run(with_controls(), copy)
    shutil.rmtree(copy / "fits/alone_long/seed1/snapshots/18")  # 12, the length of the others, is still there
    with pytest.raises(RuntimeError, match="built"):
        study.run(with_controls() | {"properties": ()}, copy)  # nothing to measure: only the training is asked about


def step_in(name):
    return int(name.split("@")[1])


def test_a_long_run_starts_as_the_short_one_and_follows_a_longer_schedule(controlled):
    names = prints(controlled)
    assert names["fits/alone/seed0@0"] == names["fits/alone_long/seed0@0"]
    assert names["fits/alone/seed0@12"] != names["fits/alone_long/seed0@12"]  # the cosine is not at its end


def test_a_long_fit_of_another_workdir_is_finished_at_its_own_length(controlled, tmp_path):
    copy = pathlib.Path(shutil.copytree(controlled, tmp_path / "copy"))
    config = tiny(properties=())
    del config["fits"]["self"], config["fits"]["peer"]
    config["roles"]["self"] = "alone"
    config["fits"]["teacher"] = config["fits"]["alone"] | {"seeds": "peer", "path": str(copy / "fits" / "alone_long")}
    lab = open_lab(parse(config), tasks.build(config["task"]), tmp_path / "new")
    check_opened_by_path(lab)
    config["models"]["transformer"] |= {"width": 8}  # another network than was trained there
    other = open_lab(parse(config), lab.task, tmp_path / "new")
    with pytest.raises(
        SnapshotError, match=r"config\.fits\.teacher\.path, with the model 'transformer' of this study: "
    ):
        check_opened_by_path(other)
    shutil.rmtree(copy / "fits/alone_long/seed1/snapshots/18")
    with pytest.raises(SnapshotError, match="seed1 is not a finished run"):
        check_opened_by_path(lab)


def test_the_students_of_an_ensemble_differ_by_their_own_seed_only(controlled):
    names = prints(controlled)
    assert names["fits/peer_ensemble/seed0@12"] != names["fits/peer_ensemble/seed1@12"]
    assert names["fits/peer_ensemble/seed0@0"] == names["fits/alone/seed0@0"]


def test_answers_do_not_depend_on_the_padding_of_the_last_batch(lab):
    plan, job = job_of(lab, "distilled", answers="live")
    inputs = lab.task.validation.inputs
    whole = answer(plan.arch.teacher, job.teachers[0], inputs).logits
    part = answer(plan.arch.teacher, job.teachers[0], {name: v[:7] for name, v in inputs.items()}).logits
    np.testing.assert_allclose(part, whole[:7], atol=1e-6)


def test_answers_of_several_blocks_are_those_of_one(lab, monkeypatch):
    plan, job = job_of(lab, "distilled", answers="live")
    inputs = {name: values[:50] for name, values in lab.task.train.inputs.items()}
    whole = answer(plan.arch.teacher, job.teachers[0], inputs).logits
    monkeypatch.setattr("kdib.answers.BLOCK", 17)
    np.testing.assert_allclose(answer(plan.arch.teacher, job.teachers[0], inputs).logits, whole, atol=1e-6)


def test_summary_is_the_closed_form():
    logits = np.log(np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]], np.float32))
    got = summary(Answers(logits), {"label": np.array([0, 1, 1])})
    np.testing.assert_allclose(got["accuracy"], 2 / 3)
    np.testing.assert_allclose(got["loss"], -np.mean(np.log([0.8, 0.6, 0.1])), rtol=1e-6)
    p = np.array([0.8, 0.6, 0.9])
    np.testing.assert_allclose(got["entropy"], np.mean(-p * np.log(p) - (1 - p) * np.log(1 - p)), rtol=1e-6)
    np.testing.assert_allclose(got["ece"], (0.2 + 0.4 + 0.9) / 3, rtol=1e-5)


def test_matched_epsilon_has_the_limits_of_label_smoothing():
    assert matched_epsilon(np.array([[0.0, 0.0], [1.0, 1.0]])) == pytest.approx(1.0)
    assert matched_epsilon(np.array([[60.0, -60.0]])) == pytest.approx(0.0, abs=1e-6)


def test_a_shuffle_keeps_rows_whole():
    logits = np.arange(20, dtype=np.float32).reshape(10, 2)
    labels = np.array([0, 1] * 5)
    mixed = shuffled_within_class(jax.random.key(0), logits, labels)
    np.testing.assert_array_equal(mixed[:, 1] - mixed[:, 0], np.ones(10))


def test_an_online_fit_trains_its_teacher_beside_it_and_answers_as_the_student(finished):
    config = parse(tiny("online,smoke"))
    lab = open_lab(config, tasks.build(config.task), finished)
    plan = plan_of("online", lab)
    (job,) = jobs_of(main_runs(config, "online")[:1], plan, lab, Progress({}, {}))
    assert job.run.teacher is None and teacher_folders(config, job.run, finished) == []  # it waits for nobody
    one = {name: values[:1] for name, values in lab.data.items()}
    variables = plan.arch.model.init(jax.random.key(0), one)
    assert set(variables["params"]) == {"student", "teacher"}
    whole = answer(plan.arch.model, variables, lab.task.validation.inputs).logits
    alone = answer(
        model_of("alone", lab), {"params": variables["params"]["student"]}, lab.task.validation.inputs
    ).logits
    np.testing.assert_allclose(whole, alone, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "kd"}, "student.hidden.teacher_logits"),
        ({"teacher": ""}, "needs a teacher"),
        ({"ensemble": "mean_logit"}, "no ensemble"),
    ],
)
def test_an_online_fit_that_cannot_be_is_refused(change, message):
    config = tiny("online,smoke")
    config["fits"]["online"] |= change
    with pytest.raises(ValueError, match=message):
        check_names(parse(config))
