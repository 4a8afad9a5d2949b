"""The host side of one fit: groups of runs in lockstep, resume, cadence, snapshots."""

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
from kdib.population import Population, checked_names, divided, draw_order, healthy, train_chunk
from kdib.progress import Progress
from kdib.records import RunSpec, write_json
from kdib.snapshots import SnapshotError, SnapshotIndex
from kdib.step import Architecture, TrainState, init_state, model_variables
from kdib.tasks.base import gather
from kdib.workdir import environment

# What the root key is folded with: the first two before a run's init and order seeds; teaching.py has 2.
INIT_STREAM, RUN_STREAM, WINDOW_STREAM = 0, 1, 3


class Job(NamedTuple):
    """One run and what it learns from; equal in structure for all runs of a plan, so that they stack.

    It learns from its `teachers` one after another, each for an equal share of its steps: the variables of a network,
    or of a `table` stored logits [N, K] on the host, which runs that share them hold once.
    """

    run: RunSpec
    teachers: tuple[Any, ...]
    loss: LossSpec
    learning_rate: float


class Plan(NamedTuple):
    """What runs that may be trained in lockstep share: those of one fit, or of several that differ in leaves only."""

    folder: Path  # of the fits: holds <fit>/<run>
    arch: Architecture
    recipe: Train
    root: jax.Array  # the study's root key
    data: Mapping[str, Any]  # the training inputs [N, ...]: on the device, or with recipe.window on the host
    snapshot_steps: tuple[int, ...]
    edges: tuple[int, ...]  # of the buckets of lengths, the full length left out
    validate: Callable[[Variables], dict[str, float]]
    meta: Mapping[str, Any]  # written with every snapshot, such as the digest of the vocabulary


class Stopped(Exception):
    """The study was asked to stop, and its state is saved."""


class _Files(NamedTuple):
    """Where a run keeps what it must not lose."""

    folder: Path
    snapshots: SnapshotIndex  # the model, by the schedule
    states: SnapshotIndex  # the whole TrainState, the last two


def train(jobs: Sequence[Job], plan: Plan, progress: Progress, logbook: Logbook) -> None:
    """Trains the jobs that are not finished, in groups of `recipe.group_size`.

    A group that was interrupted goes on from the last step that all of its runs have saved. Only runs that were saved
    last at the same step are in one group, for others would throw away what they have done.

    Raises:
      Stopped: when `progress` was asked to stop and the runs under way have been saved.
    """
    todo = [job for job in jobs if not is_finished(folder_of(job.run, plan), plan.recipe.steps)]
    saved = {job.run: _saved_step(folder_of(job.run, plan)) for job in todo}
    todo.sort(key=lambda job: -saved[job.run])
    together = [list(jobs) for _, jobs in itertools.groupby(todo, lambda job: saved[job.run])]
    for group in [group for jobs in together for group in _groups(jobs, plan.recipe.group_size)]:
        with contextlib.ExitStack() as stack_:
            _train_group(group, [_open(plan, job, stack_) for job in group], stack_, plan, progress, logbook)
        for job in group:  # the last snapshot says that the run is finished
            discard_state(folder_of(job.run, plan))


def _groups(jobs: Sequence[Job], size: int) -> list[Sequence[Job]]:
    """As few groups of at most `size` as can be, of sizes as equal as can be: another number of runs compiles again."""
    n = -(-len(jobs) // size)
    cuts = [len(jobs) * i // n for i in range(n + 1)] if n else [0]
    return [jobs[first:stop] for first, stop in itertools.pairwise(cuts)]


def folder_of(run: RunSpec, plan: Plan) -> Path:
    """Where a run of the plan keeps its files."""
    return plan.folder / run.fit / run.name


def is_finished(folder: Path, last_step: int) -> bool:
    """Whether the run in `folder` has its last snapshot, or a record of where it went non-finite."""
    if (folder / "failure.json").exists():
        return True
    if not (folder / "snapshots").exists():
        return False
    with SnapshotIndex(folder / "snapshots", read_only=True) as index:
        return last_step in index.steps()


def discard_state(folder: Path) -> None:
    """Removes the resumable state of a finished run, which a crash between its last two acts may have left."""
    shutil.rmtree(folder / "state", ignore_errors=True)


def _saved_step(folder: Path) -> int:
    """The latest step that can be resumed from; -1 for none."""
    if not (folder / "state").exists():
        return -1
    with SnapshotIndex(folder / "state", read_only=True) as index:
        return max(index.steps(), default=-1)


def stack(trees: Sequence[Any]) -> Any:
    """R equal trees -> one tree with a leading axis of R."""
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
    runs = divided(len(jobs))
    everywhere = NamedSharding(runs.mesh, PartitionSpec())
    tables = _tables(jobs)
    answers = jax.device_put(np.stack(tables), everywhere) if tables else None
    states, first_step = _restore_or_init(jobs, files, tables, plan, progress)
    population, loss = jax.device_put((Population(states, healthy(len(jobs))), stack([job.loss for job in jobs])), runs)
    feed = stack_.enter_context(contextlib.closing(_feed(plan, everywhere)))
    if first_step == 0:
        _save(0, population, feed, jobs, files, plan, progress, logbook)
    else:
        _resume(feed, first_step, files)
    pending = None
    progress.start_group([(job.run.fit, job.run.name) for job in jobs], first_step)
    phases, teacher_variables = None, None
    keys = jax.device_put(jnp.copy(population.state.key), runs)  # the population's own are given away
    for start, stop, data, order in _ordered(_chunks(first_step, jobs, plan), keys, feed, plan):
        if phases != (phases := _phases(start, jobs, plan)):  # held on the devices for as long as they teach
            teacher_variables = jax.device_put(_teachers(phases, jobs, tables), runs)
        span = jnp.int32(start), jnp.int32(stop)
        population, report = train_chunk(
            population, teacher_variables, loss, data, order, *span, answers, arch=plan.arch, edges=plan.edges
        )
        if pending:  # the previous chunk's metrics are fetched while this one runs
            _log(*pending, jobs, files, plan, progress, logbook)
        pending = (stop, report)
        stopping = progress.stop_requested and stop < plan.recipe.steps
        if stop in plan.snapshot_steps or stop % plan.recipe.save_every == 0 or stopping:
            # What is saved must not outrun what is logged, or the log of a resumed run would have a gap.
            _log(*pending, jobs, files, plan, progress, logbook)
            pending = None
            _save(stop, population, feed, jobs, files, plan, progress, logbook)
        if stopping:
            progress.note("stopped as asked; everything up to here is saved")
            raise Stopped


def _ordered(chunks: Iterable[tuple[int, int]], keys: jax.Array, feed: Whole | Windows, plan: Plan):
    """(start, stop, data, order) of every call; what is sorted is sorted once an epoch or window."""
    batches = {"batch_size": plan.recipe.batch_size, "edges": plan.edges}
    steps, epoch = steps_per_window(len(plan.data["label"]), plan.recipe.batch_size, plan.recipe.window), None
    for start, stop in chunks:
        data = feed.at(start)
        if epoch != (epoch := start // steps):
            order = draw_order(keys, jnp.int32(epoch), data, **batches)
        yield start, stop, data, order


def _tables(jobs: Sequence[Job]) -> list[np.ndarray]:
    """The stored answers [N, K] that a group learns from, each once."""
    return list({id(t): t for job in jobs for t in job.teachers if isinstance(t, np.ndarray)}.values())


def _phases(step: int, jobs: Sequence[Job], plan: Plan) -> list[int]:
    """Which of its teachers each run learns from at `step`."""
    return [step * len(job.teachers) // plan.recipe.steps for job in jobs]


def _teachers(phases: Sequence[int], jobs: Sequence[Job], tables: Sequence[np.ndarray]) -> Variables:
    """The variables of every run's teacher, stacked; of a table without its answers, which the runs share."""
    return stack([_own(job.teachers[phase], tables) for phase, job in zip(phases, jobs, strict=True)])


def _own(teacher: Any, tables: Sequence[np.ndarray]) -> Variables:
    if not isinstance(teacher, np.ndarray):
        return teacher
    return {"params": {"teacher": jnp.int32([table is teacher for table in tables].index(True))}}


def _chunks(start: int, jobs: Sequence[Job], plan: Plan) -> Iterator[tuple[int, int]]:
    """(start, stop) of every call: never across an epoch, window or change of teacher; the same cuts when resumed."""
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
            progress.note(f"{run_files.folder.name}: {changed}: the last bits may differ from an undisturbed run")
    states = [run_files.states.load(step, state) for run_files, state in zip(files, first, strict=True)]
    return stack(states), step


def _feed(plan: Plan, sharding: NamedSharding) -> Whole | Windows:
    def put(data):
        return jax.device_put(dict(data), sharding)

    recipe = plan.recipe
    if not recipe.window:
        return Whole(plan.data, put)
    seed = int(jax.random.bits(jax.random.fold_in(plan.root, WINDOW_STREAM)))  # every run of a study has these windows
    return Windows(plan.data, put, window=recipe.window, batch_size=recipe.batch_size, seed=seed)


def _resume(feed: Whole | Windows, step: int, files: Sequence[_Files]) -> None:
    for run_files in files:
        try:
            feed.resume(step, run_files.states.meta(step).get("feed", {}))
        except ValueError as error:
            raise SnapshotError(f"{run_files.states.path}, step {step}: {error}") from error


def layout(n_runs: int) -> dict[str, str]:
    """What the last bits of a run depend on beside its own seeds."""
    shared = max(1, n_runs // divided(n_runs).mesh.size)
    return {"runs_on_a_device": str(shared), "backend": jax.default_backend(), **environment()}


def _first_state(job: Job, tables: Sequence[np.ndarray], plan: Plan) -> TrainState:
    init_key = jax.random.fold_in(jax.random.fold_in(plan.root, INIT_STREAM), job.run.init)
    run_key = jax.random.fold_in(jax.random.fold_in(plan.root, RUN_STREAM), job.run.order)
    answers = {"answers": np.stack([table[:1] for table in tables])} if tables else {}  # for the shapes of heads
    teacher_variables = {**_own(job.teachers[0], tables), **answers}
    state = _jitted_init(init_key, run_key, gather(plan.data, slice(0, 1)), teacher_variables, arch=plan.arch)
    return state._replace(opt_state=with_learning_rate(state.opt_state, job.learning_rate))


_jitted_init = jax.jit(init_state, static_argnames="arch")


def _save(step, population: Population, feed, jobs, files: Sequence[_Files], plan: Plan, progress, logbook) -> None:
    """The snapshots that are due, with their validation metrics; then the states, which say that this step is done."""
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
    """Fetches a chunk's metrics, writes them, and records a run that went non-finite."""
    metrics, health = jax.device_get(report)
    progress.reached(step)
    for r, (job, run_files) in enumerate(zip(jobs, files, strict=True)):
        if health.step[r] < 0:
            values = {name: float(mean.sum[r] / mean.count[r]) for name, mean in metrics.items()}
            logbook.write(job.run, step, "train", values)
        elif not (run_files.folder / "failure.json").exists():
            _fail(int(health.step[r]), checked_names(metrics)[health.metric[r]], job, run_files, plan, progress)


def _fail(step: int, metric: str, job: Job, run_files: _Files, plan: Plan, progress: Progress) -> None:
    """Records for good that a run went non-finite, in what and where."""
    record = {"fit": job.run.fit, "run": job.run.name, "step": step, "metric": metric}
    write_json(run_files.folder / "failure.json", record)
    progress.note(
        f"{job.run.fit}/{job.run.name} went non-finite in {metric} at step {step}; it is left out from here on"
    )
