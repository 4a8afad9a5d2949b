"""Snapshots as teachers: which one teaches when, alone, in turn or as one; how soft it is; who is trained together."""

import dataclasses
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniature import prints, tiny

from kdib import fit as fits
from kdib import losses, study, tasks
from kdib.answers import answer, matched_temperature, mean_entropy, summary
from kdib.checks import check_losses, check_names, check_teachers
from kdib.config import parse
from kdib.fit import Job
from kdib.main import load_config
from kdib.models.combinators import RULES
from kdib.progress import Progress
from kdib.records import RunSpec
from kdib.runs import generations, main_runs
from kdib.tasks.images.views import augmentation
from kdib.teaching import _validation, jobs_of, load, open_lab, plan_of

pytestmark = pytest.mark.usefixtures("no_page")
CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
STEPS = 12  # of the miniature study, which is saved at 0, 6 and 12


@pytest.fixture(scope="module")
def lab(finished):
    config = parse(tiny())
    return open_lab(config, tasks.build(config.task), finished)


def jobs_with(lab, fit="distilled", **changes):
    """The plan and jobs of a fit that was configured otherwise and has not been trained."""
    config = tiny()
    config["fits"][fit] |= changes
    fresh = lab._replace(study=parse(config))
    check_teachers(fresh)
    plan = plan_of(fit, fresh)._replace(folder=lab.workdir / "nowhere")
    return plan, jobs_of(main_runs(fresh.study, fit), plan, fresh, Progress({}, {}))


def answers_of(lab, seed, step):
    plan, _ = jobs_with(lab, answers="live")
    variables = load(lab.workdir / f"fits/teacher/seed{seed}", step, lab)
    return answer(plan.arch.teacher, variables, lab.task.train.inputs).logits


def test_a_student_learns_from_the_snapshot_of_its_own_seed(lab):
    for seed, job in enumerate(jobs_with(lab, teacher_steps=(6,))[1]):
        np.testing.assert_array_equal(job.teachers[0], answers_of(lab, seed, 6))
        assert not np.allclose(job.teachers[0], answers_of(lab, seed, STEPS))


def test_several_snapshots_teach_in_turn_or_as_one(lab):
    _, (job, _) = jobs_with(lab, teacher_steps=(0, 6, STEPS))
    each = [answers_of(lab, 0, step) for step in (0, 6, STEPS)]
    for own, expected in zip(job.teachers, each, strict=True):
        np.testing.assert_array_equal(own, expected)
    for rule in RULES:
        _, (as_one, other) = jobs_with(lab, teacher_steps=(0, 6, STEPS), ensemble=rule)
        np.testing.assert_allclose(as_one.teachers[0], RULES[rule](jnp.stack(each)), atol=1e-6)
        assert as_one.run.teacher == 0 and other.run.teacher == 1  # the snapshots are those of the paired seed


def test_live_snapshots_answer_as_their_stored_answers(lab):
    plan, (live, _) = jobs_with(lab, teacher_steps=(0, 6), answers="live")
    _, (stored, _) = jobs_with(lab, teacher_steps=(0, 6))
    for variables, table in zip(live.teachers, stored.teachers, strict=True):
        np.testing.assert_array_equal(answer(plan.arch.teacher, variables, lab.task.train.inputs).logits, table)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_a_strong_teacher_is_made_as_soft_as_a_weak_one_at_the_temperature_of_the_loss(lab, tau):
    _, (softened, _) = jobs_with(lab, as_soft_as=6, softness_at=tau)
    strong, weak = answers_of(lab, 0, STEPS), answers_of(lab, 0, 6)
    assert mean_entropy(softened.teachers[0] / tau) == pytest.approx(mean_entropy(weak / tau), rel=1e-4)
    ratio = softened.teachers[0] / strong
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-4)  # one temperature for all


def test_the_matched_temperature_is_the_one_that_softened():
    logits = np.random.default_rng(0).normal(size=(200, 10)) * 3
    assert matched_temperature(logits, mean_entropy(logits / 2.5)) == pytest.approx(2.5, rel=1e-6)
    with pytest.raises(ValueError, match="a mean entropy of 9 is outside"):
        matched_temperature(logits, 9.0)


def test_the_turns_are_equal_shares_and_a_call_stays_within_one(lab):
    plan, jobs = jobs_with(lab, teacher_steps=(0, 6, STEPS))
    for start, stop in fits._chunks(0, jobs, plan):
        assert {tuple(fits._phases(step, jobs, plan)) for step in range(start, stop)} == {
            (start // 4, start // 4)
        }  # 12 steps, three teachers
    assert list(fits._chunks(6, jobs, plan)) == [c for c in fits._chunks(0, jobs, plan) if c[0] >= 6]


def test_runs_hold_the_answers_of_a_teacher_that_they_share_once():
    one, other = (np.full((3, 2), value, np.float32) for value in (1, 2))
    jobs = [Job(RunSpec("s", seed, seed, seed, 0), of, {}, 0.1) for seed, of in enumerate([(one,), (other, one)])]
    tables = fits._tables(jobs)
    assert [table is kept for table, kept in zip(tables, (one, other), strict=True)] == [True, True]
    np.testing.assert_array_equal(fits._teachers([0, 0], jobs, tables)["params"]["teacher"], [0, 1])
    np.testing.assert_array_equal(fits._teachers([0, 1], jobs, tables)["params"]["teacher"], [0, 0])


@pytest.fixture(scope="module")
def leveled(tmp_path_factory):
    """A study with students of two snapshots, and one that is handed the same snapshot three times."""
    workdir = tmp_path_factory.mktemp("leveled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.report, "write", lambda workdir: None)
        study.run(with_levels(), workdir)
    return workdir


def with_levels():
    config = tiny(properties=())
    of = config["fits"]
    of["weak"] = of["distilled"] | {"teacher_steps": (0,)}
    of["strong"] = of["distilled"] | {"teacher_steps": (STEPS,)}
    of["thrice"] = of["distilled"] | {"teacher_steps": (STEPS,) * 3}
    of["growing"] = of["distilled"] | {"teacher_steps": (0, 6, STEPS)}
    of["rarely_saved"] = of["distilled"] | {"snapshots": {"name": "explicit", "steps": ()}}
    kl = config["losses"]["kd"]["kl"]
    config["losses"]["hot"] = {"kl": kl | {"weight": 0.5, "temperature": 7.0}}  # other leaves of the same loss
    of["hot"], of["hot_rarely_saved"] = (of[fit] | {"loss": "hot"} for fit in ("distilled", "rarely_saved"))
    return config


def test_a_population_of_fits_is_what_each_of_them_is_alone(leveled, finished):
    config = with_levels()
    lab = open_lab(parse(config), tasks.build(config["task"]), leveled)
    students = generations(lab.study)[-1]
    (together, apart) = sorted(study._alike(students, lab), key=len, reverse=True)
    assert {*together} == {"self", "distilled", "weak", "strong", "thrice", "growing", "hot"}
    assert {*apart} == {"rarely_saved", "hot_rarely_saved"}
    own, before = prints(leveled), prints(finished)
    for name in before:  # trained fit by fit, in groups of other sizes
        assert own[name] == before[name], name


def test_the_last_snapshot_is_the_default_and_turns_of_one_teacher_change_nothing(leveled):
    own = prints(leveled)
    for seed in (0, 1):
        weights = {fit: own[f"fits/{fit}/seed{seed}@{STEPS}"] for fit in with_levels()["fits"]}
        assert weights["distilled"] == weights["strong"] == weights["thrice"] == weights["rarely_saved"]
        assert weights["hot"] == weights["hot_rarely_saved"]  # trained in another group
        assert len({weights[fit] for fit in ("weak", "strong", "growing", "self", "hot")}) == 5
        assert f"fits/rarely_saved/seed{seed}@6" not in own and f"fits/strong/seed{seed}@6" in own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_steps": (5,)}, r"distilled: teacher is not saved at steps \[5\]; it is saved at \(0, 6, 12\)"),
        ({"as_soft_as": 7}, r"distilled: teacher is not saved at steps \[7\]"),
        ({"as_soft_as": 6, "answers": "live"}, "as_soft_as needs a teacher and answers='table', got answers='live'"),
        ({"augment": {"name": "shift"}}, "augment: stored teacher outputs are for the original examples"),
        ({"augment": {"name": "shift"}, "answers": "live"}, "there are no augmentations of sentences"),
    ],
)
def test_what_cannot_teach_is_refused_before_anything_is_trained(tmp_path, change, message):
    config = tiny()
    config["fits"]["distilled"] |= change
    with pytest.raises(ValueError, match=message):
        study.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "fits").exists()


TO = "teacher.hidden.penultimate"
ABSENT = ("student.hidden.block9", TO)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (
            {"fn": "hint", "inputs": ABSENT},
            r"no 'block9' in 'hidden'.*block0 \[2, .*penultimate \[2, ",
        ),
        (
            {"fn": "hint", "inputs": ABSENT, "projector": "linear"},
            r"no 'block9' in 'hidden'.*penultimate",
        ),
        ({"fn": "hint", "inputs": ("student.logits", TO)}, r"\(2, 2\).*\(2, \d+\)"),
        ({"fn": "hint", "projector": "conv"}, r"projector='conv' needs maps \[N, H, W, C\], got student\.hidden"),
    ],
)
def test_layers_that_a_loss_does_not_find_are_refused_before_anything_is_trained(tmp_path, term, message):
    config = tiny()
    config["losses"]["features"] = {"hint": {"weight": 1.0, **term}}
    config["fits"]["distilled"] |= {"loss": "features", "answers": "live"}
    with pytest.raises(ValueError, match=r"config\.fits\.distilled\.loss='features': .*" + message):
        study.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "fits").exists()


def test_every_loss_of_the_features_variant_fits_its_networks(tmp_path):
    config = runpy.run_path(str(CONFIGS / "leveled_kd.py"))["get_config"]("features,smoke").to_dict()
    lab = open_lab(parse(config), tasks.build(parse(config).task), tmp_path)
    check_losses(lab)
    wrong = dict(lab.study.losses)
    wrong["type1"] = {
        **wrong["type1"],
        "fm": {**wrong["type1"]["fm"], "inputs": ("student.hidden.x", "teacher.logits")},
    }
    with pytest.raises(ValueError, match=r"_type1\.loss='type1': .*no 'x' in 'hidden'"):
        check_losses(lab._replace(study=dataclasses.replace(lab.study, losses=wrong)))


def test_the_losses_of_the_study_are_the_posters_total():
    study_ = runpy.run_path(str(CONFIGS / "leveled_kd.py"))
    config = study_["get_config"]("features,smoke").to_dict()
    alpha, tau, s_kl, s_fm = (study_[name] for name in ("ALPHA", "TAU", "S_KL", "S_FM"))
    totals = {"kd": (alpha, tau, s_kl, None), "type1": (alpha, tau, None, s_fm), "type2": (alpha, tau, s_kl, s_fm)}
    totals |= {f"alpha_{a:g}".replace(".", "_"): (a, tau, s_kl, None) for a in study_["ALPHAS"] if a != alpha}
    totals |= {f"tau_{t:g}": (alpha, t, s_kl, None) for t in study_["TAUS"] if t != tau}
    assert config["losses"].keys() - totals.keys() == {"labels", "smoothing", "kd_smoothed", "unlabelled"}
    for name, numbers in totals.items():
        ours, published = losses.from_config(config["losses"][name]), losses.leveled(*numbers)
        assert jax.tree.structure(ours) == jax.tree.structure(published), name
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, published)


def test_a_snapshot_has_the_metrics_of_every_set_that_is_watched(lab):
    other = lab.task.tests["test"]
    model, variables = plan_of("alone", lab).arch.model, load(lab.workdir / "fits/alone/seed0", STEPS, lab)
    found = _validation(model, variables, lab.task._replace(watched={"other": other}))
    expected = summary(answer(model, variables, other.inputs), other.inputs)
    assert {name: found[f"other_{name}"] for name in expected} == expected
    assert found.keys() == {*expected, *(f"other_{name}" for name in expected)}


def test_snapshots_alphas_and_temperatures_train_as_one_population(tmp_path):
    config = runpy.run_path(str(CONFIGS / "leveled_kd.py"))["get_config"]("features,smoke").to_dict()
    lab = open_lab(parse(config), tasks.build(parse(config).task), tmp_path)
    swept = {fit for curve in config["curves"].values() for fit in curve["x"]}
    assert {"from_50", "distilled", "alpha_0", "alpha_0_9", "tau_1", "tau_16"} <= swept
    assert any(swept <= {*population} for population in study._alike(generations(lab.study)[-1], lab))


def test_labels_have_no_snapshots(tmp_path):
    config = tiny()
    config["fits"]["alone"]["teacher_steps"] = (6,)
    with pytest.raises(ValueError, match=r"alone\.teacher_steps=\(6,\) needs a teacher"):
        study.run(config, tmp_path / "run")


# ---- views


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
BATCH = {"image": IMAGES, "id": np.arange(6, dtype=np.int32), "label": np.zeros(6, np.int32)}


def test_a_view_depends_on_the_key_and_the_example_alone():
    augment, rows = augmentation("shift", pixels=2), np.array([4, 0, 5])
    assert augment is augmentation("shift", pixels=2)
    whole = augment(jax.random.key(0), BATCH)["image"]
    part = augment(jax.random.key(0), {name: values[rows] for name, values in BATCH.items()})["image"]
    np.testing.assert_array_equal(whole[rows], part)
    assert not np.array_equal(whole, augment(jax.random.key(1), BATCH)["image"])
    unmoved = augmentation("shift", pixels=0)(jax.random.key(0), BATCH)["image"]
    np.testing.assert_allclose(unmoved, IMAGES / 255, rtol=1e-6)


def test_unknown_views_and_knobs_list_the_known():
    with pytest.raises(ValueError, match=r"'shove' is unknown.*Known: .*shift"):
        augmentation("shove")
    with pytest.raises(ValueError, match=r"'pixel' is unknown.*Did you mean 'pixels'"):
        augmentation("shift", pixel=2)


def test_mixup_mixes_the_pictures_of_a_batch_and_is_refused_to_a_loss_that_reads_labels():
    pictures = {"image": jnp.asarray([0, 255, 51], jnp.uint8)[:, None, None, None] * jnp.ones((1, 2, 2, 1), jnp.uint8)}
    batch = pictures | {"id": jnp.asarray([5, 2, 9]), "label": jnp.arange(3)}
    mix = augmentation("mixup", alpha=1.0)
    seen = np.asarray(mix(jax.random.key(0), batch)["image"])[:, 0, 0, 0]
    assert seen.sum() == pytest.approx(1.2) and not np.isclose(np.sort(seen), [0, 0.2, 1]).all()
    other = np.asarray(mix(jax.random.key(0), batch | {"id": jnp.asarray([6, 2, 9])})["image"])[:, 0, 0, 0]
    assert not np.allclose(seen, other)  # another batch is mixed otherwise
    config = load_config(str(CONFIGS / "cnn_to_mlp.py"), "smoke").to_dict()
    config["fits"]["distilled"] |= {"answers": "live", "augment": {"name": "mixup", "alpha": 0.2}}
    check_names(parse(config))
    config["fits"]["alone"]["augment"] = {"name": "mixup"}
    with pytest.raises(ValueError, match=r"alone\.augment: mixup mixes images but not labels.*cross_entropy"):
        check_names(parse(config))
