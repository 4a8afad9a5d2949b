"""Progress display: a progress bar on a terminal, plain lines elsewhere."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kdib.records import Row

HEARTBEAT_SECONDS = 10.0


class Display:
    """A progress bar on a terminal, elsewhere an occasional line. A context manager."""

    def __init__(self, stream=None):
        self._stream = stream or sys.stdout
        self._bar, self._last_line = None, 0.0

    def show(self, share: float, *texts: str, force: bool = False) -> None:
        """Show the completed share with `texts`; `force` prints a line even shortly after the last one."""
        if self._bar is not None:
            self._bar.update(self._task, completed=share, text="  ".join(texts))
        elif force or time.monotonic() - self._last_line > HEARTBEAT_SECONDS:
            self.note("  ".join((f"{share:4.0%}", *texts)))
            self._last_line = time.monotonic()

    def note(self, text: str) -> None:
        """Print one separate line."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def __enter__(self) -> "Display":
        if self._stream.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            columns = ("{task.percentage:>3.0f}%", "{task.fields[text]}")
            self._bar = Progress(BarColumn(bar_width=30), *(TextColumn(column, markup=False) for column in columns))
            self._task = self._bar.add_task("study", total=1.0, text="")
            self._bar.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.stop()


def counted(rows: Iterable[Row], name: str, display: Display, *, before: int, wanted: int) -> Iterator[Row]:
    """Yield `rows` unchanged and show how many of the `wanted` networks or pairs the property `name` has measured.

    `before` is the number that it had measured already.
    """
    met = set()
    for row in rows:
        met.add((row.subject, row.other))
        done = min(before + len(met), wanted)
        display.show(done / wanted, f"measuring {name}", f"{done} of {wanted}")
        yield row


class Progress:
    """Count the study's run-steps, estimate its end, and remember SIGTERM and SIGINT. A context manager.

    Rates are kept per fit. A fit without a rate is assumed to run at the mean rate of the fits of its model. For a
    model without rates nothing is assumed, because one network can take a hundred times as long as another. A fit's
    first chunk includes the compilation, so it says nothing about the rate. The mean extra time of the first chunks is
    expected once more for every fit that has not begun.
    """

    def __init__(self, run_steps: Mapping[str, int], models: Mapping[str, str], *, stream=None):
        self._left = dict(run_steps)  # fit -> remaining run-steps
        self._models = models  # fit -> its model
        self._total = max(sum(run_steps.values()), 1)
        self._first: dict[str, tuple[int, float]] = {}  # fit -> run-steps of its first chunk, seconds it took
        self._rates: dict[str, tuple[int, float]] = {}  # the same of all its later chunks
        self._display = Display(stream)
        self._group: Counter[str] = Counter()  # fit -> number of runs in the current group
        self._step, self._label = 0, ""
        self._clock = time.monotonic()
        self.stop_requested = False

    def start_group(self, runs: Sequence[tuple[str, str]], step: int) -> None:
        """Start or resume a group of runs, each (fit, name), at `step`."""
        self._group, self._step = Counter(fit for fit, _ in runs), step
        for fit, n in self._group.items():
            self._left[fit] -= step * n
        self._clock = time.monotonic()
        names = {fit: " ".join(name for own, name in runs if own == fit) for fit in self._group}
        self._show(", ".join(f"{fit} {names[fit]}" for fit in names), force=True)

    def reached(self, step: int) -> None:
        """Record that the group has reached `step`."""
        now = time.monotonic()
        for fit, n in self._group.items():
            self._count(fit, (step - self._step) * n, (now - self._clock) * n / self._group.total())
        self._step, self._clock = step, now
        self._show(self._label)

    def _count(self, fit: str, done: int, seconds: float) -> None:
        """Add `done` run-steps of a fit, with its share of the time."""
        if fit in self._first:
            steps, so_far = self._rates.get(fit, (0, 0.0))
            self._rates[fit] = (steps + done, so_far + seconds)
        else:
            self._first[fit] = (done, seconds)
        self._left[fit] -= done

    def abandon_group(self, last_step: int) -> None:
        """Record that the group will not train the steps up to `last_step` that it has not reached."""
        for fit, n in self._group.items():
            self.skip(fit, (last_step - self._step) * n)

    def skip(self, fit: str, steps: int) -> None:
        """Record that a run of `fit` will not train its next `steps`."""
        self._left[fit] -= steps

    def note(self, text: str) -> None:
        """Print one separate line."""
        self._display.note(text)

    def eta_seconds(self) -> tuple[float, list[str]]:
        """Seconds of training left, and the models excluded from them, of which no fit has done two chunks."""
        left = {fit: steps for fit, steps in self._left.items() if steps}
        cost = {fit: c for fit in left.keys() | self._first.keys() if (c := self._seconds_a_step(fit)) is not None}
        starts = [max(0.0, seconds - n * cost[fit]) for fit, (n, seconds) in self._first.items() if fit in cost]
        to_begin = len(left.keys() & cost.keys() - self._first.keys())
        seconds = sum(left[fit] * cost[fit] for fit in left.keys() & cost.keys())
        untimed = dict.fromkeys(self._models[fit] for fit in left if fit not in cost)
        return seconds + to_begin * sum(starts) / max(len(starts), 1), list(untimed)

    def _seconds_a_step(self, fit: str) -> float | None:
        """Seconds per run-step of this fit, or else of all fits of its model; None if none was timed."""
        alike = [fit] if fit in self._rates else [n for n in self._rates if self._models[n] == self._models[fit]]
        steps = sum(self._rates[name][0] for name in alike)
        return sum(self._rates[name][1] for name in alike) / steps if steps else None

    def _show(self, label: str, *, force: bool = False) -> None:
        self._label = label
        left = sum(self._left.values())
        seconds, unknown = self.eta_seconds()
        words = [f"about {_clock(seconds)} left"] if seconds or not unknown else []
        words += [f"{', '.join(unknown)} not timed yet"] if unknown else []
        self._display.show(1 - left / self._total, label, f"step {self._step}", ", ".join(words), force=force)

    def __enter__(self) -> "Progress":
        self._old = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        self._display.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._display.__exit__()
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _stop(self, number, frame) -> None:
        if self.stop_requested:  # requested twice: the user does not want to wait for the save
            raise KeyboardInterrupt
        self.stop_requested = True  # prints nothing: the main thread may be in the middle of a line


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
