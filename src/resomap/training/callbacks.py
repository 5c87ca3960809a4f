"""What may be hung into training: stopping early; ModelCheckpoint (checkpointing.py) keeps the best weights.

The events are drawn in events.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from resomap.checks import is_number
from resomap.errors import ConfigError
from resomap.records import EpochRecord
from resomap.training.checkpointing import ModelCheckpoint
from resomap.training.events import Callback
from resomap.training.selection import check_count, check_mode, is_better, monitored_value

if TYPE_CHECKING:
    from resomap.training.trainer import Trainer

__all__ = ["Callback", "EarlyStopping", "ModelCheckpoint"]


class EarlyStopping(Callback):
    """Stops after `patience` epochs in a row without an improvement of more than `min_delta`.

    Resolutions that stop at different epochs have had different numbers of updates: a study that compares
    them should leave this out.

    Raises:
        ConfigError: mode, patience or min_delta make no sense; the Trainer refuses a `monitor` that is no metric.
    """

    monitor: str
    best: float
    waited: int

    def __init__(self, *, monitor: str, mode: str, patience: int, min_delta: float = 0.0) -> None:
        check_count("early stopping: patience", patience)
        if not (is_number(min_delta) and 0 <= min_delta < math.inf):
            raise ConfigError(f"early stopping: min_delta: expected a number from 0, got {min_delta!r}")
        self.monitor, self.mode = monitor, check_mode(mode)
        self.patience, self.min_delta = patience, min_delta
        self._begin()

    def on_fit_start(self, trainer: Trainer) -> None:
        if trainer.update == 0:
            self._begin()  # what it knows is of another Trainer's network

    def on_epoch_end(self, trainer: Trainer, record: EpochRecord) -> None:
        value = monitored_value(record, self.monitor)
        if is_better(value, self.best, self.mode, min_delta=self.min_delta):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            trainer.stop_early()

    def _begin(self) -> None:
        self.best = math.inf if self.mode == "min" else -math.inf
        self.waited = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]
