"""Progress of a study: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from resomap.printable import counted, printable
from resomap.records import Cell, EpochRecord, RunRecord
from resomap.study.progress import StudyProgress, TimeLeft


@contextmanager
def make_progress() -> Iterator[StudyProgress]:
    """Bars if standard error is a terminal, else one line an event."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield PlainProgress()
        return
    with BarProgress(console) as bars:
        yield bars


def duration(seconds: float | None) -> str:
    """'42 s', '3 min 05 s', '2 h 10 min'; '?' where unknown."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def epoch_line(record: EpochRecord) -> str:
    """One epoch in words."""
    val = "  ".join(f"val {name} {record.val[name]:.3f}" for name in ("accuracy", "loss") if name in record.val)
    return f"epoch {record.epoch}: train loss {record.train_loss:.3f}  {val}  {record.images_per_s:.0f} images/s"


def run_line(record: RunRecord) -> str:
    """One finished or failed run in words."""
    if record.status == "failed":
        first = (record.error or "").strip().splitlines()
        return f"{record.cell}: FAILED: {printable(first[0]) if first else 'unknown error'}"
    scores = "  ".join(
        f"{condition['split']} accuracy {condition['accuracy']:.3f}" for condition in record.metrics.values()
    )
    return f"{record.cell}: {scores}  best epoch {record.best_epoch}  {duration(record.seconds)}"


def waiting_line(cells: Sequence[Cell]) -> str:
    """What this process waits for."""
    more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
    return f"waiting for other processes: {cells[0]}{more}"


class _Remaining:
    """Which updates are still to do, for the time left."""

    def __init__(self) -> None:
        self.cells: dict[Cell, None] = {}
        self.running: dict[Cell, int] = {}
        """Runs that go on, with their latest update; several where they are spread over workers."""
        self.epochs: Mapping[Cell, int] = {}
        self._started: tuple[Cell, int] | None = None
        """The latest run to begin, and its updates."""
        self._time_left: TimeLeft | None = None

    def run_started(self, cell: Cell, updates: int, *, resumed_update: int) -> None:
        self._started = cell, updates
        if self._time_left is None:
            self._time_left = TimeLeft()
        self._time_left.start(cell)
        self.running[cell] = resumed_update

    def update_ended(self, cell: Cell, update: int) -> None:
        self.running[cell] = update
        if self._time_left is not None:
            self._time_left.add(cell)

    def run_ended(self, cell: Cell) -> None:
        self.cells.pop(cell, None)
        self.running.pop(cell, None)

    def seconds(self) -> float | None:
        if self._time_left is None:
            return None
        remaining = [(cell, self._updates(cell) - self.running.get(cell, 0)) for cell in self.cells]
        return self._time_left.seconds(remaining, at_once=len(self.running))

    def _updates(self, cell: Cell) -> int:
        """Of the whole run: those of the latest, unless they train for other lengths."""
        if self._started is None:
            return 0
        known, updates = self._started
        return round(updates * self.epochs.get(cell, 1) / self.epochs.get(known, 1))


class PlainProgress(StudyProgress):
    """One line an event on standard error; for logs and pipes."""

    def __init__(self) -> None:
        self._left = _Remaining()
        self._count = 0
        self._done = 0
        self._told: dict[str, float] = {}
        self._waits_for = 0

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def preparing(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._told.get(what, now - 20) > 10:
            self._told[what] = now
            self._say(f"decoding {what}: {done}/{total} images")

    def note(self, message: str) -> None:
        self._say(f"note: {printable(message)}")

    def tuned(self, line: str) -> None:
        self._say(printable(line))

    def lengths(self, epochs: Mapping[Cell, int]) -> None:
        self._left.epochs = epochs

    def study_started(self, cells: Sequence[Cell], *, finished: int) -> None:
        self._count, self._done = len(cells), finished
        self._left.cells = dict.fromkeys(cells)
        self._say(f"{counted(len(cells), 'run')}, {finished} finished before")

    def run_started(self, cell: Cell, *, epochs: int, updates: int, resumed_update: int) -> None:
        self._left.run_started(cell, updates, resumed_update=resumed_update)
        going_on = f", going on after update {resumed_update}/{updates}" if resumed_update else ""
        self._say(
            f"[{self._done + len(self._left.running)}/{self._count}] {cell}: {counted(epochs, 'epoch')}{going_on}"
        )

    def update_ended(self, cell: Cell, *, epoch: int, update: int, images: int) -> None:
        self._left.update_ended(cell, update)

    def epoch_ended(self, cell: Cell, record: EpochRecord) -> None:
        which = f"{cell} " if len(self._left.running) > 1 else ""
        self._say(f"    {which}{epoch_line(record)}  {duration(self._left.seconds())} left")

    def waiting(self, cells: Sequence[Cell]) -> None:
        if len(cells) != self._waits_for:
            self._waits_for = len(cells)
            self._say(waiting_line(cells))

    def stage(self, what: str) -> None:
        self._say(f"    {what}")

    def run_ended(self, record: RunRecord) -> None:
        self._done += 1
        self._left.run_ended(record.cell)
        self._say(f"    {run_line(record)}")


class BarProgress(StudyProgress):
    """A bar for the study's runs with the time left, and one for each current run's updates with epoch and images/s."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}"),
            console=console,
        )
        self._left = _Remaining()
        self._study: TaskID | None = None
        self._run: TaskID | None = None
        self._decoding: dict[str, TaskID] = {}
        self._bars: dict[Cell, TaskID] = {}
        self._recent: dict[Cell, deque[tuple[float, int]]] = {}

    def __enter__(self) -> BarProgress:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def preparing(self, what: str, done: int, total: int) -> None:
        task = self._decoding.get(what)
        if task is None:
            task = self._progress.add_task(f"decoding {what}", total=total, info="")
            self._decoding[what] = task
        self._progress.update(task, completed=done, visible=done < total)

    def note(self, message: str) -> None:
        self._progress.print(f"note: {printable(message)}", markup=False)

    def tuned(self, line: str) -> None:
        self._progress.print(printable(line), markup=False)

    def lengths(self, epochs: Mapping[Cell, int]) -> None:
        self._left.epochs = epochs

    def study_started(self, cells: Sequence[Cell], *, finished: int) -> None:
        self._left.cells = dict.fromkeys(cells)
        self._study = self._progress.add_task("study", total=len(cells), completed=finished, info="")
        self._run = self._progress.add_task("run", total=None, info="")

    def run_started(self, cell: Cell, *, epochs: int, updates: int, resumed_update: int) -> None:
        self._left.run_started(cell, updates, resumed_update=resumed_update)
        self._recent[cell] = deque()
        # The first bar stays from run to run; more come and go where several run at once.
        bar = self._bars.get(cell, self._run)
        if bar is None or bar in (task for other, task in self._bars.items() if other != cell):
            bar = self._progress.add_task("run", total=None, info="")
        self._bars[cell] = bar
        self._progress.reset(bar, total=updates, completed=resumed_update, description=str(cell), info="")

    def update_ended(self, cell: Cell, *, epoch: int, update: int, images: int) -> None:
        self._left.update_ended(cell, update)
        if cell in self._bars and self._study is not None:
            info = f"epoch {epoch}  {self._images_per_s(cell, images):.0f} images/s"
            self._progress.update(self._bars[cell], completed=update, info=info)
            self._progress.update(self._study, info=f"{duration(self._left.seconds())} left")

    def _images_per_s(self, cell: Cell, images: int) -> float:
        """Over the latest updates, and at least a second where there was one; 0 before there are two."""
        now, recent = time.monotonic(), self._recent[cell]
        recent.append((now, images))
        while len(recent) > 20 and now - recent[1][0] > 1.0:
            recent.popleft()
        seconds = now - recent[0][0]
        return (sum(count for _, count in recent) - recent[0][1]) / seconds if seconds else 0.0

    def waiting(self, cells: Sequence[Cell]) -> None:
        if self._run is not None:
            self._progress.reset(self._run, total=None, description=waiting_line(cells), info="")

    def stage(self, what: str) -> None:
        if self._run is not None:
            self._progress.reset(self._run, total=None, description=printable(what), info="")

    def run_ended(self, record: RunRecord) -> None:
        self._left.run_ended(record.cell)
        bar = self._bars.pop(record.cell, None)
        if bar is not None and bar != self._run:
            self._progress.remove_task(bar)
        self._progress.print(run_line(record), markup=False)
        if self._study is not None:
            self._progress.advance(self._study)
