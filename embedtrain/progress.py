"""Progress of the long passes, on standard error: a bar on a terminal, a plain line now and then elsewhere.

Either way a pass that ends well leaves one line that sums it up. Nothing here goes to standard output, which may be a
pipe; ``quiet`` prints nothing at all.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:  # rich takes a tenth of a second to import, and only a bar needs it
    import rich.progress

LINE_INTERVAL = 5.0
"""Seconds between two plain lines, at least."""
BAR_INTERVAL = 0.1
"""Seconds between two changes of the bar, at least."""
SMOOTHING = 3.0
"""Time constant, in seconds, of the exponential average behind the words per second that are shown."""

_now = time.monotonic


class TrainingUpdate(Protocol):
    """What :meth:`Progress.training` hands out."""

    def __call__(self, position: int, *, loss: float, rate: float, words_per_second: float) -> None:
        """Report how far training is.

        :param position: corpus words done so far, over all epochs
        :param loss: mean loss over the interval just done
        :param rate: learning rate now
        :param words_per_second: speed over the interval just done; a smoothed figure is shown
        """


class Progress:
    """Shows the passes of a run, one after the other.

    :param stream: where to write; standard error by default
    :param quiet: print nothing
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._display: _Display | None = None
        self._aside = 0.0

    def note(self, line: str) -> None:
        """Print a line of information, above the bar if there is one."""
        if self._quiet:
            return
        if self._display is not None:
            self._display.note(line)
        else:
            print(line, file=self._stream, flush=True)

    @contextmanager
    def counting(self, doing: str = "counting", did: str = "counted") -> Iterator[Counting]:
        """Show the pass that reads the corpus, or other files.

        :param doing: what to call it
        :param did: the same, when it is over
        """
        start = _now()
        with self._pass() as display:
            counting = Counting(display, doing, start)
            yield counting
        if not counting.read:  # nothing of it was a stream
            return
        seconds, size = _now() - start, counting.read
        self.note(f"{did} {_megabytes(size)} in {seconds:.1f} s, {_megabytes(size / max(seconds, 1e-9))}/s")

    @contextmanager
    def steps(self, doing: str, did: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a pass of equal steps.

        :param doing: what to call it
        :param did: the same, when it is over
        :param total: how many steps it takes
        :return: ``update(done)``
        """
        start = _now()
        with self._pass() as display:

            def update(done: int) -> None:
                if display is not None and display.due():
                    speed = done / max(_now() - start, 1e-9)
                    display.show(doing, done, total, [_time_left(total - done, speed)])

            yield update
        self.note(f"{did} in {_now() - start:.1f} s")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Do something during the training that is no part of it: its time does not count."""
        start = _now()
        yield
        self._aside += _now() - start

    @contextmanager
    def training(self, total_positions: int, epochs: int, first_position: int = 0) -> Iterator[TrainingUpdate]:
        """Show the training.

        :param total_positions: corpus words to train, over all epochs
        :param epochs: passes over the corpus that these are
        :param first_position: how many of the words have been trained before
        :return: the function to call, as often as one likes, with how far training is
        """
        start = latest_at = _now()
        done = first_position
        final_loss = smoothed = math.nan
        self._aside = 0.0
        with self._pass() as display:

            def update(position: int, *, loss: float, rate: float, words_per_second: float) -> None:
                nonlocal done, latest_at, final_loss, smoothed
                now = _now()
                weight = 1.0 if math.isnan(smoothed) else -math.expm1((latest_at - now) / SMOOTHING)
                smoothed = words_per_second if weight == 1.0 else smoothed + weight * (words_per_second - smoothed)
                done, latest_at, final_loss = position, now, loss
                if display is None or not display.due():
                    return
                epoch = max(position - 1, 0) * epochs // max(total_positions, 1) + 1
                figures = [f"{_count(smoothed)} words/s", f"loss {loss:.3f}", f"rate {rate:.4f}"]
                figures.append(_time_left(total_positions - position, smoothed))
                display.show(f"epoch {epoch}/{epochs}", position, total_positions, figures)

            yield update
        seconds = _now() - start - self._aside
        speed = _count((done - first_position) / max(seconds, 1e-9))
        what = f"the rest of {epochs} epochs" if first_position else f"{epochs} epochs"
        self.note(f"trained {what} in {seconds:.1f} s, {speed} words/s, final loss {final_loss:.3f}")

    @contextmanager
    def _pass(self) -> Iterator[_Display | None]:
        """Open the display of one pass; None when quiet."""
        if self._quiet:
            yield None
            return
        terminal = self._stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        self._display = _Bar(self._stream) if terminal else _Lines(self._stream)
        try:
            yield self._display
        finally:
            self._display.close()
            self._display = None


class Counting:
    """Takes how far the reading of files is, and what follows it (:meth:`Progress.counting`)."""

    def __init__(self, display: _Display | None, doing: str, start: float) -> None:
        self.read = 0
        """Bytes so far."""
        self._display, self._doing, self._start = display, doing, start
        self._all_read_at: float | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Report bytes of the files as they lie on disk; total is None where nobody knows it."""
        self.read = done
        if self._display is None or not self._display.due():
            return
        speed = done / max(_now() - self._start, 1e-9)
        size = _megabytes(done) if total is None else f"{_megabytes(done)} of {_megabytes(total)}"
        figures = [size, f"{_megabytes(speed)}/s"]
        if total is not None:
            figures.append(_time_left(total - done, speed))
        self._display.show(self._doing, done, total, figures)

    def encoding(self, share: float) -> None:
        """Report how much is done, 0 to 1, of what is left to do when all is read."""
        now = _now()
        if self._all_read_at is None:
            self._all_read_at = now
        if self._display is not None and self._display.due():
            speed = share / max(now - self._all_read_at, 1e-9)
            self._display.show("encoding", share, 1, [_time_left(1 - share, speed)])


class _Display:
    """Where the figures of one pass are shown, no more often than every ``interval`` seconds."""

    interval: float

    def __init__(self) -> None:
        self._shown_at = -math.inf

    def due(self) -> bool:
        """Say whether it is time to show figures again; if so, the next time is reckoned from now."""
        now = _now()
        if now - self._shown_at < self.interval:
            return False
        self._shown_at = now
        return True

    def show(self, title: str, done: float, total: int | None, figures: Sequence[str]) -> None:
        raise NotImplementedError

    def note(self, line: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Take the display away; lines that were printed stay."""


class _Lines(_Display):
    interval = LINE_INTERVAL

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._shown_at = _now()  # a short pass needs no line but the last
        self._stream = stream

    def show(self, title: str, done: float, total: int | None, figures: Sequence[str]) -> None:
        share = f" {done / total:4.0%}" if total else ""
        self.note(f"{title}{share}: {', '.join(figures)}")

    def note(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class _Bar(_Display):
    interval = BAR_INTERVAL

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        super().__init__()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(file=stream),
            expand=True,
            transient=True,
        )
        self._task: rich.progress.TaskID | None = None
        self._progress.start()

    def show(self, title: str, done: float, total: int | None, figures: Sequence[str]) -> None:
        joined = "  ".join(figures)
        if self._task is None:
            self._task = self._progress.add_task(title, figures=joined)
        self._progress.update(self._task, description=title, completed=done, total=total, figures=joined)

    def note(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def _count(number: float) -> str:
    """Spell a number in three or four digits: 5.71 M, 812 k, 40."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def _time_left(work: float, speed: float) -> str:
    if not speed > 0:
        return "?:?? left"
    minutes, seconds = divmod(math.ceil(max(work, 0) / speed), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"
