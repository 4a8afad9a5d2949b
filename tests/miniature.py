"""The smallest study, shared by the tests that run one."""

import pathlib

from kdib.main import load_config
from kdib.snapshots import SnapshotIndex
from kdib.tasks.agreement import formats, grammar

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "lstm_to_transformer.py"


def tiny(variants="smoke", **changes):
    config = load_config(str(CONFIG), variants).to_dict()
    if config["task"]["source"] == "grammar":
        config["task"] |= {"n_train": 600, "n_validation": 40, "n_test_per_group": 10}
    config["properties"] = ("accuracy", "calibration", "fidelity")
    config["train"] |= {"steps": 12, "save_every": 6, "chunk": 4, "snapshots": {"name": "every", "n": 6}}
    return config | changes


def prints(workdir):
    out = {}
    for folder in sorted((workdir / "fits").glob("*/*/snapshots")):
        with SnapshotIndex(folder, read_only=True) as index:
            out |= {f"{folder.parent.relative_to(workdir)}@{s}": index.fingerprint(s) for s in index.steps()}
    return out


def table(path, n):
    """`n` generated sentences as a table in the columns of Linzen et al."""
    columns = ("sentence", *formats.NEEDED)
    examples, lines = grammar.sample(n, seed=0, n_intervening=1, n_attractors=1), ["\t".join(columns)]
    for i, words in enumerate(examples.sentences):
        verb = int(examples.verb_index[i])
        row = {
            "sentence": " ".join(words),
            "pos_sentence": " ".join(examples.tags[i]),
            "verb_pos": examples.tags[i][verb],
            "verb_index": verb + 1,
            "n_intervening": examples.n_intervening[i],
            "n_diff_intervening": examples.n_diff[i],
            "distance": examples.distance[i],
        }
        lines.append("\t".join(str(row[name]) for name in columns))
    path.write_text("\n".join(lines) + "\n")
    return path
