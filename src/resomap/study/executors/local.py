"""This process runs the cells, alone or with helpers; other processes on the same study take others."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Self

from resomap.records import Cell, RunRecord
from resomap.study.claimed_cells import Work, claim_and_run
from resomap.study.executors.side_by_side import SideBySide


class LocalExecutor:
    """See claimed_cells.Executor.

    In the order of Work.in_order, which is another as soon as it meets another process at work.
    """

    def __init__(self) -> None:
        self._shared = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def run(self, work: Work, cells: Sequence[Cell]) -> Generator[tuple[Cell, RunRecord | None]]:
        """Each cell with its record as it ends, or None where another process has it."""
        if work.context.runs_at_once > 1:
            with SideBySide(work, work.context.runs_at_once) as team:
                yield from team.run(cells)
            return
        left = list(cells)
        while left:
            left = work.in_order(left, is_shared=self._shared)
            cell = left.pop(0)
            record = claim_and_run(work, cell)
            self._shared = self._shared or record is None
            yield cell, record
