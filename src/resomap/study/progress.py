"""What a running study tells whoever watches it. The command line draws it; a notebook may ignore it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from resomap.records import Cell, EpochRecord, RunRecord


class StudyProgress:
    """Listener of a study; every method does nothing until overridden.

    Order of events:
        preparing(*)            images decoded into the cache
        tuned(*)                settings of speed chosen, a line a model
        lengths(epochs)
        study_started(cells, finished)
        for each cell:
            run_started
            epoch_ended(*)  update_ended(*)
            run_ended
        waiting(*)              other processes work on the last cells
        study_ended
    Where several runs go on at once, their events lie between each other's, and a run_ended may come as late as the end
    of the run that this process does itself.
    """

    def preparing(self, what: str, done: int, total: int) -> None:
        """`done` of `total` images of a split are ready."""

    def note(self, message: str) -> None:
        """Something that the user should know before the results."""

    def tuned(self, line: str) -> None:
        """Settings of speed were chosen for a model."""

    def lengths(self, epochs: Mapping[Cell, int]) -> None:
        """Epochs that each cell trains."""

    def study_started(self, cells: Sequence[Cell], *, finished: int) -> None:
        """`finished` of the cells were done by an earlier start."""

    def run_started(self, cell: Cell, *, epochs: int, updates: int, resumed_update: int) -> None:
        """A cell begins, or goes on after `resumed_update` of its `updates`."""

    def update_ended(self, cell: Cell, *, epoch: int, update: int, images: int) -> None:
        """One optimiser update with that many images; `update` counts over all epochs from 1."""

    def epoch_ended(self, cell: Cell, record: EpochRecord) -> None:
        """One epoch with its validation."""

    def run_ended(self, record: RunRecord) -> None:
        """A cell is finished or failed."""

    def waiting(self, cells: Sequence[Cell]) -> None:
        """Nothing is left but these cells of other processes; told again at each look at them."""

    def stage(self, what: str) -> None:
        """A step after the runs begins: profiling, explaining, drawing."""

    def study_ended(self) -> None:
        """All cells were visited."""


@dataclass
class TimeLeft:
    """Remaining seconds of a study, from the time per update and pixel seen so far.

    An update at resolution r costs about c r^2. c is that of the model's latest run, since small images are dominated
    by what every update costs; the mean over the models stands in for one that has not run yet. Runs that go on at once
    have a clock each, and what is left is shared by as many.
    """

    _cells: dict[str, Cell] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)
    _updates: dict[str, int] = field(default_factory=dict)
    _last: dict[Cell, float] = field(default_factory=dict)
    """When each run began, or had its latest update."""

    def start(self, cell: Cell) -> None:
        """A run begins, or goes on: the time before is not training."""
        self._last[cell] = time.monotonic()
        if self._cells.get(cell.model) != cell:
            self._cells[cell.model] = cell
            self._seconds[cell.model], self._updates[cell.model] = 0.0, 0

    def add(self, cell: Cell, updates: int = 1) -> None:
        """`updates` more updates of `cell` were done since the last call, or since it began."""
        now = time.monotonic()
        if self._cells.get(cell.model) == cell:
            self._seconds[cell.model] += now - self._last[cell]
            self._updates[cell.model] += updates
        self._last[cell] = now

    def seconds(self, remaining: Sequence[tuple[Cell, int]], *, at_once: int = 1) -> float | None:
        """Seconds for (cell, updates still to do), so many runs at once; None before anything was measured."""
        rates = {
            model: self._seconds[model] / (self._updates[model] * cell.resolution**2)
            for model, cell in self._cells.items()
            if self._updates[model]
        }
        if not rates:
            return None
        mean = sum(rates.values()) / len(rates)
        work = sum(rates.get(cell.model, mean) * updates * cell.resolution**2 for cell, updates in remaining)
        return work / max(1, min(at_once, len(remaining)))
