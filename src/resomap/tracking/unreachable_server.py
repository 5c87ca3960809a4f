"""Work for a store that may be slow or away: one thread does it in order, and who hands it in never waits."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)

Failures = tuple[type[BaseException], ...]

_LAST_FAILURES = 2
"""So many actions may fail after the end was announced; then the rest is given up."""


@dataclass(frozen=True, slots=True)
class _Task:
    action: Callable[[], object]
    essential: bool


class Backlog:
    """Actions, done one after the other in a thread of their own.

    What fails while the store is only away for a time is tried again until it works or the work ends; what fails for
    good is left out. An essential action gets one chance, and without it the rest is left out too. The first trouble is
    one warning, and what is lost at the end is one.

    Args:
        what: the store's name in warnings.
        failures: the exceptions that the store fails with; asked for at a failure, so that it may import.
        is_temporary: whether a failure may pass by waiting.
        describe: one line about a failure.
        pause_s: between two tries of the same action.
        patience_s: finish() gives up when nothing got done for so long.
        delay_s: before the first action, unless the end comes first.
    """

    def __init__(
        self,
        what: str,
        *,
        failures: Callable[[], Failures],
        is_temporary: Callable[[BaseException], bool],
        describe: Callable[[BaseException], str],
        pause_s: float = 15.0,
        patience_s: float = 45.0,
        delay_s: float = 0.0,
    ) -> None:
        self._what = what
        self._failures, self._is_temporary, self._describe = failures, is_temporary, describe
        self._pause_s, self._patience_s, self._delay_s = pause_s, patience_s, delay_s
        self._tasks: queue.Queue[_Task | None] = queue.Queue()
        self._ending = threading.Event()
        self._off = self._warned = self._lost = False
        self._done = self._last_failures = 0
        self._thread = threading.Thread(target=self._work, name="resomap-tracking", daemon=True)
        self._thread.start()

    def do(self, action: Callable[[], object], *, essential: bool = False) -> None:
        """Hand `action` in; returns at once."""
        if not self._off:
            self._tasks.put(_Task(action, essential))

    def finish(self) -> None:
        """Wait until everything handed in is done, or does not get done; nothing is taken afterwards."""
        self._ending.set()
        self._tasks.put(None)
        seen = -1
        while self._thread.is_alive() and self._done != seen:
            seen = self._done
            self._thread.join(self._patience_s)
        if self._thread.is_alive():
            self._off = True
            self._warn_of_loss(f"waited {self._patience_s:g} s")
        self._off = True

    def _work(self) -> None:
        self._ending.wait(self._delay_s)
        try:
            while not self._off and (task := self._tasks.get()) is not None:
                self._attempt(task)
                self._done += 1
        finally:
            self._off = True

    def _attempt(self, task: _Task) -> None:
        while not self._off:
            last = self._ending.is_set()
            try:
                task.action()
                return
            except self._failures() as error:
                if task.essential:
                    self._give_up(self._describe(error))
                    return
                if last or not self._is_temporary(error):
                    self._leave_out(error, last=last)
                    return
                self._promise(error)
            self._ending.wait(self._pause_s)

    def _leave_out(self, error: BaseException, *, last: bool) -> None:
        if not (last and self._is_temporary(error)):
            self._warn_once("%s refused an entry (%s); it is left out, the rest goes on", self._describe(error))
            return
        self._last_failures += 1
        if self._last_failures == _LAST_FAILURES:
            self._off = True
        self._warn_of_loss(self._describe(error))

    def _promise(self, error: BaseException) -> None:
        text = "%s does not answer (%s); training goes on, and what is logged is sent when it answers again"
        self._warn_once(text, self._describe(error))

    def _give_up(self, reason: str) -> None:
        self._off = True
        self._warn_once("%s does not work (%s); training goes on without it", reason)

    def _warn_of_loss(self, reason: str) -> None:
        if not self._lost:
            self._lost = True
            log.warning(
                "%s did not answer at the end (%s); what was logged last is not stored there", self._what, reason
            )

    def _warn_once(self, text: str, reason: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning(text, self._what, reason)
