"""The whole study: plan, then every cell that is not done, then the tables."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resomap.config.load import dump_config
from resomap.config.schema import ResoMapConfig
from resomap.errors import ConfigError
from resomap.layout import TABLES_LEASE, StudyLayout
from resomap.records import Cell, RunRecord
from resomap.serialize import provenance, to_json, write_text
from resomap.study import build
from resomap.study.claimed_cells import Executor, Work, settled
from resomap.study.context import StudyContext
from resomap.study.interrupt import StopSignal, stop_on_signals
from resomap.study.plan import held_cells, plan_study
from resomap.study.progress import StudyProgress
from resomap.study.results import write_results
from resomap.study.run import stored_run
from resomap.study.runs import stored_runs
from resomap.study.shared_micro_batch import comparable_runs, exceeds, micro_batch_of, outgrown_note, shared_limit
from resomap.study.verdict.setup_warnings import study_notes, upsampled_share
from resomap.tracking.null import NullTracker
from resomap.tracking.protocol import Tracker

if TYPE_CHECKING:
    import pandas as pd

_LONGEST_PAUSE_S = 2.0
"""Between two looks at the cells that other processes have."""


@dataclass(frozen=True, slots=True, eq=False)
class StudyResult:
    """What a study ends with."""

    layout: StudyLayout
    cells: tuple[Cell, ...]
    """The planned cells that are finished or failed."""
    failed: tuple[RunRecord, ...]
    """Those of them that failed, with their errors."""
    elsewhere: tuple[Cell, ...]
    """Planned cells that another process is running; none where study.wait_for_others is set."""
    frame: pd.DataFrame
    """results.csv: one row for each run and split of the whole study."""
    is_main: bool = True
    """False on the ranks that only compute."""
    fingerprint: str = ""
    """Hash of the images that it was made from."""
    notes: tuple[str, ...] = ()
    """What a reader of the results must know."""

    def read_records(self) -> tuple[RunRecord, ...]:
        """The records of `cells`, in their order, read from the study's directory.

        Kept, they would be 20 KiB a run. One that is gone since is left out.
        """
        stored = {record.cell: record for record in stored_runs(self.layout)}
        stored |= {record.cell: record for record in self.failed}
        return tuple(stored[cell] for cell in self.cells if cell in stored)


def run_study(
    config: ResoMapConfig,
    *,
    progress: StudyProgress | None = None,
    discard_changed: bool = False,
    executor: Executor | None = None,
) -> StudyResult:
    """Run every cell of the grid that is not finished yet.

    Started again it skips finished runs, goes on with an interrupted one, and tries failed ones anew. A run
    that fails is recorded with its error and the study goes on.

    Args:
        progress: listener; None: silent.
        discard_changed: delete stored runs made with other settings instead of refusing to start.
        executor: runs the cells, entered already; None: the one of the configuration.
    Raises:
        ResoMapError: something is wrong before the first step; nothing was trained.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, with the state saved.
    """
    if not isinstance(config, ResoMapConfig):
        raise ConfigError(f"config: expected what load_config() returns, got {type(config).__name__}")
    from resomap.training.engine import connect_ranks

    ranks = connect_ranks(build.device_name(config))
    build.check_processes(config, launched=ranks.world_size)
    with stop_on_signals() as stop, contextlib.ExitStack() as stack:
        runner = executor or stack.enter_context(build.executor(config))
        listener = progress if progress is not None and ranks.is_main else StudyProgress()
        context = plan_study(config, progress=listener, ranks=ranks, discard_changed=discard_changed)
        tracker: Tracker = NullTracker()
        if ranks.is_main:
            _write_study_file(context)
            tracker = build.tracker(config, context.layout, context.name)
        tracker.start_study(context.name, build.study_params(config))
        try:
            return _run_cells(context, runner, tracker=tracker, stop=stop)
        finally:
            tracker.end_study()


def _write_study_file(context: StudyContext) -> None:
    """study.yaml: the resolved configuration, ready to be given to --config, and where it ran."""
    grid = [(cell.model, cell.resolution, cell.seed) for cell in context.cells]
    where = to_json(provenance(data_fingerprint=context.fingerprint, cells=grid), indent=None)
    head = "# The resolved configuration of this study; `resomap run --config` takes this file.\n"
    # JSON is YAML: the provenance needs no second serialiser.
    write_text(context.layout.config_path, f"{head}{dump_config(build.storable(context.config))}provenance: {where}\n")


def _run_cells(context: StudyContext, executor: Executor, *, tracker: Tracker, stop: StopSignal) -> StudyResult:
    done, failures = _Done(context.layout), {}
    for cell in context.cells:
        before = stored_run(context, cell)
        if record := settled(context, cell, before):
            done.add(record)
        elif before is not None and before.status == "failed":
            failures[cell] = before
    context.progress.lengths({cell: context.epochs(cell) for cell in context.cells})
    context.progress.study_started(context.cells, finished=len(done.cells))
    left = [cell for cell in context.cells if cell not in done.cells]
    waits = build.waits_for_others(context.config)
    work = Work(context, before=failures, tracker=tracker, stop=stop)
    tables = _Tables(context)
    while left:
        elsewhere, outgrown = [], []
        # Closed at once where something goes wrong in here: helpers save their states then.
        with contextlib.closing(executor.run(work, left)) as outcomes:
            for cell, record in outcomes:
                if record is None:
                    elsewhere.append(cell)
                    continue
                done.add(record)
                outgrown += done.drop_outgrown()
                context.progress.run_ended(record)
                tables.refresh()
        idle = len(elsewhere) == len(left)
        if idle and not waits:
            break
        if idle:
            context.progress.waiting(elsewhere)
            time.sleep(min(_LONGEST_PAUSE_S, context.leases.interval_s / 2))
        left = elsewhere + outgrown
    if left_out := outgrown_note(context.layout):
        context.progress.note(left_out)
    context.progress.study_ended()
    return StudyResult(
        layout=context.layout,
        cells=tuple(cell for cell in context.cells if cell in done.cells),
        failed=tuple(done.failed[cell] for cell in context.cells if cell in done.failed),
        elsewhere=tuple(left),
        frame=_collect(context),
        is_main=context.ranks.is_main,
        fingerprint=context.fingerprint,
        notes=context.notes,
    )


class _Done:
    """The cells that are finished or failed. Their records are on disk: of a run this keeps two numbers."""

    def __init__(self, layout: StudyLayout) -> None:
        self._layout = layout
        self.cells: dict[Cell, int] = {}
        """Cell -> the micro-batch that it was made with."""
        self.failed: dict[Cell, RunRecord] = {}

    def add(self, record: RunRecord) -> None:
        self.cells[record.cell] = micro_batch_of(record)
        if record.status == "failed":
            self.failed[record.cell] = record

    def drop_outgrown(self) -> list[Cell]:
        """Forget, and return, the cells that were made with more images at once than their model's runs now share."""
        limits = {model: shared_limit(self._layout, model) for model in {cell.model for cell in self.cells}}
        dropped = [cell for cell, images in self.cells.items() if exceeds(images, limits[cell.model])]
        for cell in dropped:
            del self.cells[cell]
            self.failed.pop(cell, None)
        return dropped


class _Tables:
    """results.csv and results.json while the study runs: written after a run, unless that would take too long.

    They hold all runs, so writing them costs more with each; it shall not cost more than a twentieth of the time.
    """

    def __init__(self, context: StudyContext) -> None:
        self._context = context
        self._due = 0.0

    def refresh(self) -> None:
        started = time.monotonic()
        if started >= self._due:
            _collect(self._context)
            ended = time.monotonic()
            self._due = ended + 19 * (ended - started)


def _collect(context: StudyContext) -> pd.DataFrame:
    """Write results.csv and results.json from all runs that the study holds."""
    if not context.ranks.is_main:
        import pandas as pd

        return pd.DataFrame()
    with context.leases.hold(TABLES_LEASE):
        return write_results(context.layout, comparable_runs(context.layout), study=_summary(context))


def _summary(context: StudyContext) -> dict[str, Any]:
    """What results.json says about the study as a whole: all of it, not what the last command asked for."""
    cells = held_cells(context)
    return {
        "name": context.name,
        "data": context.images.name,
        "class_names": context.images.class_names,
        "images": {split: len(store.images) for split, store in context.stores.items()},
        "bad_files": {split: store.bad_files for split, store in context.stores.items()},
        "upsampled_share": upsampled_share(context.stores, sorted({cell.resolution for cell in cells})),
        "information_resolution": build.information_resolution(context.config),
        "notes": (*study_notes(context, cells), *filter(None, [outgrown_note(context.layout)])),
        "metric": build.table_metric(context.config),
    }
