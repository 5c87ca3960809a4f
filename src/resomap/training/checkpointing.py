"""Keeping the best epochs' weights, in an order in which a kill at any moment loses none."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from resomap.errors import CheckpointError
from resomap.layout import BEST_WEIGHTS, METADATA
from resomap.models.checkpoints import check_describes, make_metadata, save_weights, write_metadata
from resomap.printable import printable
from resomap.records import EpochRecord
from resomap.serialize import make_dirs, remove_leftovers, storage_errors, temporary_beside, write_atomic
from resomap.training.events import Callback
from resomap.training.selection import check_count, check_mode, monitored_value

if TYPE_CHECKING:
    from resomap.training.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeptEpoch:
    """An epoch whose weights are on disk."""

    epoch: int
    value: float
    metrics: dict[str, float]


class ModelCheckpoint(Callback):
    """Keeps the weights of the `top_k` best epochs; the best is best_model.safetensors, with metadata.json
    where `metadata` says what the network is: load_checkpoint needs it.

    Among equal values the earlier epoch is the better one. At an epoch's end its weights are written beside
    the others; only after the training state is saved are the worse ones deleted and the best one
    published. Whatever was interrupted is made good when training goes on.

    Args:
        directory: created if missing; of no other ModelCheckpoint of the Trainer.
        monitor: a validation metric, 'train_loss' or 'train_accuracy'.
        mode: 'min' or 'max'; which of two values is better.
        top_k: epochs kept.
        metadata: fields of metadata.json that training does not know: model, family, resolution, seed, class_names
            and preprocessing at least (see models.checkpoints.CheckpointMetadata). None: weights alone, which
            build_model(..., pretrained=FILE) reads and load_checkpoint does not.

    Raises:
        ConfigError: mode or top_k make no sense.
        CheckpointError: a field of `metadata` is unknown, missing or out of range; when training begins, it tells of
            another network than the one that is trained.
    """

    monitor: str

    def __init__(
        self,
        directory: str | Path,
        *,
        monitor: str,
        mode: str,
        top_k: int = 1,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        check_count("training.top_k", top_k)
        self.directory = self.owned_folder = Path(directory)
        self.monitor, self.mode, self.top_k = monitor, check_mode(mode), top_k
        self.metadata = dict(metadata) if metadata is not None else None
        if self.metadata is not None:
            make_metadata(**self.metadata)
        self.kept: list[KeptEpoch] = []

    def on_fit_start(self, trainer: Trainer) -> None:
        if trainer.update == 0:
            self.kept = []  # of another Trainer's network
        if self.metadata is not None:
            check_describes(make_metadata(**self.metadata), trainer.model)
        trainer.on_main(self._prepare)
        if self.kept:
            self.kept = trainer.on_main(self._make_good)

    def on_epoch_end(self, trainer: Trainer, record: EpochRecord) -> None:
        value = monitored_value(record, self.monitor)
        if not math.isfinite(value):
            return
        others = [kept for kept in self.kept if kept.epoch != record.epoch]
        candidate = KeptEpoch(record.epoch, value, dict(record.val))
        ranked = sorted([*others, candidate], key=self._rank)[: self.top_k]
        if candidate in ranked:
            trainer.on_main(lambda: self._write(trainer.model, candidate))
        self.kept = ranked

    def on_epoch_saved(self, trainer: Trainer, record: EpochRecord) -> None:
        if self.kept:
            trainer.on_main(self._publish)

    def get_best_checkpoint_path(self) -> Path | None:
        """best_model.safetensors; None before the first epoch ended."""
        return self.directory / BEST_WEIGHTS if self.kept else None

    def save_metadata(self) -> Path | None:
        """Write metadata.json for the best epoch; None where no metadata was given or no epoch is kept."""
        if self.metadata is None or not self.kept:
            return None
        path = self.directory / METADATA
        write_metadata(path, **self._fields(self.kept[0]))
        return path

    def state_dict(self) -> dict[str, Any]:
        return {"kept": [asdict(kept) for kept in self.kept]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = sorted((KeptEpoch(**kept) for kept in state["kept"]), key=self._rank)[: self.top_k]

    def _fields(self, kept: KeptEpoch) -> dict[str, Any]:
        about = {"epoch": kept.epoch, "monitor": self.monitor, "mode": self.mode, "metrics": kept.metrics}
        return {**(self.metadata or {}), **about}

    def _write(self, model: nn.Module, kept: KeptEpoch) -> None:
        metadata = make_metadata(**self._fields(kept)) if self.metadata is not None else None
        save_weights(self._path(kept.epoch), model, metadata=metadata)

    def _rank(self, kept: KeptEpoch) -> tuple[float, int]:
        return (kept.value if self.mode == "min" else -kept.value, kept.epoch)

    def _path(self, epoch: int) -> Path:
        return self.directory / f"epoch{epoch:04d}.safetensors"

    def _prepare(self) -> None:
        make_dirs(self.directory)
        for pattern in ("epoch*.safetensors", BEST_WEIGHTS, METADATA):
            remove_leftovers(self.directory, of=pattern)

    def _make_good(self) -> list[KeptEpoch]:
        """After a resume, make the files those that the state names; returns the epochs that are there."""
        gone = [kept for kept in self.kept if not self._path(kept.epoch).exists()]
        if self.kept[0] in gone:
            raise CheckpointError(
                f"{printable(self._path(self.kept[0].epoch))} is missing, the best weights so far; "
                "put it back, or delete the saved state to train anew"
            )
        for kept in gone:
            log.warning("%s is gone; it is kept no longer", printable(self._path(kept.epoch)))
        self.kept = [kept for kept in self.kept if kept not in gone]
        self._publish()
        return self.kept

    def _publish(self) -> None:
        _replace_by_link(self._path(self.kept[0].epoch), self.directory / BEST_WEIGHTS)
        self.save_metadata()
        keep = {self._path(kept.epoch) for kept in self.kept}
        with storage_errors(self.directory):
            for path in self.directory.iterdir():
                if path not in keep and self._is_epochs(path.name):
                    path.unlink(missing_ok=True)

    def _is_epochs(self, name: str) -> bool:
        """Whether a file is called just as an epoch's weights are; epoch3_mine.safetensors is somebody's own."""
        digits = name.removeprefix("epoch").removesuffix(".safetensors")
        return digits.isdecimal() and name == self._path(int(digits)).name


def _replace_by_link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, using no more disk; a copy where links are not possible."""
    temporary = temporary_beside(target)
    try:
        os.link(source, temporary)
    except OSError:
        with open(source, "rb") as original:
            write_atomic(target, lambda stream: shutil.copyfileobj(original, stream))
        return
    try:
        with storage_errors(target):
            os.replace(temporary, target)
    finally:
        # POSIX rename does nothing when both names already are the same file.
        with contextlib.suppress(OSError):
            temporary.unlink()
