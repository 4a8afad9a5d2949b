"""Runs in lockstep, several steps per call: the loop around the training step, the data orders, the guard.

The guard freezes a run that goes non-finite, while the others go on.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kdib.losses import LossSpec, Mean
from kdib.models.base import Variables
from kdib.step import METRICS, ORDER_STREAM, VIEW_STREAM, Architecture, TrainState, gradients, updated
from kdib.tasks.base import cut


class Health(NamedTuple):
    """Where a run went non-finite: `step` (-1 while it is finite) and `metric`, an index into `checked_names`."""

    step: jax.Array
    metric: jax.Array


class Population(NamedTuple):
    """R runs in lockstep: every leaf has a leading axis of R, sharded over the devices."""

    state: TrainState
    health: Health


class Order(NamedTuple):
    """The batches of an epoch: `rows` [R, b, B] int32 and, with buckets, the `bucket` [R, b] int32 of each batch."""

    rows: jax.Array
    bucket: jax.Array | None = None


def checked_names(metrics: Mapping[str, Any]) -> list[str]:
    """Names of what must stay finite for a run to go on: every metric of its steps, and the resulting parameters."""
    return sorted([*metrics, "parameters"])


def runs_mesh(n_runs: int) -> Mesh:
    """A mesh of the devices that R runs are divided over evenly: the largest number of devices that divides R.

    A single run on a CPU with several devices is computed twice, on two of them, which takes cores that would be idle.
    A program for one device is compiled differently, and the last bits of the run would differ from those in a group.
    """
    devices = jax.local_devices()
    size = max(n for n in range(1, len(devices) + 1) if n_runs % n == 0)
    if n_runs == 1 and jax.default_backend() == "cpu":
        size = min(2, len(devices))
    return Mesh(np.array(devices[:size]), ("runs",))


def run_sharding(n_runs: int) -> NamedSharding:
    """The sharding of an axis of R runs on `runs_mesh`."""
    mesh = runs_mesh(n_runs)
    return NamedSharding(mesh, PartitionSpec("runs") if n_runs % mesh.size == 0 else PartitionSpec())


def healthy(n_runs: int) -> Health:
    """The Health of R runs that have not failed."""
    return Health(step=jnp.full((n_runs,), -1, jnp.int32), metric=jnp.zeros((n_runs,), jnp.int32))


def epoch_order(key: jax.Array, epoch: jax.Array, n_examples: int) -> jax.Array:
    """The order [N] in which a run sees the examples in `epoch`: a pure function, so resuming needs no iterator."""
    return jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, ORDER_STREAM), epoch), n_examples)


def _view_key(key: jax.Array, epoch: jax.Array) -> jax.Array:
    """The key of a run's augmentations in `epoch`; they fold in an example's id, so that a view can be replayed."""
    return jax.random.fold_in(jax.random.fold_in(key, VIEW_STREAM), epoch)


def bucketed_order(
    key: jax.Array, epoch: jax.Array, length_N: jax.Array, *, edges: tuple[int, ...], batch_size: int
) -> tuple[jax.Array, jax.Array]:
    """An order of `epoch` whose batches hold examples of similar length, and the bucket of every batch.

    Bucket i holds lengths up to edges[i]; the last one holds all longer examples. The examples left out because they
    fill no batch, and the bucket of each batch, are the same for every run, so that runs in lockstep take the same
    branch. Which examples share a batch, and the order of the batches within a bucket, differ from run to run.

    Returns:
      rows [N // B, B] int32, and the bucket [N // B] int32 of each batch: that of its longest example.
    """
    n_batches = length_N.shape[0] // batch_size
    shared = jax.random.fold_in(jax.random.key(ORDER_STREAM), epoch)
    kept = jax.random.permutation(shared, length_N.shape[0])[: n_batches * batch_size]
    bucket = jnp.searchsorted(jnp.array(edges), length_N[kept])
    mine = epoch_order(key, epoch, len(kept))
    by_bucket = mine[jnp.argsort(bucket[mine], stable=True)]
    turn = jax.random.permutation(jax.random.fold_in(shared, 1), n_batches)
    rows_bxB = kept[by_bucket].reshape(n_batches, batch_size)[turn]
    return rows_bxB, bucket[by_bucket].reshape(n_batches, batch_size)[turn, -1].astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("batch_size", "edges"))
def draw_order(
    key_R: jax.Array, epoch: jax.Array, data: Mapping[str, jax.Array], *, batch_size: int, edges: tuple[int, ...] = ()
) -> Order:
    """The Order of every run in `epoch`, drawn by the keys of their states; call it once per epoch, for it sorts.

    Examples that fill no batch are left out. With `edges` the batches are those of `bucketed_order`.
    """
    n_batches = data["label"].shape[0] // batch_size

    def drawn(key, epoch, data):
        if edges:
            return Order(*bucketed_order(key, epoch, data["length"], edges=edges, batch_size=batch_size))
        rows_N = epoch_order(key, epoch, data["label"].shape[0])[: n_batches * batch_size]
        return Order(rows_N.reshape(n_batches, batch_size))

    sharding = run_sharding(key_R.shape[0])
    each_run = jax.vmap(drawn, in_axes=(0, None, None))
    specs = {"in_specs": (sharding.spec, PartitionSpec(), PartitionSpec()), "out_specs": sharding.spec}
    return jax.shard_map(each_run, mesh=sharding.mesh, check_vma=False, **specs)(key_R, epoch, dict(data))


@functools.partial(jax.jit, static_argnames=("arch", "edges"), donate_argnames=("population",))
def train_chunk(
    population: Population,
    teacher_variables: Variables,
    loss: LossSpec,
    data: Mapping[str, jax.Array],
    order: Order,
    start: jax.Array,
    stop: jax.Array,
    answers: jax.Array | None = None,
    *,
    arch: Architecture,
    edges: tuple[int, ...] = (),
) -> tuple[Population, tuple[dict[str, Mean], Health]]:
    """Train R runs from step `start` to step `stop`, in the epoch of `order`; one compilation serves every length.

    The runs are divided over the devices of `runs_mesh(R)`, which do not communicate; a CPU with several cores counts
    as several devices if JAX is told so. The runs share `data`, arrays [N, ...], and the stored teacher outputs
    `answers` [T, N, K] of a `table`.

    A run whose loss or gradient turns non-finite is frozen in its state before that step, and its Health says where.
    The other runs go on. Parameters that overflow after a finite gradient show in the loss of the next step or, after
    the last step, in a check at the end of the call. Checking them in every step would cost as much as the update.

    Metrics are merged over the steps, have a leading axis of R, and exclude the steps of a frozen run. Metrics and
    Health are not donated, unlike the population, so they may be fetched after the next call.

    With `edges`, which must be those of `order`, a batch is cut to the edge of its bucket. Short sentences are then not
    trained on their padding, and the single program holds one step per bucket.

    Raises:
      ValueError: for `edges` with an order without buckets, whose batches would lose words, or for an order with
        buckets without `edges`.
    """
    if (order.bucket is None) == bool(edges):
        raise ValueError(f"an order {'without' if edges else 'with'} buckets does not fit edges={edges}")
    sharding = run_sharding(population.health.step.shape[0])
    every, each = PartitionSpec(), sharding.spec
    advance = jax.shard_map(
        functools.partial(_advance, arch=arch, edges=edges),
        mesh=sharding.mesh,
        in_specs=(each, each, each, every, each, every, every, every),
        out_specs=each,
        check_vma=False,  # the loop's sums start as constants, which do not vary over the devices
    )
    return advance(population, teacher_variables, loss, data, order, start, stop, answers)


def _advance(
    population: Population, teacher_variables, loss: LossSpec, data, order, start, stop, answers, *, arch, edges
):
    """Train the runs of one device."""
    n_runs, n_batches, _ = order.rows.shape
    epoch, first = start // n_batches, start % n_batches
    shared = {} if answers is None else {"answers": answers}

    def learn(run, sums, batch, own, loss):
        if arch.augment is not None:
            batch = arch.augment(_view_key(run.state.key, epoch), batch)
        return _guarded_step(run, sums, batch, {**own, **shared}, loss, arch=arch)

    def at_length(inputs, carry, rows_RxB):
        population, sums = carry
        batch = {name: values[rows_RxB] for name, values in inputs.items()}
        return _vmap_runs(learn)(population, sums, batch, teacher_variables, loss)

    lengths = [*edges, data["tokens"].shape[1]] if edges else []
    branches = [functools.partial(at_length, cut(data, length)) for length in lengths]

    def body(i, carry):
        rows_RxB = order.rows[:, first + i]
        if not edges:
            return at_length(data, carry, rows_RxB)
        return jax.lax.switch(order.bucket[0, first + i], branches, carry, rows_RxB)

    zeros_R = jnp.zeros(n_runs)
    sums = {name: Mean(zeros_R, zeros_R) for name in (*loss, *METRICS)}
    population, sums = jax.lax.fori_loop(0, stop - start, body, (population, sums))
    population = _vmap_runs(functools.partial(_checked, names=checked_names(sums)))(population)
    return population, (sums, population.health)


def _checked(run: Population, *, names: list[str]) -> Population:
    """Check the parameters of one run after its last step."""
    state, health = run
    broken = (health.step < 0) & ~jnp.isfinite(optax.tree.norm(state.params))
    step = jnp.where(broken, state.step - 1, health.step)
    metric = jnp.where(broken, jnp.int32(names.index("parameters")), health.metric)
    return Population(state, Health(step, metric))


def _vmap_runs(function: Callable[..., Any]) -> Callable[..., Any]:
    """`vmap` over the runs of a device; a single run gets no batch axis, because its products are faster without."""

    def mapped(*trees):
        if jax.tree.leaves(trees)[0].shape[0] > 1:
            return jax.vmap(function)(*trees)
        alone = jax.tree.map(lambda leaf: leaf[0], trees)
        return jax.tree.map(lambda leaf: leaf[None], function(*alone))

    return mapped


def _guarded_step(run: Population, sums, batch, teacher_variables, loss, *, arch):
    """Take one step of one run, or leave the run as it is if the step is not finite."""
    state, health = run
    grads, model_state, metrics = gradients(state, batch, teacher_variables, loss, arch=arch)
    known = {name: mean.value for name, mean in metrics.items()} | {"parameters": jnp.float32(0)}
    finite_M = jnp.stack([jnp.isfinite(known[name]) for name in checked_names(metrics)])
    was_well = health.step < 0
    well = was_well & finite_M.all()
    health = Health(
        step=jnp.where(was_well & ~well, state.step, health.step),
        metric=jnp.where(was_well & ~well, jnp.argmin(finite_M).astype(jnp.int32), health.metric),
    )
    # A branch and not `where` between two results, which would keep the old parameters and moments beside the new ones.
    # For an MLP that takes as long as a third of its products. (Under vmap JAX turns the branch into `where`.)
    take = functools.partial(updated, arch=arch)
    state = jax.lax.cond(well, take, lambda state, *_: state, state, grads, model_state)
    sums = jax.tree.map(lambda total, more: total + jnp.where(well, more, jnp.zeros_like(more)), sums, metrics)
    return Population(state, health), sums
