"""Which runs one is compared with on the way (halving.py): all that the study holds, whichever start planned them."""

from __future__ import annotations

import logging

from resomap.errors import StudyError
from resomap.records import Cell, RunRecord
from resomap.study import build
from resomap.study.context import StudyContext
from resomap.study.runs import read_run
from resomap.study.shared_micro_batch import comparable_runs, is_outgrown

log = logging.getLogger(__name__)


class Rivals:
    """Of one run of a study: the runs of its seed, planned now or stored before."""

    def __init__(self, context: StudyContext, cell: Cell) -> None:
        self._context, self._planned = context, frozenset(context.cells)
        stored = list(comparable_runs(context.layout))
        self._families = {record.cell: record.family for record in stored}
        # Of stored runs alone their models are not asked for: that may import what a study's folder names.
        self._families |= {each: build.family(context.config, each.model) for each in context.cells}
        failed = {record.cell for record in stored if record.status == "failed"}
        sides = [each.resolution for each in self._families if each.model == cell.model and each not in failed]
        self.is_largest = cell.resolution >= max(sides, default=0)
        """Whether no run of its model is at a larger resolution, other than one that has failed."""
        self._others = [each for each in self._families if each.seed == cell.seed and each != cell]
        self.pairs = len(self._families) * len(self._others)
        """Comparisons that the study's runs can make at one point of their training."""

    def family(self, cell: Cell) -> str:
        """Of this run's or a rival's model."""
        return self._families[cell]

    def now(self) -> list[tuple[Cell, str]]:
        """(run, its key) of those that have begun and have not failed: what a failed one had reached is no result."""
        records = [self._record(cell) for cell in self._others]
        return [(r.cell, self._key(r)) for r in records if r is not None and r.status != "failed"]

    def _key(self, record: RunRecord) -> str:
        return self._context.key(record.cell) if record.cell in self._planned else record.key

    def _record(self, cell: Cell) -> RunRecord | None:
        layout = self._context.layout
        try:
            record = read_run(layout.run_record_path(cell, self.family(cell)))
            return None if record is None or is_outgrown(layout, record) else record
        except StudyError as bad:
            log.warning("%s is not compared with: %s", cell, bad)
            return None
