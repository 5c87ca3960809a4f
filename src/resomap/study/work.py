"""The cells of a study as work to be claimed, done and recorded, whoever does it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

from resomap.allocator import trim
from resomap.errors import ResoMapError, StorageError, StudyError
from resomap.lease import Lease
from resomap.records import Cell, RunRecord
from resomap.study import build
from resomap.study.context import StudyContext
from resomap.study.costs.schedule import predicted_cost
from resomap.study.executors.processes import run_in_processes
from resomap.study.interrupt import StopSignal
from resomap.study.out_of_memory import Recovery
from resomap.study.run import failed_record, forget_state, refresh_metrics, run_cell, stored_run
from resomap.study.same_images import changes_in_words
from resomap.study.shared_micro_batch import forget_outgrown, is_outgrown
from resomap.tracking.protocol import Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What is to be done, and what it is done with."""

    context: StudyContext
    before: Mapping[Cell, RunRecord]
    """The failures that this process found at its start: to be tried anew."""
    tracker: Tracker
    stop: StopSignal

    @cached_property
    def cost(self) -> Callable[[Cell], float]:
        """Predicted work of a cell, relative to the others."""
        context = self.context
        return predicted_cost(context.config, num_classes=context.images.num_classes, epochs=context.epochs)


class Executor(Protocol):
    """Runs cells; a context manager that holds what it needs meanwhile."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def run(self, work: Work, cells: Sequence[Cell]) -> Generator[tuple[Cell, RunRecord | None]]:
        """Each cell with its record as it ends, or None where another process has it.

        Raises:
            StorageError: the study cannot be written.
            KeyboardInterrupt: the user stopped; what can be resumed is saved.
        """
        ...


def settled(context: StudyContext, cell: Cell, before: RunRecord | None) -> RunRecord | None:
    """The cell's record if nothing is left to do for it; the same on all ranks.

    Args:
        before: the record that this process found at its start. A failure since then is another process's, and final.
    Raises:
        StudyError: another process has finished it with other settings.
    """
    changed: list[str] = []
    record = stored_run(context, cell) if context.ranks.is_main else None
    if record is not None and is_outgrown(context.layout, record):
        record = None
    elif record is not None and record.status == "finished":
        changed = context.changes(record)
        forget_state(context, record)
        record = refresh_metrics(context, record)
    elif record is not None and (record.status != "failed" or record == before):
        record = None
    record, changed = context.ranks.broadcast((record, changed))
    if changed:
        changed = changes_in_words(changed, context.layout, context.images)
        raise StudyError(
            f"another process has run {cell} with other settings (there -> here): {'; '.join(changed[:6])}. Runs of "
            "one study share their settings: start both with the same, or give one another --output"
        )
    return record


def claim_and_run(work: Work, cell: Cell) -> RunRecord | None:
    """Run the cell unless another process has it (then None, or its record if it is done by now)."""
    context = work.context
    lease = context.leases.acquire(context.layout.lease_name(cell)) if context.ranks.is_main else None
    try:
        mine = context.ranks.broadcast(lease is not None)
        done = settled(context, cell, work.before.get(cell))
        if done is not None or not mine:
            return done
        return attempt(context, cell, tracker=work.tracker, stop=work.stop, lease=lease)
    finally:
        if lease is not None:
            lease.release()


def attempt(
    context: StudyContext, cell: Cell, *, tracker: Tracker, stop: StopSignal, lease: Lease | None
) -> RunRecord | None:
    """Run the cell; whatever goes wrong with it becomes its record, and the study goes on.

    Storage that fails ends the study instead: no later run could be stored either. None where another process
    has taken the cell over meanwhile: it alone says what became of it.
    """
    alone = context.ranks.world_size == 1 and build.processes_per_run(context.config) > 1
    run = run_in_processes if alone else run_cell
    if context.ranks.is_main:
        forget_outgrown(context.layout, stored_run(context, cell))
    context.ranks.barrier()
    recovery = Recovery(context, cell)
    while True:
        try:
            return run(recovery.begin(), cell, tracker=tracker, stop=stop, lease=lease)
        except Exception as error:
            # The study's boundary: a bug or a device error in one run must not cost the others.
            tracker.end_run("FAILED")
            if lease is not None and lease.lost:
                log.warning("%s is left alone: another process has taken it over", cell)
                return None
            if isinstance(error, StorageError):
                raise
            failed = _failure(context, cell, error, recovery)
        finally:
            trim()
        if failed is not None:
            return failed


def _failure(context: StudyContext, cell: Cell, error: Exception, recovery: Recovery) -> RunRecord | None:
    """The record of a run that failed; None where it is to be run again."""
    try:
        if recovery.goes_on(error):
            return None
    except ResoMapError as named:
        error = named
    if isinstance(error, ResoMapError):
        log.error("%s failed: %s", cell, error)
        return failed_record(context, cell, error=str(error))
    log.error("%s failed: %r", cell, error, exc_info=error)
    trace = "".join(traceback.format_exception(error))
    record = failed_record(context, cell, error=f"{error!r}\n{trace}")
    if context.ranks.world_size > 1:
        raise error  # the other ranks may wait for this one: let the launcher end them all
    return record
