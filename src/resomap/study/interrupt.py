"""Ctrl-C and SIGTERM stop a study: between two updates while it trains, with the state saved, at once elsewhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignal:
    """Set once the user (or the scheduler) asked to stop."""

    def __init__(self) -> None:
        self.requested = False
        self._can_wait = False

    @contextmanager
    def between_updates(self) -> Iterator[None]:
        """Inside, the first request only sets `requested`: whoever trains looks at it after each update."""
        self._can_wait = True
        try:
            yield
        finally:
            self._can_wait = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """A signal's handler."""
        if self.requested or not self._can_wait:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def stop_on_signals() -> Iterator[StopSignal]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt: at once, or between updates what asks for it first.

    In a thread other than the main one signals stay as they are, since Python allows no other.
    """
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
