"""The cells of a study as work to be claimed and done, whoever does it: no two processes do the same one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

from resomap.errors import StudyError
from resomap.records import Cell, RunRecord
from resomap.study import build
from resomap.study.best_weights import refresh_metrics
from resomap.study.changed_settings import changes_in_words
from resomap.study.context import StudyContext
from resomap.study.costs.schedule import longest_first, predicted_cost, seed_by_seed
from resomap.study.failed_runs import attempt
from resomap.study.interrupt import StopSignal
from resomap.study.run import forget_state, stored_run
from resomap.study.shared_micro_batch import is_outgrown
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

    def in_order(self, cells: Sequence[Cell], *, is_shared: bool) -> list[Cell]:
        """The cells as one process is to run them.

        Seed by seed, so that a study cut short has whole comparisons: the order changes nothing else. Where other
        processes take cells too, the longest first, so that all end together. With successive halving the largest
        resolutions come first in either, whatever they cost: others are compared with them.
        """
        if len(cells) < 2:
            return list(cells)
        order = longest_first if is_shared else seed_by_seed
        found = order(cells, self.cost)
        if build.stops_dominated_runs(self.context.config):
            found = order(found, lambda cell: cell.resolution)  # equal ones stay as they are
        return found


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
