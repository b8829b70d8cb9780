"""Ctrl-C and its like, held back until what was done is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class HeldSignals:
    """While this context is open, the first signal that would end the process waits for :meth:`deliver`.

    A second one is delivered at once. Either way what happens is what would have happened without: the handlers from
    before are put back and the signal is raised again. So Ctrl-C is a KeyboardInterrupt as ever, in a notebook too,
    only later. Signals that are ignored stay so. Outside the main thread, where Python has no handlers, nothing is
    done.
    """

    def __init__(self) -> None:
        self.held: signal.Signals | None = None
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int] = {}

    def __enter__(self) -> HeldSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                previous = signal.getsignal(number)
                if previous is not None and previous != signal.SIG_IGN:  # None: not set by Python
                    self._previous[number] = previous
                    signal.signal(number, self._hold)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.deliver()
        self._restore()

    def deliver(self) -> None:
        """Let the signal that was held back do what it does."""
        if self.held is not None:
            number, self.held = self.held, None
            self._restore()
            signal.raise_signal(number)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self.held is None:
            self.held = signal.Signals(number)
        else:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous.clear()
