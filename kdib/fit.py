"""The host side of training: groups of runs in lockstep, resuming, the schedule of calls, snapshots."""

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from kdib.config import Train
from kdib.feed import Whole, Windows, steps_per_window
from kdib.logbook import Logbook
from kdib.losses import LossSpec
from kdib.models.base import Variables
from kdib.optimizer import with_learning_rate
from kdib.population import Population, checked_names, draw_order, healthy, run_sharding, train_chunk
from kdib.progress import Progress
from kdib.records import RunSpec, write_json
from kdib.snapshots import SnapshotError, SnapshotIndex
from kdib.step import Architecture, TrainState, init_state, model_variables
from kdib.tasks.base import gather
from kdib.workdir import environment

# Folded into the root key: the first two before a run's init and order seeds. Stream 2 is in teaching.py.
INIT_STREAM, RUN_STREAM, WINDOW_STREAM = 0, 1, 3


class Job(NamedTuple):
    """One run and what it learns from; all jobs of a plan have the same tree structure, so that they stack.

    The run learns from its `teachers` one after another, each for an equal share of its steps. A teacher is the
    variables of a network or, for a `table`, its stored logits [N, K] on the host; runs with the same table share it.
    """

    run: RunSpec
    teachers: tuple[Any, ...]
    loss: LossSpec
    learning_rate: float


class Plan(NamedTuple):
    """Everything that runs trained in lockstep share: the runs of one fit, or of fits that differ in leaves only."""

    folder: Path  # parent of the fits: holds <fit>/<run>
    arch: Architecture
    recipe: Train
    root: jax.Array  # the study's root key
    data: Mapping[str, Any]  # the training inputs [N, ...], on the device or, with recipe.window, on the host
    snapshot_steps: tuple[int, ...]
    edges: tuple[int, ...]  # of the length buckets, without the full length
    validate: Callable[[Variables], dict[str, float]]
    meta: Mapping[str, Any]  # written with every snapshot, such as the digest of the vocabulary


class Stopped(Exception):
    """The study was asked to stop; its state is saved."""


class _Files(NamedTuple):
    """The folder of a run, with its open snapshots and states."""

    folder: Path
    snapshots: SnapshotIndex  # the model's variables, saved on the schedule
    states: SnapshotIndex  # the whole TrainState; the last two are kept


def train(jobs: Sequence[Job], plan: Plan, progress: Progress, logbook: Logbook) -> None:
    """Train the jobs that are not finished, in groups of `recipe.group_size`.

    An interrupted group resumes from the last step that all of its runs have saved. A group contains only runs whose
    latest saved step is the same, because otherwise the runs that are ahead would lose work.

    Raises:
      Stopped: when `progress` was asked to stop and the runs under way have been saved.
    """
    todo = [job for job in jobs if not is_finished(folder_of(job.run, plan), plan.recipe.steps)]
    saved = {job.run: _saved_step(folder_of(job.run, plan)) for job in todo}
    todo.sort(key=lambda job: -saved[job.run])
    alike = [list(same_step) for _, same_step in itertools.groupby(todo, lambda job: saved[job.run])]
    for group in [group for same_step in alike for group in _groups(same_step, plan.recipe.group_size)]:
        if progress.stop_requested:  # in the last chunk of the group before
            raise Stopped
        with contextlib.ExitStack() as stack_:
            _train_group(group, [_open(plan, job, stack_) for job in group], stack_, plan, progress, logbook)
        for job in group:  # its last snapshot marks the run as finished
            discard_state(folder_of(job.run, plan))


def _groups(jobs: Sequence[Job], size: int) -> list[Sequence[Job]]:
    """As few groups of at most `size` as possible, of nearly equal size: each new size of a group compiles again."""
    n = -(-len(jobs) // size)
    cuts = [len(jobs) * i // n for i in range(n + 1)] if n else [0]
    return [jobs[first:stop] for first, stop in itertools.pairwise(cuts)]


def folder_of(run: RunSpec, plan: Plan) -> Path:
    """The folder of a run of the plan."""
    return plan.folder / run.fit / run.name


def is_finished(folder: Path, last_step: int) -> bool:
    """Whether the run in `folder` has its last snapshot, or a record that it went non-finite."""
    if (folder / "failure.json").exists():
        return True
    if not (folder / "snapshots").exists():
        return False
    with SnapshotIndex(folder / "snapshots", read_only=True) as index:
        return last_step in index.steps()


def discard_state(folder: Path) -> None:
    """Remove the resumable state of a finished run; a crash after its last snapshot may have left it behind."""
    shutil.rmtree(folder / "state", ignore_errors=True)


def _saved_step(folder: Path) -> int:
    """The latest step that the run can resume from, or -1."""
    if not (folder / "state").exists():
        return -1
    with SnapshotIndex(folder / "state", read_only=True) as index:
        return max(index.steps(), default=-1)


def stack(trees: Sequence[Any]) -> Any:
    """Stack R trees of the same structure into one tree with a leading axis of R."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any, n: int) -> list[Any]:
    """The n trees of a stack."""
    return [jax.tree.map(lambda leaf, r=r: leaf[r], tree) for r in range(n)]


def _open(plan: Plan, job: Job, stack_: contextlib.ExitStack) -> _Files:
    folder = folder_of(job.run, plan)
    return _Files(
        folder,
        stack_.enter_context(SnapshotIndex(folder / "snapshots")),
        stack_.enter_context(SnapshotIndex(folder / "state", keep=2)),
    )


def _train_group(jobs: Sequence[Job], files: Sequence[_Files], stack_, plan: Plan, progress: Progress, logbook):
    sharding = run_sharding(len(jobs))
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    tables = _tables(jobs)
    answers = jax.device_put(np.stack(tables), everywhere) if tables else None
    states, first_step = _restore_or_init(jobs, files, tables, plan, progress)
    population, loss = Population(states, healthy(len(jobs))), stack([job.loss for job in jobs])
    population, loss = jax.device_put((population, loss), sharding)
    feed = stack_.enter_context(contextlib.closing(_feed(plan, everywhere)))
    if first_step == 0:
        _save(0, population, feed, jobs, files, plan, progress, logbook)
    else:
        _resume(feed, first_step, files)
    pending = None
    progress.start_group([(job.run.fit, job.run.name) for job in jobs], first_step)
    phases, teacher_variables = None, None
    keys = jax.device_put(jnp.copy(population.state.key), sharding)  # those of the population are donated
    for start, stop, data, order in _ordered(_chunks(first_step, jobs, plan), keys, feed, plan):
        previous_phases, phases = phases, _phases(start, jobs, plan)
        if phases != previous_phases:  # the teachers' variables stay on the devices while they teach
            teacher_variables = jax.device_put(_teachers(phases, jobs, tables), sharding)
        span = jnp.int32(start), jnp.int32(stop)
        population, report = train_chunk(
            population, teacher_variables, loss, data, order, *span, answers, arch=plan.arch, edges=plan.edges
        )
        if pending:  # the previous chunk's metrics are fetched while this one runs
            _log(*pending, jobs, files, plan, progress, logbook)
        pending = (stop, report)
        stopping = progress.stop_requested and stop < plan.recipe.steps
        if stop in plan.snapshot_steps or stop % plan.recipe.save_every == 0 or stopping:
            # Metrics are logged before the state is saved; otherwise the log of a resumed run could have a gap.
            _log(*pending, jobs, files, plan, progress, logbook)
            pending = None
            _save(stop, population, feed, jobs, files, plan, progress, logbook)
        if all((run_files.folder / "failure.json").exists() for run_files in files):
            progress.abandon_group(plan.recipe.steps)
            return
        if stopping:
            progress.note("stopped as requested; everything up to this step is saved")
            raise Stopped


def _ordered(chunks: Iterable[tuple[int, int]], keys: jax.Array, feed: Whole | Windows, plan: Plan):
    """(start, stop, data, order) of every call; the order is drawn once per epoch or window, because it sorts."""
    batches = {"batch_size": plan.recipe.batch_size, "edges": plan.edges}
    steps, epoch = steps_per_window(len(plan.data["label"]), plan.recipe.batch_size, plan.recipe.window), None
    for start, stop in chunks:
        data = feed.at(start)
        previous_epoch, epoch = epoch, start // steps
        if epoch != previous_epoch:
            order = draw_order(keys, jnp.int32(epoch), data, **batches)
        yield start, stop, data, order


def _tables(jobs: Sequence[Job]) -> list[np.ndarray]:
    """The stored teacher logits [N, K] that a group learns from, each table once."""
    return list({id(t): t for job in jobs for t in job.teachers if isinstance(t, np.ndarray)}.values())


def _phases(step: int, jobs: Sequence[Job], plan: Plan) -> list[int]:
    """The index of the teacher that each run learns from at `step`."""
    return [step * len(job.teachers) // plan.recipe.steps for job in jobs]


def _teachers(phases: Sequence[int], jobs: Sequence[Job], tables: Sequence[np.ndarray]) -> Variables:
    """The variables of every run's teacher, stacked; for a table its index, because the runs share the logits."""
    return stack([_own(job.teachers[phase], tables) for phase, job in zip(phases, jobs, strict=True)])


def _own(teacher: Any, tables: Sequence[np.ndarray]) -> Variables:
    if not isinstance(teacher, np.ndarray):
        return teacher
    return {"params": {"teacher": jnp.int32([table is teacher for table in tables].index(True))}}


def _chunks(start: int, jobs: Sequence[Job], plan: Plan) -> Iterator[tuple[int, int]]:
    """(start, stop) of every call, never across an epoch, window or change of teacher; a resumed run has the same."""
    recipe, total = plan.recipe, plan.recipe.steps
    steps = steps_per_window(len(plan.data["label"]), recipe.batch_size, recipe.window)
    marks = {*plan.snapshot_steps, total}
    for every in (recipe.chunk, recipe.save_every, steps):
        marks.update(range(0, total, every))
    for n in {len(job.teachers) for job in jobs}:
        marks.update(-(-phase * total // n) for phase in range(n))
    return itertools.pairwise(sorted(mark for mark in marks if mark >= start))


def _restore_or_init(jobs, files: Sequence[_Files], tables, plan: Plan, progress) -> tuple[TrainState, int]:
    first = [_first_state(job, tables, plan) for job in jobs]
    common = set.intersection(*(set(run_files.states.steps()) for run_files in files))
    if not common:
        return stack(first), 0
    step = max(common)
    for run_files in files:
        saved = run_files.states.meta(step)["layout"]
        changed = {
            name: f"{saved.get(name, 'not recorded')} -> {value}"
            for name, value in layout(len(jobs)).items()
            if saved.get(name) != value
        }
        if changed:
            progress.note(f"{run_files.folder.name}: {changed}: the last bits may differ from an uninterrupted run")
    states = [run_files.states.load(step, state) for run_files, state in zip(files, first, strict=True)]
    return stack(states), step


def _feed(plan: Plan, sharding: NamedSharding) -> Whole | Windows:
    def put(data):
        return jax.device_put(dict(data), sharding)

    recipe = plan.recipe
    if not recipe.window:
        return Whole(plan.data, put)
    seed = int(jax.random.bits(jax.random.fold_in(plan.root, WINDOW_STREAM)))  # the same for every run of a study
    return Windows(plan.data, put, window=recipe.window, batch_size=recipe.batch_size, seed=seed)


def _resume(feed: Whole | Windows, step: int, files: Sequence[_Files]) -> None:
    for run_files in files:
        try:
            feed.resume(step, run_files.states.meta(step).get("feed", {}))
        except ValueError as error:
            raise SnapshotError(f"{run_files.states.path}, step {step}: {error}") from error


def layout(n_runs: int) -> dict[str, str]:
    """What the last bits of a run depend on, besides its own seeds."""
    devices = run_sharding(n_runs).mesh.size
    shared = {"runs_on_a_device": str(max(1, n_runs // devices)), "devices": "one" if devices == 1 else "several"}
    return {**shared, "backend": jax.default_backend(), **environment()}


def _first_state(job: Job, tables: Sequence[np.ndarray], plan: Plan) -> TrainState:
    init_key = jax.random.fold_in(jax.random.fold_in(plan.root, INIT_STREAM), job.run.init)
    run_key = jax.random.fold_in(jax.random.fold_in(plan.root, RUN_STREAM), job.run.order)
    answers = {"answers": np.stack([table[:1] for table in tables])} if tables else {}  # gives the heads their shapes
    teacher_variables = {**_own(job.teachers[0], tables), **answers}
    state = _jitted_init(init_key, run_key, gather(plan.data, slice(0, 1)), teacher_variables, arch=plan.arch)
    return state._replace(opt_state=with_learning_rate(state.opt_state, job.learning_rate))


_jitted_init = jax.jit(init_state, static_argnames="arch")


def _save(step, population: Population, feed, jobs, files: Sequence[_Files], plan: Plan, progress, logbook) -> None:
    """Save the snapshots that are due, with their validation metrics; then the states, which mark the step as done."""
    states = unstack(jax.device_put(population.state, jax.local_devices()[0]), len(jobs))
    for job, run_files, state in zip(jobs, files, states, strict=True):
        if (run_files.folder / "failure.json").exists():
            continue
        if step in plan.snapshot_steps:
            variables = model_variables(state)
            try:
                metrics = plan.validate(variables)
            except FloatingPointError:
                _fail(step, "validation", job, run_files, plan, progress)
                continue
            run_files.snapshots.save(step, variables, metrics=metrics, meta=plan.meta)
            logbook.write(job.run, step, "validation", metrics)
    for run_files, state in zip(files, states, strict=True):
        if step < plan.recipe.steps:
            meta = {"layout": layout(len(jobs)), "feed": feed.state(step)}
            run_files.states.save(step, state, metrics={}, meta=meta)


def _log(step: int, report, jobs, files, plan: Plan, progress: Progress, logbook: Logbook) -> None:
    """Fetch and log a chunk's metrics, and record every run that went non-finite."""
    metrics, health = jax.device_get(report)
    progress.reached(step)
    for r, (job, run_files) in enumerate(zip(jobs, files, strict=True)):
        if health.step[r] < 0:
            values = {name: float(mean.sum[r] / mean.count[r]) for name, mean in metrics.items()}
            logbook.write(job.run, step, "train", values)
        elif not (run_files.folder / "failure.json").exists():
            _fail(int(health.step[r]), checked_names(metrics)[health.metric[r]], job, run_files, plan, progress)


def _fail(step: int, metric: str, job: Job, run_files: _Files, plan: Plan, progress: Progress) -> None:
    """Record permanently that a run went non-finite, in which metric and at which step."""
    record = {"fit": job.run.fit, "run": job.run.name, "step": step, "metric": metric}
    write_json(run_files.folder / "failure.json", record)
    progress.note(
        f"{job.run.fit}/{job.run.name} went non-finite in {metric} at step {step}; it is left out from now on"
    )
