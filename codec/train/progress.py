"""The progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_TIMED = 3  # batches of which the first warms up and the others are timed


class ProgressLine:
    """What a run prints while it trains.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._total = 0
        self._ends: list[float] = []  # of the first batches

    def start(self, done: int, total: int) -> None:
        """Show the bar, at `done` of `total` steps."""
        self._total = total
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[shown]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._bar.start()
            self._bar.add_task("train", total=total, completed=done, shown="")

    def step(self, done: int, joining: str = "") -> None:
        """One batch more; after a few, say how long the run will take, and `joining`, what will make it longer."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
        if len(self._ends) == _TIMED:
            return
        self._ends.append(time.monotonic())
        left = self._total - done
        if len(self._ends) == _TIMED and left >= 10 * _TIMED:
            each = (self._ends[-1] - self._ends[0]) / (_TIMED - 1)
            self.print(
                f"expected: {duration(left * each)} for {left} steps of {each:.2g} s, without validation{joining}"
            )

    def show(self, done: int, text: str, rate: float) -> None:
        """The figures of a row, beside the bar or as a line; `rate` in steps per second."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, shown=text)
        else:
            self.print(f"step {done}/{self._total}  {text}  {duration((self._total - done) / rate)} left")

    def print(self, text: str) -> None:
        """A line of its own."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A line of its own that matters."""
        self.console.print(text, style="yellow", highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def duration(seconds: float) -> str:
    """Such as 3 h 20 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(0, round(seconds))} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def make_console() -> Console:
    """On standard error, so that a terminal shows a bar and a file gets plain lines."""
    return Console(file=sys.stderr)
