"""Cells on their way through a Ray cluster: handed out, watched, taken in.

The study's process keeps everything that decides: it claims cells (leases), hands them out longest first, takes what
workers made into the study, and gives a cell whose node was lost to another. A worker gets the checked StudyContext and
the same threads, and runs the same code.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import ray

from resomap import __version__
from resomap.data.pyramid import CachedStore
from resomap.errors import ConfigError, StudyError
from resomap.layout import LAST_STATE
from resomap.lease import Lease
from resomap.printable import counted, printable
from resomap.records import Cell, RunRecord
from resomap.study import build
from resomap.study.claimed_cells import Work, settled
from resomap.study.context import StudyContext
from resomap.study.executors.events import TRACKING, Event, replay_progress, replay_tracking
from resomap.study.executors.ray_files import commit
from resomap.study.executors.ray_hub import STATE
from resomap.study.executors.ray_needs import Needs, needs_of
from resomap.study.executors.ray_worker import Task, run_task
from resomap.study.progress import StudyProgress
from resomap.study.run import failed_record, stored_run
from resomap.study.shared_micro_batch import forget_outgrown, lower_limit
from resomap.training.ranks import Ranks

TRIES = 3
"""Attempts at a cell whose workers are lost, before it is recorded as failed."""
STOP_S = 120.0
"""How long running cells may take to save their state after Ctrl-C; a second Ctrl-C does not wait."""
_LOOK_S = 0.5
_ONE_WAITS_AFTER_S = 20.0
"""A cell that waits tells a cluster that grows on demand to grow, but Ray may start another process for it when a
worker is given back: not among short cells."""


@dataclass
class _Flight:
    """A cell that is handed out."""

    task: Task
    lease: Lease
    tries: int
    since: float = field(default_factory=time.monotonic)
    has_begun: bool = False
    tracking: list[Event] = field(default_factory=list)
    """Told when the cell has ended: a tracker has one run at a time."""


class Batch:
    """Some cells on their way through the cluster."""

    def __init__(self, work: Work, cells: Sequence[Cell], hub: Any) -> None:
        self._work, self._context = work, work.context
        self._queue = [(cell, 1) for cell in cells]
        self._flights: dict[Any, _Flight] = {}
        self._hub = hub
        self._needs = needs_of(self._context.config)
        _check_fits(self._needs)
        self._slot, folder = _incoming_folder(self._context)
        self._incoming = folder / secrets.token_hex(4)  # a dead study's workers may still send to theirs
        stores = [store for store in self._context.stores.values() if isinstance(store, CachedStore)]
        self._call("open", str(self._incoming))
        self._call("share", {store.folder.name: str(store.folder) for store in stores})
        self._shipped = ray.put(_shippable(self._context, threads=self._needs.threads))
        self._task = ray.remote(_remote_task).options(
            num_cpus=self._needs.cpus, num_gpus=self._needs.gpus, max_retries=0
        )

    def run(self) -> Iterator[tuple[Cell, RunRecord | None]]:
        while self._queue or self._flights:
            yield from self._hand_out()
            ready, _ = ray.wait(list(self._flights), timeout=_LOOK_S) if self._flights else ([], [])
            self._pass_on()
            for reference in ready:
                outcome = self._land(reference)
                if outcome is not None:
                    yield outcome
            self._look_at_leases()
            if self._work.stop.requested:
                self._stop()

    def close(self) -> None:
        """Cancel what still runs, free the leases and what workers sent."""
        for reference, flight in self._flights.items():
            ray.cancel(reference, force=True)
            flight.lease.release()
        self._flights.clear()
        ray.kill(self._hub)
        shutil.rmtree(self._incoming, ignore_errors=True)
        for folder in (self._incoming.parent, self._incoming.parent.parent):
            with contextlib.suppress(OSError):  # another process on the study has its own in there
                folder.rmdir()
        self._slot.release()

    def _hand_out(self) -> Iterator[tuple[Cell, RunRecord | None]]:
        while self._queue and len(self._flights) < cells_out(self._needs.slots(), self._ages_s()):
            cell, tries = self._queue.pop(0)
            lease = self._context.leases.acquire(self._context.layout.lease_name(cell))
            done = settled(self._context, cell, self._work.before.get(cell)) if tries == 1 else None
            if done is not None or lease is None:
                if lease is not None:
                    lease.release()
                yield cell, done
                continue
            self._start(cell, lease, tries)

    def _ages_s(self) -> list[float]:
        now = time.monotonic()
        return [now - flight.since for flight in self._flights.values()]

    def _start(self, cell: Cell, lease: Lease, tries: int) -> None:
        name = f"{self._context.layout.lease_name(cell)}-{tries}"
        run_dir = self._run_dir(cell)
        forget_outgrown(self._context.layout, stored_run(self._context, cell))
        has_state = (run_dir / LAST_STATE).exists()
        if has_state:
            self._call("share", {f"{STATE}{name}": str(run_dir)})
        task = Task(name, cell, __version__, has_state, self._context.micro_batch_limit(cell.model))
        self._flights[self._task.remote(self._shipped, task, self._hub)] = _Flight(task, lease, tries)

    def _pass_on(self) -> None:
        """Events of the workers, to the listener at once and to the tracker later."""
        by_name = {flight.task.name: flight for flight in self._flights.values()}
        for name, event in self._call("take"):
            flight = by_name.get(name)
            if flight is None:
                continue
            flight.has_begun = True
            if event[0] == "state_sent":
                with contextlib.suppress(StudyError):  # it changed while it was sent: the next one will do
                    self._take_in(flight, event[1], into=event[1]["into"])
            replay_progress(event, flight.task.cell, self._context.progress)
            if event[0] in TRACKING:
                flight.tracking.append(event)

    def _land(self, reference: Any) -> tuple[Cell, RunRecord | None] | None:
        """What became of a cell; None where it goes out once more, or was stopped."""
        flight = self._flights.pop(reference)
        cell = flight.task.cell
        try:
            if flight.lease.is_lost():
                return cell, None
            try:
                result = ray.get(reference)
            except ray.exceptions.TaskCancelledError:
                return None
            except ray.exceptions.RayTaskError as error:
                first = printable(str(error.cause).splitlines()[0] if str(error.cause) else repr(error.cause))
                return cell, failed_record(self._context, cell, error=f"on a Ray node: {first}\n{error}")
            except ray.exceptions.RayError as error:
                return self._lost(flight, error)
            try:
                return self._take_result(flight, result)
            except StudyError as error:  # what it sent is not what it said: the others' work is not lost for that
                return self._lost(flight, error)
        finally:
            flight.lease.release()

    def _lost(self, flight: _Flight, error: Exception) -> tuple[Cell, RunRecord] | None:
        cell, why = flight.task.cell, type(error).__name__
        if flight.tries < TRIES:
            self._context.progress.note(f"{cell}: its worker was lost ({why}); it is run again")
            self._queue.insert(0, (cell, flight.tries + 1))
            return None
        message = f"its workers were lost {TRIES} times, at last with {why} (out of memory on the nodes?)"
        return cell, failed_record(self._context, cell, error=message)

    def _take_result(self, flight: _Flight, result: Mapping[str, Any]) -> tuple[Cell, RunRecord] | None:
        cell = flight.task.cell
        if result["listing"]:
            self._take_in(flight, result, is_final=result["status"] != "stopped")
        replay_tracking(flight.tracking, self._work.tracker, self._context.layout.root)
        if result["status"] == "stopped":
            return None
        record = stored_run(self._context, cell) if result["listing"] else None
        if record is None or record.status == "running":
            record = failed_record(self._context, cell, error=result["error"] or "its worker sent no result")
        return cell, record

    def _take_in(self, flight: _Flight, sent: Mapping[str, Any], *, into: str = "", is_final: bool = False) -> None:
        layout, cell = self._context.layout, flight.task.cell
        if sent["limit"] is not None:  # first, so that no run stands in the study that is not known to need it
            lower_limit(layout, self._context.leases, cell, int(sent["limit"]))
        own = (self._run_dir(cell), layout.predictions_dir(cell))
        commit(
            self._incoming / flight.task.name / into,
            layout.root,
            allowed=(*own, layout.summary_dir(cell.model, cell.resolution)),
            listing={name: (int(size), str(digest)) for name, (size, digest) in sent["listing"].items()},
            replaces=own if is_final else (),
        )

    def _look_at_leases(self) -> None:
        for flight in self._flights.values():
            if flight.lease.is_lost():
                self._call("give_up", flight.task.name)

    def _stop(self) -> None:
        """Let running cells save their state and take it in; cells that have not begun are cancelled."""
        self._call("stop")
        self._queue.clear()
        for reference, flight in self._flights.items():
            if not flight.has_begun:
                ray.cancel(reference)
        deadline = time.monotonic() + STOP_S
        while self._flights and time.monotonic() < deadline:
            ready, _ = ray.wait(list(self._flights), timeout=_LOOK_S)
            self._pass_on()
            for reference in ready:
                self._land(reference)
        raise KeyboardInterrupt

    def _run_dir(self, cell: Cell) -> Any:
        return self._context.layout.run_dir(cell, build.family(self._context.config, cell.model))

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self._hub, method).remote(*arguments))
        except ray.exceptions.RayActorError as error:
            raise StudyError(
                "the study's own node left the Ray cluster; what is stored is safe, run the same command again"
            ) from error


def cells_out(slots: int, ages_s: Sequence[float]) -> int:
    """How many cells may be out: as many as the cluster runs at once, and one that waits unless cells are short.

    Args:
        ages_s: of those that are out, since they were handed out; their median tells how long cells take.
    """
    return slots + (not ages_s or median(ages_s) > _ONE_WAITS_AFTER_S)


def _incoming_folder(context: StudyContext) -> tuple[Lease, Path]:
    """The first place for what workers send that no living process has, emptied of what a killed one left."""
    for number in itertools.count():
        lease = context.leases.acquire(f"incoming-{number}")
        if lease is not None:
            folder = context.layout.incoming_dir / str(number)
            shutil.rmtree(folder, ignore_errors=True)
            return lease, folder
    raise AssertionError


def _check_fits(needs: Needs) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(needs.fits(node) for node in nodes):
        largest = max((int(node.get("CPU", 0)) for node in nodes), default=0)
        gpus = f" and {counted(needs.gpus, 'GPU')}" if needs.gpus else ""
        raise ConfigError(
            f"a run needs {counted(needs.cpus, 'CPU')}{gpus} on one node, and no node of the Ray cluster has them (the "
            f"largest has {counted(largest, 'CPU')}); lower system.threads or system.processes_per_run"
        )


def _shippable(context: StudyContext, *, threads: int) -> StudyContext:
    """The context without what belongs to this process; the threads are named, for equal results."""
    config = build.with_threads(context.config, threads)
    return replace(context, config=config, progress=StudyProgress(), ranks=Ranks())


def _remote_task(context: StudyContext, task: Task, hub: Any) -> dict[str, Any]:
    """Runs on a node."""

    def call(method: str, *arguments: Any) -> Any:
        return ray.get(getattr(hub, method).remote(*arguments))

    return run_task(context, task, call)
