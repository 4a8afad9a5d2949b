"""The smallest study, shared by the tests that run one."""

import pathlib

from kdib.main import load_config
from kdib.snapshots import SnapshotIndex

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "lstm_to_transformer.py"


def tiny(variants="smoke", **changes):
    config = load_config(str(CONFIG), variants).to_dict()
    if config["task"]["source"] == "grammar":
        config["task"] |= {"n_train": 600, "n_validation": 40, "n_test_per_group": 10}
    config["train"] |= {"steps": 12, "save_every": 6, "chunk": 4, "snapshots": {"name": "every", "n": 6}}
    return config | changes


def prints(workdir):
    out = {}
    for folder in sorted((workdir / "fits").glob("*/*/snapshots")):
        with SnapshotIndex(folder, read_only=True) as index:
            out |= {f"{folder.parent.relative_to(workdir)}@{s}": index.fingerprint(s) for s in index.steps()}
    return out
