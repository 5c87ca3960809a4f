"""Several runs at once on one machine: this process runs cells, and so do helpers that it starts.

A small network does not keep many threads busy: two runs with a thread each train up to one and a half times as fast as
one run with two (benchmarks/RESULTS.md). On a machine with several accelerators each run has one.

This process claims the cells (leases), hands them out, and passes on what helpers tell: after each update of its own
run, so that progress, tracking and tables have one writer. A helper writes its cells' files into the study itself, with
the code and the number of threads that this process uses.
"""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resomap.errors import StorageError
from resomap.lease import Lease
from resomap.records import Cell, EpochRecord, RunRecord
from resomap.study import build
from resomap.study.claimed_cells import Work, claim_and_run, settled
from resomap.study.context import StudyContext
from resomap.study.executors.child import STOPPED, Child, error_of
from resomap.study.executors.events import TRACKING, Event, replay_progress, replay_tracking
from resomap.study.progress import StudyProgress
from resomap.study.run import failed_record, stored_run

Outcome = tuple[Cell, RunRecord | None]

STOP_S = 120.0
"""How long helpers may take to save their state after Ctrl-C; a second Ctrl-C does not wait."""
_LOOK_S = 0.1
_MODULE = "resomap.study.executors.side_by_side_helper"


@dataclass
class _Flight:
    """A cell that a helper has."""

    cell: Cell
    lease: Lease
    has_begun: bool = False
    tracking: list[Event] = field(default_factory=list)
    """Told when the cell has ended: a tracker has one run at a time."""


class _Helper:
    """A process that runs cells; its events are collected by a thread, so that it never waits for us."""

    def __init__(self, number: int, job: StudyContext, environment: dict[str, str], log: Path) -> None:
        self._job = pickle.dumps(job)
        self.child = Child(number, _MODULE, environment, log)
        self.flight: _Flight | None = None
        self.events: deque[Event | None] = deque()
        """What it told and nobody has looked at; None: it has ended."""
        self._to_say: list[bytes] = []
        self._is_told, self._lock = False, threading.Lock()
        self._thread = threading.Thread(target=self._talk, name=f"helper {number}", daemon=True)
        self._thread.start()

    def begin(self, cell: Cell, lease: Lease) -> None:
        self.flight = _Flight(cell, lease)
        self._say(f"{cell.model} {cell.resolution} {cell.seed}\n".encode())

    def stop(self) -> None:
        """Let it save the state of its cell and end."""
        self._say(b"stop\n")

    def _say(self, line: bytes) -> None:
        with self._lock:
            if self._is_told:
                self.child.send(line)
            else:
                self._to_say.append(line)

    def _talk(self) -> None:
        try:
            # The job may be larger than a pipe, and the process takes seconds before it reads.
            self.child.send_job(self._job)
            with self._lock:
                self._is_told = True
                self.child.send(b"".join(self._to_say))
            while (new := self.child.receive()) is not None:
                self.events.extend(new)
        except Exception:
            self.child.kill()  # what it says cannot be read
            raise
        finally:
            self.child.process.wait()
            self.events.append(None)

    def wake(self) -> None:
        """Let it go on where it has stopped itself, because this process was."""
        if self.child.process.poll() is None:
            self.child.process.send_signal(signal.SIGCONT)

    def has_ended(self, *, within_s: float) -> bool:
        """Whether it has ended, and all that it told has arrived."""
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        self.child.kill()
        self._thread.join()
        self.child.close()


class SideBySide:
    """Runs cells in this process and in at most `count` - 1 helpers; a context manager, which ends them."""

    def __init__(self, work: Work, count: int) -> None:
        self._work, self._context = work, work.context
        self._planned = self._count = count
        self._threads = build.threads_of_a_run(self._context.config, count)
        own = replace(self._context, progress=_Looking(self._context.progress, self._look))
        self._own = replace(work, context=own)
        self._queue: list[Cell] = []
        self._ended: list[tuple[Outcome | None, list[Event]]] = []
        """What has become of cells (None: nothing yet), each with what is to be tracked of it."""
        self._helpers: list[_Helper] = []
        self._is_shared = self._is_stopping = False
        self._error: Exception | None = None
        self._woken_at = 0.0
        self._folder = tempfile.TemporaryDirectory(prefix="resomap-helpers-")
        self._started = 0

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(self, *exception: object) -> None:
        for helper in self._helpers:
            helper.close()
            if helper.flight is not None:
                helper.flight.lease.release()
        self._folder.cleanup()

    def run(self, cells: Sequence[Cell]) -> Generator[Outcome]:
        """As claimed_cells.Executor's run."""
        self._queue = list(cells)
        try:
            while self._queue or any(helper.flight for helper in self._helpers):
                cell = self._next()
                self._hand_out()
                if cell is None:
                    self._wait()
                else:
                    with build.threads_of_runs(self._context.config, self._planned):
                        record = claim_and_run(self._own, cell)
                    self._is_shared |= record is None
                    yield cell, record
                self._look()
                yield from self._taken()
        except BaseException:  # Ctrl-C, an error here, or one of whoever takes the outcomes (GeneratorExit)
            self._stop()
            raise

    def _next(self) -> Cell | None:
        if not self._queue:
            return None
        self._queue = self._work.in_order(self._queue, is_shared=self._is_shared)
        return self._queue.pop(0)

    def _hand_out(self) -> None:
        """Give every helper that has nothing to do a cell; start those that are missing."""
        while self._queue and self._count > 1 and not self._is_stopping:
            idle = next((helper for helper in self._helpers if helper.flight is None), None)
            if idle is None and len(self._helpers) >= self._count - 1:
                return
            cell = self._next()
            assert cell is not None
            lease = self._context.leases.acquire(self._context.layout.lease_name(cell))
            try:
                done = settled(self._context, cell, self._work.before.get(cell))
                if done is not None or lease is None:
                    self._is_shared |= done is None
                    self._ended.append(((cell, done), []))
                    continue
                helper = idle or self._start(cell)
                if helper is not None:
                    helper.begin(cell, lease)
                    lease = None  # the helper's now
            finally:
                if lease is not None:
                    lease.release()

    def _go_on_alone(self, cell: Cell, why: str) -> None:
        """No more helpers: those that are left save their states, and their cells are done here."""
        if self._count > 1:
            self._context.progress.note(f"a helper {why}; runs go on one at a time, {cell} among them")
        self._count = 1
        self._queue.insert(0, cell)
        for helper in self._helpers:
            helper.stop()

    def _start(self, cell: Cell) -> _Helper | None:
        """A new helper for the cell; None where the machine has no room for one."""
        number = next(n for n in range(1, self._count) if all(h.child.number != n for h in self._helpers))
        config = build.config_of_a_run(self._context.config, number, threads=self._threads)
        job = replace(self._context, config=config, progress=StudyProgress())
        environment = os.environ | {"OMP_NUM_THREADS": str(self._threads)}
        self._started += 1
        try:
            helper = _Helper(number, job, environment, Path(self._folder.name) / f"{self._started}.log")
        except OSError as error:
            self._go_on_alone(cell, f"could not be started ({error.strerror})")
            return None
        self._helpers.append(helper)
        return helper

    def _look(self) -> None:
        """Take in what helpers told; give those that are done their next cell.

        Called from within a run of this process: an error here is not that run's, and is kept until it has ended.
        """
        try:
            if self._work.stop.requested:
                self._tell_to_stop()
            self._wake()
            for helper in list(self._helpers):
                while helper.events:
                    self._take(helper, helper.events.popleft())
                if helper.flight is not None and helper.flight.lease.is_lost():
                    helper.child.kill()  # another process has its cell
            self._hand_out()
        except Exception as error:
            self._error = self._error or error
            self._tell_to_stop()

    def _wake(self) -> None:
        now = time.monotonic()
        if now - self._woken_at > 1.0:
            self._woken_at = now
            for helper in self._helpers:
                helper.wake()

    def _take(self, helper: _Helper, event: Event | None) -> None:
        flight = helper.flight
        if event is None:
            self._end(helper)
        elif flight is not None and event[0] == "ended":
            self._land(helper, flight, stored_run(self._context, flight.cell))
        elif flight is not None:
            flight.has_begun = True
            replay_progress(event, flight.cell, self._context.progress)
            if event[0] in TRACKING:
                flight.tracking.append(event)

    def _land(self, helper: _Helper, flight: _Flight, record: RunRecord | None) -> None:
        """The cell has ended: its record, or None where another process has it."""
        helper.flight = None
        self._ended.append(((flight.cell, record), flight.tracking))
        flight.lease.release()

    def _end(self, helper: _Helper) -> None:
        """The process has ended; a cell that it had is failed, begun anew here, or left to who has taken it over."""
        self._helpers.remove(helper)
        flight = helper.flight
        helper.close()
        if flight is None:
            return
        try:
            if self._is_stopping or flight.lease.is_lost():
                self._land(helper, flight, None)
            else:
                self._settle_end(helper, flight)
        finally:
            flight.lease.release()

    def _settle_end(self, helper: _Helper, flight: _Flight) -> None:
        child = helper.child
        code, name = child.process.returncode, child.signal_name()
        why = f"was ended by {name}" if name else f"ended with {code}{child.last_words()}"
        if flight.has_begun and child.failures:
            error = error_of("", child.failures[0])
            if isinstance(error, StorageError):
                raise error
            self._land(helper, flight, failed_record(self._context, flight.cell, error=str(error)))
        elif flight.has_begun and code != STOPPED and code != -signal.SIGKILL:
            self._land(helper, flight, failed_record(self._context, flight.cell, error=f"its process {why}"))
        else:
            self._ended.append((None, flight.tracking))
            self._go_on_alone(flight.cell, why)

    def _taken(self) -> Iterator[Outcome]:
        while self._ended:
            outcome, tracking = self._ended.pop(0)
            self._track(outcome, tracking)
            if outcome is not None:
                yield outcome
        if self._error is not None:
            raise self._error
        if self._work.stop.requested:
            raise KeyboardInterrupt

    def _track(self, outcome: Outcome | None, tracking: list[Event]) -> None:
        replay_tracking(tracking, self._work.tracker, self._context.layout.root)
        has_failed = outcome is not None and outcome[1] is not None and outcome[1].status == "failed"
        self._work.tracker.end_run("FAILED" if has_failed else "KILLED")  # does nothing where it has ended

    def _wait(self) -> None:
        """Until a helper has something to tell."""
        with self._work.stop.between_updates():
            while not any(helper.events for helper in self._helpers) and not self._work.stop.requested:
                time.sleep(_LOOK_S)
                self._wake()
                if any(helper.flight and helper.flight.lease.is_lost() for helper in self._helpers):
                    return

    def _tell_to_stop(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            for helper in self._helpers:
                helper.stop()

    def _stop(self) -> None:
        """Let helpers save their state; what has ended meanwhile is on disk, and found at the next start."""
        self._tell_to_stop()
        self._work.tracker.end_run("KILLED")  # this process's own
        deadline = time.monotonic() + STOP_S
        for helper in self._helpers:
            while not helper.has_ended(within_s=_LOOK_S) and time.monotonic() < deadline:
                helper.wake()
        self._look()
        while self._ended:
            self._track(*self._ended.pop(0))


class _Looking(StudyProgress):
    """Passes the events of this process's own run on, and looks after the helpers in between."""

    def __init__(self, listener: StudyProgress, look: Callable[[], None]) -> None:
        self._listener, self._look = listener, look

    def note(self, message: str) -> None:
        self._listener.note(message)

    def run_started(self, cell: Cell, **values: Any) -> None:
        self._listener.run_started(cell, **values)
        self._look()

    def update_ended(self, cell: Cell, **values: Any) -> None:
        self._listener.update_ended(cell, **values)
        self._look()

    def epoch_ended(self, cell: Cell, record: EpochRecord) -> None:
        self._listener.epoch_ended(cell, record)
        self._look()
