"""The compiled program of the property `basins`: loss and error rate at weighted sums of networks' parameters."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kdib.models.base import Model, Variables, split
from kdib.properties.base import Evidence, evenly
from kdib.properties.basins.batchnorm import momenta, recalibrated
from kdib.properties.basins.interpolation import Answered, batched, combinations, loss_and_error
from kdib.properties.basins.repair import moments, repair
from kdib.tasks.base import Dataset, gather

BATCH, LANGUAGE_BATCH = 250, 50  # examples at a time


class Data(NamedTuple):
    """Batches [n, B, ...] on the devices, and the number of examples in each set.

    `statistics` are the full batches of training examples, for batch-normalization statistics.
    """

    test: dict[str, Any]
    train: dict[str, Any]
    statistics: dict[str, Any]
    n_test: int
    n_train: int


def data_of(evidence: Evidence, n_examples: int) -> Data:
    """At most `n_examples` evenly spaced examples of the first test set and of the training set, on every device.

    Raises:
      ValueError: for evidence without training examples.
    """
    if evidence.train is None:
        raise ValueError("expected evidence with training examples (train), which batch normalization needs; got none")
    test, train = (_some(dataset, n_examples) for dataset in (next(iter(evidence.sets.values())), evidence.train))
    size = LANGUAGE_BATCH if "mask" in train else BATCH
    train_batches = batched(train, size)
    whole = train_batches["counted"].all(axis=1)
    statistics = {name: column[whole] for name, column in train_batches.items()}
    everywhere = NamedSharding(_mesh(), PartitionSpec())
    on_devices = [jax.device_put(batches, everywhere) for batches in (batched(test, size), train_batches, statistics)]
    return Data(on_devices[0], on_devices[1], on_devices[2], len(test["label"]), len(train["label"]))


def _some(dataset: Dataset, n_examples: int) -> dict[str, np.ndarray]:
    return gather(dataset.inputs, evenly(dataset.size, n_examples))


def answers_at(
    networks: Sequence[tuple[Model, Variables]], weights_AxT: np.ndarray, data: Data, *, repaired: bool = False
) -> dict[str, Answered]:
    """Loss and error rate [A] on the "test" and "train" batches at A weighted sums of T networks.

    The points are divided among the devices. `repaired` rescales every hidden unit at every point (`repair`); it is for
    MLPs without batch normalization only.

    Raises:
      ValueError: for networks of different architectures, or if `repaired` and they are not such MLPs.
      FloatingPointError: if a loss is not finite.
    """
    (model, first), *others = networks
    if any(other is not model and other != model for other, _ in others):
        raise ValueError("expected networks of one architecture, which share one Model; got several Models")
    params_T: tuple[Any, ...] = tuple(split(variables)[0] for _, variables in networks)
    model_state = split(first)[1]
    some = jax.tree.map(lambda column: column[0], data.statistics)
    shares = momenta(model, params_T[0], model_state, some)
    if repaired:
        params_T = tuple({"params": params, "target": _moments(params, data.statistics)} for params in params_T)
    mesh = _mesh()
    n_points = len(weights_AxT)
    filled = weights_AxT[np.arange(-(-n_points // mesh.size) * mesh.size) % n_points].astype(np.float32)
    batches = {"test": data.test, "train": data.train}
    how = {"model": model, "mesh": mesh, "repaired": repaired}
    found = _answers(params_T, model_state, filled, batches, data.statistics, shares, **how)
    found = jax.tree.map(lambda leaf: np.asarray(leaf)[:n_points], found)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)):
        raise FloatingPointError("a loss between these networks is not finite")
    return found


@functools.partial(jax.jit, static_argnames=("model", "mesh", "repaired"))
def _answers(params_T, model_state, weights_AxT, batches, statistics, shares, *, model: Model, mesh: Mesh, repaired):
    def local(params_T, model_state, weights_AxT, batches, statistics, shares):
        def answered(point):
            params = repair(**point, batch=_rows(statistics)) if repaired else point
            here = recalibrated(model, params, model_state, statistics, shares)
            return {name: loss_and_error(model, params, here, columns) for name, columns in batches.items()}

        return combinations(answered, params_T, weights_AxT)

    every, points = PartitionSpec(), PartitionSpec("runs")
    specs = (every, every, points, every, every, every)
    ask = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=points, check_vma=False)
    return ask(params_T, model_state, weights_AxT, batches, statistics, shares)


@jax.jit
def _moments(params, statistics):
    return moments(params, _rows(statistics))


def _rows(batches):
    """Batches [n, B, ...] as one batch [n B, ...]."""
    return {name: column.reshape(-1, *column.shape[2:]) for name, column in batches.items()}


def _mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), ("runs",))
