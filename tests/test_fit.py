"""One fit on a tiny network: resume to the last bit, frozen runs, compilations, what is left on disk."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib import fit as fits
from kdib.config import Train
from kdib.fit import Job, Plan, Stopped
from kdib.logbook import Logbook
from kdib.losses import from_config
from kdib.models.base import Model, Outputs, nothing, table
from kdib.optimizer import make_optimizer
from kdib.population import train_chunk
from kdib.progress import Progress
from kdib.records import RunSpec
from kdib.snapshots import SnapshotError, SnapshotIndex
from kdib.step import Architecture

N, D, K, STEPS = 40, 3, 2, 24
COSINE = {"name": "cosine"}


def network() -> Model:
    """One hidden layer with dropout, so that a resumed run must find its noise again."""

    def init(key, batch):
        return {"params": {"a": jax.random.normal(key, (D, 8)), "b": jax.random.normal(key, (8, K))}}

    def apply(params, model_state, batch, *, train, key):
        hidden = jnp.tanh(batch["x"] @ params["a"])
        if train:
            hidden = jnp.where(jax.random.bernoulli(key, 0.9, hidden.shape), hidden, 0)
        return Outputs(hidden @ params["b"], {}), model_state

    return Model(init, apply)


NETWORK = network()


def plan_in(folder, *, group_size=1, validate=lambda variables: {"loss": 0.5}, schedule=COSINE, l2=0.0, window=0):
    recipe = Train(
        steps=STEPS,
        batch_size=8,
        optimizer="adam",
        learning_rate=0.05,
        warmup_steps=2,
        schedule=schedule,
        weight_decay=0.0,
        clip_norm=1.0,
        chunk=4,
        group_size=group_size,
        save_every=6,
        snapshots={"name": "every", "n": 12},
        l2=l2,
        window=window,
    )
    tx = make_optimizer("adam", steps=STEPS, warmup_steps=2, schedule=schedule, weight_decay=0.0, clip_norm=1.0, l2=l2)
    rng, n = np.random.default_rng(0), 2 * N if window else N
    x = rng.normal(size=(n, D)).astype(np.float32)
    data = {"x": x, "label": (x[:, 0] > 0).astype(np.int32), "id": np.arange(n, dtype=np.int32)}
    return Plan(
        folder=folder / "fits",
        arch=Architecture(NETWORK, nothing(), (), tx),
        recipe=recipe,
        root=jax.random.key(0),
        data=data if window else jax.tree.map(jnp.asarray, data),
        snapshot_steps=(0, 12, 24),
        edges=(),
        validate=validate,
        meta={"inputs": "digest"},
    )


def job(seed, weight=1.0, learning_rate=0.05):
    loss = from_config({"ce": {"fn": "cross_entropy", "weight": weight}})
    return Job(RunSpec("alone", seed, seed, seed, None), ({"params": {}},), loss, learning_rate)


def train(folder, jobs, stop_after=None, **settings):
    """Trains; with `stop_after`, a stop is asked for once that step has been reached."""
    plan = plan_in(folder, **settings)
    folder.mkdir(exist_ok=True)
    with Progress({"alone": STEPS * len(jobs)}, {"alone": "mlp"}) as progress, Logbook(folder) as logbook:
        if stop_after is not None:
            reached = progress.reached

            def reached_and_stop(step):
                reached(step)
                progress.stop_requested = step >= stop_after

            progress.reached = reached_and_stop
        fits.train(jobs, plan, progress, logbook)
    return plan


def prints(folder, seed=0):
    with SnapshotIndex(folder / "fits" / "alone" / f"seed{seed}" / "snapshots", read_only=True) as index:
        return {step: index.fingerprint(step) for step in index.steps()}


def curve(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(x["run"], x["split"], x["step"], x["metric"]): x["value"] for x in lines}


def test_a_run_leaves_snapshots_curves_and_events_and_no_state(tmp_path):
    train(tmp_path, [job(0)])
    assert set(prints(tmp_path)) == {0, 12, 24}
    assert not (tmp_path / "fits/alone/seed0/state").exists()
    steps = [step for _, split, step, metric in curve(tmp_path) if (split, metric) == ("train", "ce")]
    assert steps == [4, 5, 6, 8, 10, 12, 15, 16, 18, 20, 24]  # chunks of 4, saves at 6, epochs of 5
    assert list((tmp_path / "tensorboard/alone/seed0").glob("events*"))


@pytest.mark.parametrize(("group_size", "window"), [(1, 0), (2, 0), (2, 24)])
def test_an_interrupted_run_resumes_to_the_same_bits_and_curves(tmp_path, group_size, window):
    jobs, settings = [job(0), job(1)], {"group_size": group_size, "window": window}
    train(tmp_path / "whole", jobs, **settings)
    for stop_after in (4, 13):  # within an epoch of 5 steps, a window of 3
        with pytest.raises(Stopped):
            train(tmp_path / "cut", jobs, stop_after=stop_after, **settings)
    train(tmp_path / "cut", jobs, **settings)
    for seed in (0, 1):
        assert prints(tmp_path / "cut", seed) == prints(tmp_path / "whole", seed)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "cosine_restarts", "first_decay_steps": 5, "m_mul": 0.9},
        {"name": "step_at", "boundaries": [3, 10], "factor": 0.1},
    ],
)
def test_a_schedule_with_knobs_and_a_regulariser_resume_to_the_same_bits(tmp_path, schedule):
    settings = {"schedule": schedule, "l2": 1e-2}
    train(tmp_path / "whole", [job(0)], **settings)
    with pytest.raises(Stopped):
        train(tmp_path / "cut", [job(0)], stop_after=10, **settings)
    train(tmp_path / "cut", [job(0)], **settings)
    assert prints(tmp_path / "cut") == prints(tmp_path / "whole")


def test_a_run_does_not_depend_on_what_else_is_trained(tmp_path):
    train(tmp_path / "one", [job(1)])
    train(tmp_path / "three", [job(0), job(1), job(2)])
    assert prints(tmp_path / "one", 1) == prints(tmp_path / "three", 1)
    assert prints(tmp_path / "three", 0) != prints(tmp_path / "three", 1)


def test_a_run_has_the_same_bits_in_every_group_that_has_a_device_a_run(tmp_path):
    jobs = [job(0), job(1), job(2)]
    for size in (1, 2, 3):
        train(tmp_path / str(size), jobs, group_size=size)
        assert [prints(tmp_path / str(size), seed) for seed in range(3)] == [
            prints(tmp_path / "1", seed) for seed in range(3)
        ]


def test_runs_that_share_a_device_agree_to_a_tolerance(tmp_path):
    last = []
    jobs = [job(seed) for seed in range(5)]  # on four devices, of which only one divides five
    for size in (1, 5):
        plan = train(tmp_path / str(size), jobs, group_size=size)
        with SnapshotIndex(plan.folder / "alone" / "seed2" / "snapshots", read_only=True) as index:
            last.append(index.load(STEPS))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *last)


def test_a_finished_run_is_left_alone_and_more_seeds_are_added(tmp_path):
    train(tmp_path, [job(0)])
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "fits").rglob("*") if p.is_file()}
    train(tmp_path, [job(0), job(1)])
    assert all(p.stat().st_mtime_ns == time for p, time in before.items())
    assert set(prints(tmp_path, 1)) == {0, 12, 24}


@pytest.mark.parametrize(
    ("broken", "step", "metric"),
    [({"weight": 3e38}, 0, "gradient_norm"), ({"learning_rate": float("inf")}, 1, "ce")],
)
def test_a_run_that_goes_non_finite_is_recorded_and_the_other_goes_on(tmp_path, broken, step, metric):
    train(tmp_path, [job(0), job(1, **broken)], group_size=2)
    failure = json.loads((tmp_path / "fits/alone/seed1/failure.json").read_text())
    assert failure == {"fit": "alone", "run": "seed1", "step": step, "metric": metric}
    assert set(prints(tmp_path, 0)) == {0, 12, 24}
    assert set(prints(tmp_path, 1)) == {0}
    assert fits.is_finished(tmp_path / "fits/alone/seed1", STEPS)


def test_a_group_that_failed_as_a_whole_is_not_trained_on(tmp_path):
    train(tmp_path, [job(0, weight=3e38), job(1, weight=3e38)], group_size=2, stop_after=STEPS)  # no stop on the way
    assert all((tmp_path / f"fits/alone/seed{seed}/failure.json").exists() for seed in (0, 1))
    plan = plan_in(tmp_path)
    with Progress({"alone": STEPS}, {"alone": "mlp"}) as progress, Logbook(tmp_path) as logbook:
        fits.train([job(2, weight=3e38)], plan, progress, logbook)
        assert 0 < progress._step < STEPS and progress.eta_seconds() == (0, [])


def test_a_stop_in_the_last_chunk_of_a_group_keeps_the_next_from_starting(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, [job(0), job(1)], stop_after=STEPS, group_size=1)
    assert prints(tmp_path).keys() == {0, 12, 24} and not (tmp_path / "fits/alone/seed1").exists()


def test_a_run_whose_validation_answers_are_not_finite_is_recorded(tmp_path):
    def validate(variables):
        if not np.array_equal(variables["params"]["a"], first):
            raise FloatingPointError
        return {"loss": 0.5}

    first = np.asarray(
        network().init(jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0), {})["params"]["a"]
    )
    train(tmp_path, [job(0)], validate=validate)
    failure = json.loads((tmp_path / "fits/alone/seed0/failure.json").read_text())
    assert (failure["step"], failure["metric"]) == (12, "validation")
    assert set(prints(tmp_path)) == {0}


def test_runs_that_stopped_together_go_on_together(tmp_path):
    jobs = [job(0), job(1), job(2)]
    train(tmp_path / "whole", jobs, group_size=2)
    with pytest.raises(Stopped):
        train(tmp_path / "cut", jobs[1:], stop_after=8, group_size=2)
    train(tmp_path / "cut", jobs, group_size=2)  # run 0 is new; 1 and 2 resume as a pair
    steps = [
        step
        for run, split, step, metric in curve(tmp_path / "cut")
        if (run, split, metric) == ("alone/seed2", "train", "ce")
    ]
    assert len(steps) == len(set(steps)) and prints(tmp_path / "cut", 2).keys() == {0, 12, 24}


def test_one_compilation_serves_every_run_and_chunk_length(tmp_path):
    train(tmp_path / "warm", [job(0)])
    before = train_chunk._cache_size()
    train(tmp_path / "again", [job(3), job(4, weight=0.5)])
    assert train_chunk._cache_size() == before


def test_another_layout_is_announced(tmp_path, capsys):
    jobs = [job(seed) for seed in range(5)]
    with pytest.raises(Stopped):
        train(tmp_path, jobs, stop_after=8, group_size=5)
    train(tmp_path, jobs, group_size=1)
    assert "the last bits may differ" in capsys.readouterr().out


def test_a_new_run_does_not_throw_away_what_others_have_done(tmp_path):
    jobs = [job(0), job(1), job(2)]
    with pytest.raises(Stopped):
        train(tmp_path, jobs[1:], stop_after=8, group_size=3)
    train(tmp_path, jobs, group_size=3)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [x["step"] for x in lines if (x["run"], x["split"], x["metric"]) == ("alone/seed2", "train", "ce")]
    assert steps == sorted(set(steps))


def test_a_damaged_state_is_named_and_not_used(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, [job(0)], stop_after=8)
    for step in (tmp_path / "fits/alone/seed0/state").iterdir():
        biggest = max(step.rglob("d/*"), key=lambda path: path.stat().st_size)
        content = bytearray(biggest.read_bytes())
        content[len(content) // 2] ^= 1
        biggest.write_bytes(bytes(content))
    with pytest.raises(SnapshotError, match="seed0/state"):
        train(tmp_path, [job(0)])


def test_a_run_has_the_same_windows_in_any_group_and_its_own_order_in_them(tmp_path):
    train(tmp_path / "one", [job(1)], window=24)
    train(tmp_path / "three", [job(0), job(1), job(2)], group_size=3, window=24)
    assert prints(tmp_path / "one", 1) == prints(tmp_path / "three", 1)
    assert prints(tmp_path / "three", 0) != prints(tmp_path / "three", 1)


def test_a_group_of_others_goes_on_with_the_windows_of_the_step(tmp_path):
    jobs = [job(0), job(1)]
    train(tmp_path / "whole", jobs, window=24)
    with pytest.raises(Stopped):
        train(tmp_path / "cut", jobs, stop_after=13, group_size=2, window=24)
    train(tmp_path / "cut", jobs, group_size=1, window=24)
    for seed in (0, 1):
        assert prints(tmp_path / "cut", seed) == prints(tmp_path / "whole", seed)


def test_chunks_never_cross_a_window(tmp_path):
    chunks = list(fits._chunks(0, [job(0)], plan_in(tmp_path, window=24)))
    assert chunks[0] == (0, 3) and chunks[-1][1] == STEPS  # three steps a window, chunks of up to four
    assert all(start // 3 == (stop - 1) // 3 for start, stop in chunks)


def test_a_state_saved_for_other_windows_is_named_and_not_used(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, [job(0)], stop_after=8, window=24)
    with pytest.raises(SnapshotError, match=r"seed0/state, step \d+: found the iterator state of .*'window': 24"):
        train(tmp_path, [job(0)], window=32)
    with pytest.raises(SnapshotError, match=r"seed0/state, step \d+: found the state of an iterator"):
        train(tmp_path, [job(0)])


def test_stored_answers_are_read_at_the_rows_of_the_whole_set(tmp_path):
    data = plan_in(tmp_path, window=24).data
    logits_NxK = np.stack([data["x"][:, 1], data["x"][:, 2]], axis=1)  # a teacher that knows something else
    live = Model(NETWORK.init, lambda params, state, batch, *, train, key: (Outputs(batch["x"][:, 1:], {}), state))
    loss = from_config({"kl": {"fn": "softened_kl", "weight": 1.0}})

    def last(name, teacher, taught):
        plan = plan_in(tmp_path / name, window=24)
        plan = plan._replace(arch=plan.arch._replace(teacher=teacher))
        (tmp_path / name).mkdir()
        with Progress({"alone": STEPS}, {"alone": "mlp"}) as progress, Logbook(tmp_path / name) as logbook:
            fits.train([job(0)._replace(loss=loss, teachers=(taught,))], plan, progress, logbook)
        with SnapshotIndex(plan.folder / "alone" / "seed0" / "snapshots", read_only=True) as index:
            return np.asarray(index.load(STEPS)["params"]["a"])

    asked = last("live", live, {"params": {}})
    np.testing.assert_allclose(last("stored", table(), logits_NxK), asked, atol=1e-5)
    other = last("rolled", table(), np.roll(logits_NxK, 1, axis=0))
    assert abs(other - asked).max() > 1e-2
