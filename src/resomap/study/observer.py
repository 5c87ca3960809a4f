"""A trainer's callbacks for a study: what happens is passed on, the cell's lease guarded, its memory proven."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from resomap.lease import Lease
from resomap.records import Cell, EpochRecord
from resomap.study.interrupt import StopSignal
from resomap.study.progress import StudyProgress
from resomap.tracking.protocol import Tracker
from resomap.training.callbacks import Callback
from resomap.training.ranks import Ranks

if TYPE_CHECKING:
    from resomap.training.trainer import Trainer


class LeaseGuard(Callback):
    """Stops a run before it writes anything, if another process has taken its cell over. Stands first."""

    def __init__(self, lease: Lease | None) -> None:
        self._lease = lease

    def check(self) -> None:
        """Raise LeaseLostError if the lease is lost; for the rank that holds it."""
        if self._lease is not None:
            self._lease.check()

    def on_update_end(self, trainer: Trainer) -> None:
        self.check()

    def on_epoch_end(self, trainer: Trainer, record: EpochRecord) -> None:
        self.check()

    def on_epoch_saved(self, trainer: Trainer, record: EpochRecord) -> None:
        self.check()


class MemoryProof(Callback):
    """Tells once that training fits: after two updates, since the optimiser's state appears in the first."""

    def __init__(self, prove: Callable[[], object]) -> None:
        self._prove, self._is_done = prove, False

    def on_update_end(self, trainer: Trainer) -> None:
        if not self._is_done and trainer.update >= min(2, trainer.total_updates):
            self._prove()
            self._is_done = True


class RunObserver(Callback):
    """Reports each update and epoch of one run; a requested stop saves the state and interrupts."""

    def __init__(
        self, cell: Cell, progress: StudyProgress, *, tracker: Tracker, stop: StopSignal, ranks: Ranks
    ) -> None:
        self._cell, self._progress = cell, progress
        self._tracker, self._stop, self._ranks = tracker, stop, ranks

    def started(self, trainer: Trainer) -> None:
        """Training begins, or goes on."""
        self._progress.run_started(
            self._cell,
            epochs=trainer.epochs,
            updates=trainer.total_updates,
            resumed_update=trainer.update,
        )

    def on_update_end(self, trainer: Trainer) -> None:
        self._progress.update_ended(
            self._cell, epoch=trainer.epoch, update=trainer.update, images=trainer.images_in_update
        )
        if self._stop.requested:
            trainer.request_stop()

    def on_epoch_end(self, trainer: Trainer, record: EpochRecord) -> None:
        self._progress.epoch_ended(self._cell, record)
        if self._ranks.is_main:
            self._tracker.log_metrics(_epoch_metrics(record), step=record.epoch)


def _epoch_metrics(record: EpochRecord) -> Mapping[str, float]:
    values = {
        "train_loss": record.train_loss,
        "train_accuracy": record.train_accuracy,
        "learning_rate": record.learning_rate,
        "epoch_seconds": record.seconds,
        "images_per_s": record.images_per_s,
        **{f"val_{name}": value for name, value in record.val.items()},
    }
    if record.peak_memory_mib is not None:
        values["peak_memory_mib"] = record.peak_memory_mib
    return values
