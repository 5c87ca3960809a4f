"""A cell that is run, whatever goes wrong with it: a failure becomes its record, and the study goes on."""

from __future__ import annotations

import logging
import traceback

from resomap.allocator import trim
from resomap.errors import ResoMapError, StorageError
from resomap.lease import Lease
from resomap.records import Cell, RunRecord
from resomap.study import build
from resomap.study.context import StudyContext
from resomap.study.executors.processes import run_in_processes
from resomap.study.interrupt import StopSignal
from resomap.study.out_of_memory import Recovery
from resomap.study.run import failed_record, run_cell, stored_run
from resomap.study.shared_micro_batch import forget_outgrown
from resomap.tracking.protocol import Tracker

log = logging.getLogger(__name__)


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
            if lease is not None and lease.is_lost():
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
