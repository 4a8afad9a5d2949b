"""Real processes: killed, stopped, and given arguments that are wrong."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from miniature import CONFIG, prints, table
from xla_flags import DEVICES

SMALL = ["train.steps=24", "train.save_every=4", "train.chunk=2", "train.snapshots.n=6"]
GENERATED = ["task.n_train=600", "task.n_validation=40", "task.n_test_per_group=10"]


AS_A_PERSON = {**os.environ, "XLA_FLAGS": DEVICES}  # compiled to run fast: what bits depend on
FEW = f"""
import runpy

def get_config(variants):
    config = runpy.run_path({str(CONFIG)!r})["get_config"](variants).unlock()
    del config.fits["peer"], config.fits["self"]
    config.roles.self = "alone"
    config.properties = ("accuracy", "calibration", "fidelity")
    return config.lock()
"""


@pytest.fixture
def few(tmp_path):
    """A configuration of three fits: most of the time goes into compiling."""
    (tmp_path / "few.py").write_text(FEW)
    return tmp_path / "few.py"


def command(config, workdir, *overrides):
    return [
        *(sys.executable, "-m", "kdib.main", f"--config={config}", f"--workdir={workdir}"),
        *(f"--config.{override}" for override in (*SMALL, *overrides)),
    ]


def cut_short(command, cut, signals):
    """The outputs of the same command, ended by each signal once some more snapshots are there, and then run whole."""
    rng, outputs = random.Random(0), []
    for ending in signals:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=AS_A_PERSON
        )
        steps = len(prints(cut)) if cut.exists() else 0
        while len(list(cut.glob("fits/*/*/snapshots/*"))) < steps + rng.randint(2, 6):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(rng.uniform(0.0, 0.1))
        process.send_signal(ending)
        outputs.append(process.communicate(timeout=120)[0])
        assert process.returncode == (143 if ending == signal.SIGTERM else -ending)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=AS_A_PERSON)
    assert done.returncode == 0, done.stderr
    return outputs


def test_a_stream_in_windows_and_buckets_that_was_killed_ends_with_the_same_bits(few, tmp_path):
    text = table(tmp_path / "text.tsv", 600)
    stream = [f"task.train=('{text}',)", f"task.cache={tmp_path / 'cache'}", "task.min_count=1"]
    stream += ["train.window=160", "train.buckets=(8,)", "seeds=1"]  # five steps of 32; saves come within them
    run = [command(f"{few}:stream,smoke", tmp_path / name, *stream) for name in ("whole", "cut")]
    subprocess.run(run[0], check=True, capture_output=True, env=AS_A_PERSON)
    cut_short(run[1], tmp_path / "cut", [signal.SIGKILL])
    assert prints(tmp_path / "cut") == prints(tmp_path / "whole")
    rows = [(tmp_path / name / "rows.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    assert sorted(rows[0]) == sorted(rows[1])


def test_a_study_killed_at_random_moments_ends_with_the_same_bits(few, tmp_path):
    whole = command(f"{few}:smoke", tmp_path / "whole", *GENERATED)
    subprocess.run(whole, check=True, capture_output=True, env=AS_A_PERSON)
    cut = tmp_path / "cut"
    stopped = cut_short(
        command(f"{few}:smoke", cut, *GENERATED), cut, [signal.SIGTERM, signal.SIGKILL, signal.SIGKILL]
    )[0]
    assert "the same command goes on from here" in stopped and f"--workdir={cut}" in stopped
    assert prints(cut) == prints(tmp_path / "whole")
    for name in ("rows.jsonl", "subjects.jsonl"):
        assert sorted((cut / name).read_text().splitlines()) == sorted(
            (tmp_path / "whole" / name).read_text().splitlines()
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.stps=3"], "'stps' is unknown. Did you mean 'steps'? Known: steps, batch_size"),
        (["--config.models.lstm.preset=lstm_smal"], "Did you mean 'lstm_small'"),
        (["--config.fits.self.teacher=pear"], "Did you mean 'peer'"),
        (
            ["--config.properties=('accuracy','beauty')"],
            "'beauty' is unknown. Known: accuracy, perplexity",
        ),
        (["stray"], "unexpected: stray"),
        (["--config.fits.alone.loss=kd"], "config.fits.alone.loss='kd' needs a teacher (kl), and the fit has none"),
        (["--config.fits.self.match_entropy=peer"], "needs a label_smoothing term"),
        (["--config.seeds.more=1"], "--config.seeds has no fields; it is 2"),
    ],
)
def test_a_typo_costs_one_line_that_lists_what_is_known(tmp_path, arguments, message):
    line = [sys.executable, "-m", "kdib.main", f"--config={CONFIG}:smoke", f"--workdir={tmp_path / 'w'}", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_variant_or_file_costs_one_line():
    for config, message in (
        (f"{CONFIG}:smok", "known: full, online, basins, corpus, stream, smoke"),
        ("none.py", "there is no file none.py"),
    ):
        line = [sys.executable, "-m", "kdib.main", f"--config={config}", "--workdir=w"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
