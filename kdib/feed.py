"""The training data of a group: the whole training set on its devices, or windows of a set that stays on the disk.

`train_chunk` treats a window like an epoch: the arrays of the window are its data, and every run draws its own order
within the window. The examples of a window are the same for all runs of a study, so that a group reads them once. Only
this file imports grain, and only for windows, because the import takes more than a second.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from kdib.tasks.base import gather

Data = Mapping[str, Any]  # arrays [N, ...], in memory or mapped from files
Put = Callable[[Data], dict[str, jax.Array]]
SAMPLE = 256  # number of rows whose hash identifies a training set


def steps_per_window(n_examples: int, batch_size: int, window: int) -> int:
    """The number of steps after which a run draws a new order: those of a window or, without windows, of an epoch."""
    return (window or n_examples) // batch_size


def steps_per_epoch(n_examples: int, batch_size: int, window: int) -> int:
    """The number of steps in which a run sees every example once, except those that fill no window or no batch."""
    return (n_examples // window if window else 1) * steps_per_window(n_examples, batch_size, window)


def _digest(data: Data) -> str:
    """A hash of some rows, which reveals a state that was saved for other data of the same size."""
    rows = np.unique(np.linspace(0, len(data["label"]) - 1, SAMPLE).astype(np.int64))
    sha = hashlib.sha256()
    for name, column in sorted(gather(data, rows).items()):
        sha.update(name.encode() + np.ascontiguousarray(column).tobytes())
    return sha.hexdigest()[:16]


class Whole:
    """The whole training set, put on the devices once."""

    def __init__(self, data: Data, put: Put):
        self._data = put(data)

    def at(self, step: int) -> dict[str, jax.Array]:
        """The data of `step`."""
        del step
        return self._data

    def state(self, step: int) -> dict[str, Any]:
        """An empty state: a step is a function of its number."""
        del step
        return {}

    def resume(self, step: int, saved: Mapping[str, Any]) -> None:
        """Raise ValueError if `saved` is the state of windows."""
        del step
        if saved:
            raise ValueError(f"found the state of an iterator ({dict(saved)}), expected none: train.window is 0")

    def close(self) -> None:
        """Do nothing: nothing is open."""


class Windows:
    """The training set in windows of `window` examples, in an order that `seed` draws anew for every epoch.

    While a window is trained on, grain reads the next one in a thread. Examples that fill no window at the end of an
    epoch's order are left out of that epoch, as are those that fill no batch at the end of a run's order of a window.
    """

    def __init__(self, data: Data, put: Put, *, window: int, batch_size: int, seed: int):
        import grain

        n_examples = len(data["label"])
        self._put = put
        self._steps = steps_per_window(n_examples, batch_size, window)
        about = {"window": window, "batch_size": batch_size, "examples": n_examples, "seed": seed}
        self._about = {**about, "sample": _digest(data)}
        rows = (
            grain.MapDataset.range(n_examples).shuffle(seed=seed).batch(window, drop_remainder=True, batch_fn=np.sort)
        )
        # The rows are sorted so that the disk is read in order; the order of training is drawn on the device.
        windows = rows.map_with_index(lambda number, rows_W: (number, gather(data, rows_W))).repeat()
        ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        self._iterator = iter(windows.to_iter_dataset(ahead))
        self._number = -1
        self._before = self._iterator.get_state()  # the state from which next() gives the window in use
        self._data: dict[str, jax.Array] = {}

    def at(self, step: int) -> dict[str, jax.Array]:
        """The window [W, ...] of `step`, on the devices; steps must be requested in order.

        Raises ValueError if the window of `step` is not the next one.
        """
        number = step // self._steps
        if number != self._number:
            self._before = self._iterator.get_state()
            self._number, arrays = next(self._iterator)
            if number != self._number:
                raise ValueError(f"found an iterator at window {self._number}, expected {number}, that of step {step}")
            self._data = self._put(arrays)
        return self._data

    def state(self, step: int) -> dict[str, Any]:
        """The JSON state from which `resume` continues at `step`, which is in the current window or at its end."""
        within = step // self._steps == self._number
        return {**self._about, "iterator": self._before if within else self._iterator.get_state()}

    def resume(self, step: int, saved: Mapping[str, Any]) -> None:
        """Continue from `step` with the state that `state(step)` returned.

        Raises ValueError if the state is missing or belongs to other windows or to another step.
        """
        if saved == self.state(step):  # already here: another run of the group was resumed
            return
        found = {name: saved.get(name, "nothing") for name in self._about}
        if found != self._about:
            raise ValueError(f"found the iterator state of {found}, expected {self._about}")
        try:
            self._iterator.set_state(saved["iterator"])
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"found {dict(saved)}, expected a state of grain's iterator ({error!r})") from error
        self._number = -1
        self.at(step)

    def close(self) -> None:
        """End grain's thread."""
        self._iterator.close()
