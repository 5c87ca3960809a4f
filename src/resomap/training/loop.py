"""The updates of an epoch: read run_epoch(), then _micro_step()."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from resomap.data.loaders import Batch
from resomap.data.randomness import derive_seed
from resomap.errors import ConfigError, TrainingDivergedError
from resomap.models.generators import isolated_generators, seed_generators
from resomap.models.modules import module_mode
from resomap.models.resolutions import least_training_batch
from resomap.records import EpochRecord
from resomap.training.device import peak_memory_mib, reset_peak_memory
from resomap.training.divergence import divergence
from resomap.training.engine import Engine
from resomap.training.feed import Feed
from resomap.training.forward_backward import Passes
from resomap.training.loss_totals import Tally
from resomap.training.recipe import Recipe


@dataclass
class Progress:
    """Position in the plan: `epoch` epochs are done, and `update` updates of the next one.

    seconds: wall time of that next epoch so far, over all sessions that worked on it.
    """

    epoch: int = 0
    update: int = 0
    seconds: float = 0.0

    def next_epoch(self) -> None:
        self.epoch, self.update, self.seconds = self.epoch + 1, 0, 0.0


class TrainingLoop:
    """Works through the windows of a feed, one optimiser update a window.

    Args:
        model: the bare model; the engine calls it.
        passes: of that model, by that engine.
    """

    def __init__(self, model: nn.Module, *, engine: Engine, feed: Feed, recipe: Recipe, passes: Passes) -> None:
        self.model, self.engine, self.feed, self.recipe = model, engine, feed, recipe
        self.curve, self.plateau = recipe.curve(feed.updates_per_epoch), recipe.plateau()
        self.progress, self.tally = Progress(), Tally(engine.device)
        self.images_in_update = 0
        self.skipped_updates = 0
        self.passes = passes
        self._expects_one = feed.ends_with_one

    @property
    def update(self) -> int:
        """Optimiser updates done, over all epochs."""
        return self.progress.epoch * self.feed.updates_per_epoch + self.progress.update

    @property
    def epoch_is_over(self) -> bool:
        return self.progress.update == self.feed.updates_per_epoch

    def run_epoch(self, after_update: Callable[[], None]) -> EpochRecord:
        """Train what is left of the current epoch, calling `after_update` after each update."""
        reset_peak_memory(self.engine.device)
        started = time.monotonic() - self.progress.seconds
        with self._training():
            position = self.engine.rank
            for batch in self._remaining_batches():
                self._micro_step(batch, position)
                position += self.engine.world_size
                if batch.ends_update:
                    self.engine.step(clip_grad_norm=self.recipe.clip_grad_norm)
                    self.progress.update += 1
                    self.progress.seconds = time.monotonic() - started
                    position = self.engine.rank
                    after_update()
        if not self.epoch_is_over:
            raise ConfigError(
                f"the training loader promised {self.feed.updates_per_epoch} updates an epoch and gave "
                f"{self.progress.update}; its length must be the number of its batches"
            )
        record = self._record(seconds=time.monotonic() - started)
        self.progress.next_epoch()
        self.tally = Tally(self.engine.device)
        return record

    def set_learning_rate(self) -> None:
        """That of the next update."""
        factor = self.curve.factor(min(self.update, self.curve.total_updates - 1))
        self.engine.learning_rate = self.recipe.learning_rate * factor * self.plateau.factor

    def diverged(self, loss: float) -> TrainingDivergedError:
        """The error for a loss that is not finite, with where and at which learning rate it was seen."""
        return divergence(
            loss,
            update=self.update,
            updates_per_epoch=self.feed.updates_per_epoch,
            learning_rate=self.engine.learning_rate,
        )

    def state_dict(self) -> dict[str, Any]:
        """Position, sums, optimiser, scaler and schedule; all ranks must call it together."""
        return {
            "progress": asdict(self.progress),
            "tally": self.tally.totals(self.engine),
            "engine": self.engine.state_dict(),
            "plateau": self.plateau.state_dict(),
            "skipped_updates": self.skipped_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what state_dict() returned."""
        self.progress = Progress(**state["progress"])
        self.tally = Tally(self.engine.device)
        self.tally.restore(state["tally"], is_main=self.engine.is_main)
        self.engine.load_state_dict(state["engine"])
        self.plateau.load_state_dict(state["plateau"])
        self.skipped_updates = state["skipped_updates"]

    def _remaining_batches(self) -> Iterator[Batch]:
        if self.epoch_is_over:
            return iter(())
        return self.feed.batches(self.progress.epoch, start_update=self.progress.update)

    def _micro_step(self, batch: Batch, position: int) -> None:
        """Forward and backward of one micro-batch, the `position`-th of its window over all ranks."""
        if position < self.engine.world_size:
            self.set_learning_rate()
        if self._expects_one:
            self._check_single(batch)  # not after an epoch of training
            self._expects_one = False
        device = self.engine.device
        where = (self.progress.epoch, self.progress.update, position)
        seed_generators(derive_seed(self.recipe.seed, "step", *where), device)
        with self._mode_for(batch), nullcontext() if batch.ends_update else self.engine.accumulating():
            # Ranks average their gradients; the share is of the whole window, so their sum is wanted.
            try:
                loss, hits = self.passes(batch, batch.share * self.engine.world_size)
            except ValueError:
                if len(batch.labels) == 1:
                    self._check_single(batch)
                raise
        if batch.share > 0:
            samples = len(batch.labels)
            self.tally.add(loss, hits, samples)
            self.images_in_update = round(samples / batch.share)

    def _check_single(self, batch: Batch) -> None:
        """Refuse batches of one image of this batch's size where BatchNorm cannot normalise one."""
        side = batch.images.shape[-2]
        if least_training_batch(self.model, side) > 1:
            raise ConfigError(
                f"the training loader gives a batch of one image, on which this model cannot be trained at {side} px "
                "(feature maps of 1 x 1: BatchNorm needs two images); make the loader with drop_last=True, or with "
                "another batch_size"
            )

    @contextmanager
    def _mode_for(self, batch: Batch) -> Iterator[None]:
        """Padding (share 0), there so that all ranks exchange, must not touch BatchNorm's statistics."""
        if batch.share > 0:
            yield
            return
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Training mode and generators of our own; afterwards as before, also after an error."""
        with module_mode(self.model, training=True), isolated_generators(self.engine.device):
            try:
                yield
            finally:
                self.engine.drop_gradients()

    def _record(self, *, seconds: float) -> EpochRecord:
        totals = self.tally.totals(self.engine)
        if not math.isfinite(totals["loss"]):
            raise self.diverged(totals["loss"])
        peak = peak_memory_mib(self.engine.device)
        return EpochRecord(
            epoch=self.progress.epoch + 1,
            train_loss=totals["loss"] / totals["samples"],
            train_accuracy=totals["hits"] / totals["samples"],
            learning_rate=self.engine.learning_rate,
            seconds=seconds,
            images_per_s=totals["samples"] / seconds,
            peak_memory_mib=None if peak is None else max(peak, self.passes.peak_mib),
        )
