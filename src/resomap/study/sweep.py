"""The whole study: plan, then every cell that is not done, then the tables."""

from __future__ import annotations

import logging
import time
import traceback
from dataclasses import dataclass

import pandas as pd

from resomap.allocator import trim
from resomap.config.load import dump_config
from resomap.config.schema import ResoMapConfig
from resomap.errors import ResoMapError, StorageError
from resomap.layout import TABLES_LEASE, StudyLayout
from resomap.lease import Lease
from resomap.records import Cell, RunRecord
from resomap.serialize import provenance, to_json, write_text
from resomap.study import builders
from resomap.study.context import StudyContext
from resomap.study.executors.processes import run_in_processes
from resomap.study.interrupt import StopSignal, stop_on_signals
from resomap.study.plan import plan_study, upsampled_share
from resomap.study.progress import StudyProgress
from resomap.study.ranks import connect_ranks
from resomap.study.results import write_results
from resomap.study.run import failed_record, refresh_metrics, run_cell, stored_run
from resomap.study.runs import stored_runs
from resomap.tracking.null import NullTracker
from resomap.tracking.protocol import Tracker

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 2.0
"""Between two looks at the cells that other processes have."""


@dataclass(frozen=True, slots=True, eq=False)
class StudyResult:
    """What a study ends with."""

    layout: StudyLayout
    records: tuple[RunRecord, ...]
    """The planned cells that are finished or failed."""
    elsewhere: tuple[Cell, ...]
    """Planned cells that another process is running; none where study.wait_for_others is set."""
    frame: pd.DataFrame
    """results.csv: one row for each run and condition of the whole study."""
    is_main: bool = True
    """False on the ranks that only compute."""

    @property
    def failed(self) -> tuple[RunRecord, ...]:
        return tuple(r for r in self.records if r.status == "failed")


def run_study(
    config: ResoMapConfig, *, progress: StudyProgress | None = None, discard_changed: bool = False
) -> StudyResult:
    """Run every cell of the grid that is not finished yet.

    Started again it skips finished runs, goes on with an interrupted one, and tries failed ones anew. A run
    that fails is recorded with its error and the study goes on.

    Args:
        progress: listener; None: silent.
        discard_changed: delete stored runs made with other settings instead of refusing to start.
    Raises:
        ResoMapError: something is wrong before the first step; nothing was trained.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, with the state saved.
    """
    ranks = connect_ranks(builders.device_name(config))
    builders.check_processes(config, launched=ranks.world_size)
    with stop_on_signals() as stop:
        listener = progress if progress is not None and ranks.is_main else StudyProgress()
        context = plan_study(config, progress=listener, ranks=ranks, discard_changed=discard_changed)
        tracker: Tracker = NullTracker()
        if ranks.is_main:
            _write_study_file(context)
            tracker = builders.tracker(config, context.layout, context.name)
        tracker.start_study(context.name, builders.study_params(config))
        try:
            return _run_cells(context, tracker=tracker, stop=stop)
        finally:
            tracker.end_study()


def _write_study_file(context: StudyContext) -> None:
    """study.yaml: the resolved configuration, ready to be given to --config, and where it ran."""
    grid = [(cell.model, cell.resolution, cell.seed) for cell in context.cells]
    where = to_json(provenance(data_fingerprint=context.fingerprint, cells=grid), indent=None)
    head = "# The resolved configuration of this study; `resomap run --config` takes this file.\n"
    # JSON is YAML: the provenance needs no second serialiser.
    write_text(
        context.layout.config_path, f"{head}{dump_config(builders.storable(context.config))}provenance: {where}\n"
    )


def _run_cells(context: StudyContext, *, tracker: Tracker, stop: StopSignal) -> StudyResult:
    before = {cell: stored_run(context, cell) for cell in context.cells}
    records = {cell: record for cell in context.cells if (record := _settled(context, cell, before[cell]))}
    context.progress.study_started(context.cells, finished=len(records))
    left = [cell for cell in context.cells if cell not in records]
    waits = builders.waits_for_others(context.config)
    while left:
        elsewhere = []
        for cell in left:
            record = _claim_and_run(context, cell, before[cell], tracker=tracker, stop=stop)
            if record is None:
                elsewhere.append(cell)
                continue
            records[cell] = record
            context.progress.run_ended(record)
            _collect(context)
        if not waits and len(elsewhere) == len(left):
            break
        if elsewhere and len(elsewhere) == len(left):
            context.progress.waiting(elsewhere)
            time.sleep(min(_LONGEST_PAUSE_S, context.leases.interval_s / 2))
        left = elsewhere
    context.progress.study_ended()
    return StudyResult(
        layout=context.layout,
        records=tuple(records.values()),
        elsewhere=tuple(left),
        frame=_collect(context),
        is_main=context.ranks.is_main,
    )


def _settled(context: StudyContext, cell: Cell, before: RunRecord | None) -> RunRecord | None:
    """The cell's record if nothing is left to do for it; the same on all ranks.

    Args:
        before: the record that this process found at its start. A failure since then is another process's, and final.
    """
    record = stored_run(context, cell) if context.ranks.is_main else None
    if record is not None and record.status == "finished":
        record = refresh_metrics(context, record)
    elif record is not None and (record.status != "failed" or record == before):
        record = None
    return context.ranks.broadcast(record)


def _claim_and_run(
    context: StudyContext, cell: Cell, before: RunRecord | None, *, tracker: Tracker, stop: StopSignal
) -> RunRecord | None:
    """Run the cell unless another process has it (then None, or its record if it is done by now)."""
    lease = context.leases.acquire(context.layout.lease_name(cell)) if context.ranks.is_main else None
    try:
        mine = context.ranks.broadcast(lease is not None)
        settled = _settled(context, cell, before)
        if settled is not None or not mine:
            return settled
        return _run_or_record(context, cell, tracker=tracker, stop=stop, lease=lease)
    finally:
        if lease is not None:
            lease.release()


def _run_or_record(
    context: StudyContext, cell: Cell, *, tracker: Tracker, stop: StopSignal, lease: Lease | None
) -> RunRecord | None:
    """Run the cell; whatever goes wrong with it becomes its record, and the study goes on.

    Storage that fails ends the study instead: no later run could be stored either. None where another process
    has taken the cell over meanwhile: it alone says what became of it.
    """
    processes = builders.processes_per_run(context.config)
    try:
        run = run_cell if context.ranks.world_size > 1 or processes == 1 else run_in_processes
        return run(context, cell, tracker=tracker, stop=stop, lease=lease)
    except Exception as error:
        # The study's boundary: a bug or a device error in one run must not cost the others.
        tracker.end_run("FAILED")
        if lease is not None and lease.lost:
            log.warning("%s is left alone: another process has taken it over", cell)
            return None
        if isinstance(error, StorageError):
            raise
        if isinstance(error, ResoMapError):
            log.error("%s failed: %s", cell, error)
            return failed_record(context, cell, error=str(error))
        log.error("%s failed: %r", cell, error, exc_info=True)
        record = failed_record(context, cell, error=f"{error!r}\n{traceback.format_exc()}")
        if context.ranks.world_size > 1:
            raise  # the other ranks may wait for this one: let the launcher end them all
        return record
    finally:
        trim()


def _collect(context: StudyContext) -> pd.DataFrame:
    """Write results.csv and results.json from all runs that the study holds."""
    summary = {
        "name": context.name,
        "data": context.images.name,
        "class_names": context.images.class_names,
        "images": {split: len(store.images) for split, store in context.stores.items()},
        "bad_files": {split: store.bad_files for split, store in context.stores.items()},
        "upsampled_share": upsampled_share(context.stores, sorted({cell.resolution for cell in context.cells})),
        "notes": context.notes,
        "metric": builders.table_metric(context.config),
    }
    if not context.ranks.is_main:
        return pd.DataFrame()
    with context.leases.hold(TABLES_LEASE):
        return write_results(context.layout, stored_runs(context.layout), study=summary)
