"""What the person sees and what a crash leaves of the curves."""

import io
import json
import os
import signal

from kdib import progress as progress_lib
from kdib.logbook import Logbook
from kdib.progress import Display, Progress, counted
from kdib.records import Row, RunSpec

RUN = RunSpec("alone", 0, 0, 0, None)


def test_the_estimate_goes_by_the_rate_of_each_fit_and_its_compilation(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress_lib.time, "monotonic", lambda: clock[0])
    models = {"slow": "cnn", "fast": "mlp", "alike": "mlp", "other": "lstm"}
    progress = Progress({"slow": 30, "fast": 50, "alike": 10, "other": 1}, models, stream=io.StringIO())

    def reached(step, seconds):
        clock[0] += seconds
        progress.reached(step)

    progress.start_group([("slow", "seed0")], 0)
    reached(10, 70.0)  # 30 s of them compiling
    assert progress.eta_seconds() == (0, ["cnn", "mlp", "lstm"])
    reached(20, 40.0)  # 4 s a step
    assert progress.eta_seconds() == (10 * 4, ["mlp", "lstm"])
    progress.start_group([("fast", "seed0"), ("fast", "seed1")], 0)
    reached(5, 20.0)  # 10 s of them compiling
    reached(15, 20.0)  # 20 run-steps, 1 s each
    # left: 10 slow at 4 s, 20 fast at 1 s, 10 of another fit of that network, after a compilation of 20 s
    assert progress.eta_seconds() == (10 * 4 + 20 * 1 + 10 * 1 + 20.0, ["lstm"])


def test_steps_done_before_a_resume_are_not_left():
    progress = Progress({"alone": 20}, {"alone": "mlp"}, stream=io.StringIO())
    progress.start_group([("alone", "seed0")], 15)
    progress.reached(20)
    assert progress.eta_seconds() == (0, [])


def test_without_a_terminal_there_are_plain_lines():
    stream = io.StringIO()
    with Progress({"alone": 10}, {"alone": "mlp"}, stream=stream) as progress:
        progress.start_group([("alone", "seed0")], 0)
        progress.note("[alone] a note with brackets")
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == ["0%", "alone", "seed0", "step", "0", "mlp", "not", "timed", "yet"]
    assert lines[1] == "[alone] a note with brackets" and "\x1b" not in stream.getvalue()


def test_measuring_says_how_many_networks_are_done(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress_lib.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    rows = [Row(str(i), None, "basins", "barrier", "test", "", (), 0.5, 1, None) for i in (0, 0, 1, 2, 3)]
    with Display(stream) as display:
        for row in counted(rows, "basins", display, before=4, wanted=8):
            clock[0] += 6.0 if row.subject == "0" else 0.0
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert lines == [["62%", "measuring", "basins", "5", "of", "8"], ["75%", "measuring", "basins", "6", "of", "8"]]


def test_a_signal_asks_for_a_stop_once_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Progress({"alone": 10}, {"alone": "mlp"}, stream=io.StringIO()) as progress:
        os.kill(os.getpid(), signal.SIGTERM)
        assert progress.stop_requested
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("a second request must not wait for the save")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_line_that_a_crash_cut_off_does_not_swallow_the_next(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"run": "alone/se')
    with Logbook(tmp_path) as logbook:
        logbook.write(RUN, 5, "train", {"loss": 0.25})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[1])["value"] == 0.25


def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Logbook(tmp_path) as logbook:
        for step in (1, 2):
            logbook.write(RUN, step, "validation", {"accuracy": step / 4})
    events = EventAccumulator(str(tmp_path / "tensorboard" / "alone" / "seed0"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("validation/accuracy")] == [(1, 0.25), (2, 0.5)]
