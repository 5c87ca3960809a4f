"""What happens during fit(), in order, and the base of everything that listens.

    on_fit_start
    for each epoch:
        on_epoch_start
        for each update:
            (forward, backward of each micro-batch; clip; step)
            on_update_end
        (validation)
        on_epoch_end            write what is new; destroy nothing yet
        (the state is saved)
        on_epoch_saved          the epoch cannot be lost any more: clean up
    on_fit_end

A callback runs on every rank, sees the same values on each, and decides the same; what it writes it writes
through `trainer.on_main`. A resumed fit() starts with on_fit_start again and goes on in the middle of an
epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resomap.errors import ConfigError
from resomap.printable import printable
from resomap.records import EpochRecord, FitRecord

if TYPE_CHECKING:
    from resomap.training.trainer import Trainer


class Callback:
    """Listener of a Trainer; every method does nothing until overridden."""

    monitor: str | None = None
    """Metric that it reads from each epoch's record; a Trainer whose epochs will not have it refuses the callback."""

    owned_folder: Path | None = None
    """Folder whose files it writes and deletes by itself; a Trainer refuses two callbacks with one."""

    def on_fit_start(self, trainer: Trainer) -> None:
        """Training begins, or goes on after resume()."""

    def on_epoch_start(self, trainer: Trainer) -> None:
        """The next update belongs to another epoch, or is the first after resume()."""

    def on_update_end(self, trainer: Trainer) -> None:
        """One optimiser update is done: `trainer.epoch`, `trainer.update`, `trainer.images_in_update`."""

    def on_epoch_end(self, trainer: Trainer, record: EpochRecord) -> None:
        """One epoch and its validation are done; the state is not yet saved."""

    def on_epoch_saved(self, trainer: Trainer, record: EpochRecord) -> None:
        """The state behind this epoch is on disk (or none is kept)."""

    def on_fit_end(self, trainer: Trainer, record: FitRecord) -> None:
        """All epochs are done, or training stopped early."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know; plain values and tensors only. Empty: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what state_dict() returned."""


def checked_callbacks(callbacks: Iterable[Callback]) -> tuple[Callback, ...]:
    """They as a tuple.

    Raises:
        ConfigError: something else than a list of Callback, or two that own one folder.
    """
    given = tuple(callbacks) if isinstance(callbacks, Iterable) else (None,)
    for each in given:
        if not isinstance(each, Callback):
            came = type(callbacks if each is None else each).__name__
            raise ConfigError(f"callbacks: expected a list of Callback, got {came}")
    owned = [each.owned_folder.resolve() for each in given if each.owned_folder is not None]
    shared = next((folder for folder in owned if owned.count(folder) > 1), None)
    if shared is not None:
        raise ConfigError(f"callbacks: two of them keep their files in {printable(shared)}; give each its own folder")
    return given
