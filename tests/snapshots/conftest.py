"""An index on disk, empty and with three steps."""

import pytest
from snapshot_trees import make_params

from kdib.snapshots import SnapshotIndex


@pytest.fixture
def index(tmp_path):
    with SnapshotIndex(tmp_path / "run") as opened:
        yield opened


@pytest.fixture
def three(index):
    for step, loss in ((0, 2.0), (10, 0.5), (30, 0.75)):
        index.save(step, make_params(step), metrics={"loss": loss, "accuracy": 1 - loss}, meta={"epoch": step / 10})
    return index
