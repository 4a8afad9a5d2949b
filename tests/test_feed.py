"""Windows: a partition of every epoch, shuffled anew, the same in every process, and found again from a saved state."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from kdib.feed import Whole, Windows, steps_per_epoch, steps_per_window
from kdib.tasks import base
from kdib.tasks.base import gather

N, WINDOW, BATCH = 50, 16, 4  # three windows of four steps an epoch; two examples are left out


def columns(n=N):
    return {"label": np.arange(n, dtype=np.int32), "x": np.arange(2 * n, dtype=np.float32).reshape(n, 2)}


@pytest.fixture
def feed():
    made = []

    def make(**changes):
        settings = {"window": WINDOW, "batch_size": BATCH, "seed": 7} | changes
        made.append(Windows(settings.pop("data", columns()), dict, **settings))
        return made[-1]

    yield make
    for windows in made:
        windows.close()


def flat(lists):
    return list(itertools.chain(*lists))


def labels(windows, numbers):
    return [windows.at(number * WINDOW // BATCH)["label"].tolist() for number in numbers]


def test_the_windows_of_an_epoch_are_parts_of_the_training_set_and_every_epoch_has_others(feed):
    assert steps_per_window(N, BATCH, WINDOW) == 4 and steps_per_epoch(N, BATCH, WINDOW) == 12
    assert steps_per_window(N, BATCH, 0) == steps_per_epoch(N, BATCH, 0) == 12
    windows = labels(feed(), range(9))
    epochs = [windows[first : first + 3] for first in (0, 3, 6)]
    for epoch in epochs:
        seen = flat(epoch)
        assert len(set(seen)) == len(seen) == 48 and set(seen) <= set(range(N))
    assert len({tuple(map(tuple, epoch)) for epoch in epochs}) == 3
    assert len({frozenset(flat(epoch)) for epoch in epochs}) > 1  # what is left out is not always the same


def test_a_window_that_is_the_whole_set_has_all_of_it(feed):
    windows = labels(feed(data=columns(WINDOW)), range(2))
    assert windows == [list(range(WINDOW))] * 2


def test_every_column_has_the_rows_of_the_window(feed):
    data = feed().at(0)
    np.testing.assert_array_equal(data["x"][:, 0], 2 * data["label"])


def test_a_window_is_an_even_choice(feed):
    counts = np.bincount(flat(labels(feed(), range(150))), minlength=N)
    assert abs(counts / 50 - 48 / N).max() < 0.17  # six standard deviations


def test_another_process_has_the_same_windows_and_another_seed_others(feed):
    code = (
        "import numpy as np; from kdib.feed import Windows\n"
        f"w = Windows({{'label': np.arange({N})}}, dict, window={WINDOW}, batch_size={BATCH}, seed=7)\n"
        "print([w.at(4 * n)['label'].tolist() for n in range(5)]); w.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == labels(feed(), range(5))
    assert labels(feed(seed=8), range(5)) != labels(feed(), range(5))


@pytest.mark.parametrize("step", [0, 2, 4, 11, 13, 24])
def test_a_saved_state_gives_the_window_of_its_step_and_those_after_it(feed, step):
    undisturbed, first, second = feed(), feed(), feed()
    expected = {s: undisturbed.at(s)["label"].tolist() for s in range(40)}
    for before in range(step):
        first.at(before)
    saved = json.loads(json.dumps(first.state(step)))
    second.resume(step, saved)
    second.resume(step, saved)  # the next run of the group
    assert {s: second.at(s)["label"].tolist() for s in range(step, 40)} == {s: expected[s] for s in range(step, 40)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "found the iterator state of {'window': 'nothing'"),
        ({"window": 8}, r"'window': 8.*expected \{'window': 16"),
        ({"examples": 51}, "'examples': 51.*expected.*'examples': 50"),
        ({"seed": 8}, "'seed': 8.*expected.*'seed': 7"),
        ({"iterator": {"next_index": 2}}, "found an iterator at window 2, expected 1, that of step 5"),
        ({"iterator": {}}, "expected a state of grain's iterator"),
        ({"iterator": None}, "expected a state of grain's iterator"),
    ],
)
def test_a_state_that_is_not_that_of_the_step_is_an_error_that_names_it(feed, change, message):
    windows = feed()
    for step in range(5):
        windows.at(step)
    saved = {} if change is None else {**windows.state(5), **change}
    with pytest.raises(ValueError, match=message):
        feed().resume(5, saved)


def test_a_state_saved_for_other_examples_is_refused(feed):
    saved, others = feed().state(0), {name: values[::-1].copy() for name, values in columns().items()}
    with pytest.raises(ValueError, match=r"'sample': '\w+'.*expected.*'sample': '\w+'"):
        feed(data=others).resume(0, saved)


def test_a_training_set_on_the_device_refuses_the_state_of_windows(feed):
    whole = Whole(columns(), dict)
    whole.resume(3, whole.state(3))
    with pytest.raises(ValueError, match=r"expected none: train\.window is 0"):
        whole.resume(3, feed().state(0))


def test_a_mapped_column_is_gathered_into_memory(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.arange(10))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(base, "PIECE", 2)
    for rows, expected in ((np.array([3, 1, 7]), [3, 1, 7]), (np.array([4, 5]), [4, 5]), (slice(2, 4), [2, 3])):
        (found,) = gather({"x": mapped}, rows).values()
        assert type(found) is np.ndarray and found.base is None and found.tolist() == expected
    assert gather({"x": mapped[5:]}, slice(0, 2))["x"].tolist() == [5, 6]
