"""Training a model from first to best epoch. Read fit(), then loop.py for the updates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from resomap.errors import CheckpointError, ConfigError
from resomap.models.modules import check_module, input_dtype
from resomap.records import EpochRecord, FitRecord
from resomap.serialize import digest
from resomap.training.device import backend_flags, resolve_precision, select_device
from resomap.training.engine import Engine
from resomap.training.events import Callback, checked_callbacks
from resomap.training.feed import make_feed
from resomap.training.forward_backward import Passes
from resomap.training.last_state import StateKeeper, check_same, read_state
from resomap.training.loop import TrainingLoop
from resomap.training.recipe import Recipe
from resomap.training.selection import check_monitor, fit_record, mode_of
from resomap.training.validation import validation_metrics, validation_names

T = TypeVar("T")

# Reading the loss makes the host wait for an accelerator, and ranks exchange a message for it: not at each update.
_UPDATES_BETWEEN_CHECKS = 20


def _floats(class_weights: Sequence[float] | None) -> tuple[float, ...] | None:
    try:
        return tuple(map(float, class_weights)) if class_weights is not None else None
    except (TypeError, ValueError):
        raise ConfigError(f"class_weights: expected one number a class, or None, got {class_weights!r}") from None


class Trainer:
    """Trains a classifier on windows of micro-batches, one optimiser update a window.

    Several processes: start with `torchrun` or `accelerate launch`; each makes its own Trainer, with
    loaders for its rank. DistributedDataParallel is used, not DataParallel: the latter drives all GPUs from
    one process, bound by Python's lock, copies the model in each step, and cannot leave the machine.

    Randomness of a micro-batch (dropout) follows from (seed, epoch, update, position in the window) alone.
    So a resumed run equals one never interrupted, and two ranks equal one with twice the accumulation.

    BatchNorm normalises each micro-batch by itself; its running statistics are those of the first rank.

    Args:
        model: trained in place; afterwards modes, hooks and forward are as before, the weights those of the
            last epoch (ModelCheckpoint keeps the best).
        train_loader: a TrainLoader, or a DataLoader of (images float32 B C H W normalised, labels int64).
        val_loader: an EvalLoader or DataLoader; None: no validation.
        optimizer: adam, adamw or sgd.
        weight_decay: not applied to biases and normalisation parameters.
        momentum: of sgd (Nesterov).
        schedule: constant, cosine, exponential, plateau or step; see schedule.Schedule.
        class_weights: one per class; see losses.classification_loss.
        clip_grad_norm: largest L2 norm of an update's gradient.
        accumulation_steps: batches of a plain DataLoader per update; a TrainLoader has its own windows.
        monitor: validation metric that names the best epoch; without a val_loader it is the training loss.
        monitor_mode: 'min' or 'max', which of two values is better; needed with every monitor but 'loss'.
        cuda_graphs: launch a micro-batch's passes on CUDA as one graph, several times as fast for small networks; what
            the model's own Python decides in the first passes, all later ones repeat.
        state_path: where the state is saved, at each epoch's end and every save_every_s seconds (0: each
            update). None: nowhere.
        class_names: for the metrics; None: '0', '1', ...

    Raises:
        ConfigError: settings out of range, all named; weights that are not float32; loaders that do not fit; a monitor,
            its own or a callback's, that is no metric. In fit(): batches, labels or class_weights that are none of this
            model's.
        DeviceError: device or precision are not there.
    """

    def __init__(
        self,
        model: nn.Module,
        train_loader: Any,
        val_loader: Any = None,
        *,
        epochs: int = 10,
        optimizer: str = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        momentum: float = 0.9,
        schedule: str = "cosine",
        warmup_epochs: float = 0.0,
        step_epochs: int = 10,
        gamma: float = 0.1,
        plateau_patience: int = 5,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        clip_grad_norm: float | None = None,
        accumulation_steps: int = 1,
        monitor: str = "loss",
        monitor_mode: str | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        mixed_precision: str = "auto",
        channels_last: bool = True,
        fused: bool = True,
        cudnn_benchmark: bool = True,
        deterministic: bool = False,
        non_blocking: bool = True,
        cuda_graphs: bool = False,
        state_path: str | Path | None = None,
        save_every_s: float = 60.0,
        class_names: Sequence[str] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        check_module(model)
        if (dtype := input_dtype(model)) != torch.float32:
            raise ConfigError(
                f"model: expected weights in float32, got {str(dtype).removeprefix('torch.')}; give model.float(), and "
                "mixed_precision='bf16' or 'fp16' to compute in less"
            )
        self.callbacks = checked_callbacks(callbacks)
        if val_loader is not None and not hasattr(val_loader, "__iter__"):
            raise ConfigError(f"val_loader: expected a loader of (images, labels), got {type(val_loader).__name__}")
        self.recipe = Recipe(
            epochs=epochs,
            optimizer=optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            momentum=momentum,
            schedule=schedule,
            warmup_epochs=warmup_epochs,
            step_epochs=step_epochs,
            gamma=gamma,
            plateau_patience=plateau_patience,
            label_smoothing=label_smoothing,
            class_weights=_floats(class_weights),
            clip_grad_norm=clip_grad_norm,
            seed=seed,
        )
        if schedule == "plateau" and val_loader is None:
            raise ConfigError("training.schedule: plateau follows the validation loss; give a val_loader")
        chosen = select_device(device)
        self.precision = resolve_precision(mixed_precision, chosen)
        self.model = model
        engine = Engine(
            model,
            lambda placed: self.recipe.optimizer_for(placed, fused=fused, loss_scaled=self.precision == "fp16"),
            device=chosen,
            precision=self.precision,
            channels_last=channels_last,
        )
        self._loop = TrainingLoop(
            model,
            engine=engine,
            feed=make_feed(train_loader, engine=engine, accumulation_steps=accumulation_steps, seed=seed),
            recipe=self.recipe,
            passes=Passes(
                model,
                engine=engine,
                class_weights=self.recipe.class_weights,
                label_smoothing=label_smoothing,
                input_options={"channels_last": channels_last, "non_blocking": non_blocking},
                graphs=cuda_graphs,
            ),
        )
        self._engine = engine
        self._val_loader, self._class_names = val_loader, class_names
        self._monitor = monitor if val_loader is not None else "train_loss"
        for watched in (self._monitor, *(each.monitor for each in self.callbacks)):
            if watched is not None:
                check_monitor(watched, self.metrics)
        self._mode = mode_of(self._monitor, monitor_mode if val_loader is not None else "min")
        self._channels_last = channels_last
        self._flags = {"cudnn_benchmark": cudnn_benchmark, "deterministic": deterministic}
        self._keeper = StateKeeper(state_path, every_s=save_every_s)
        # On one CPU the loss is there anyway; elsewhere reading it makes the host or the other ranks wait.
        free = engine.device.type == "cpu" and engine.world_size == 1
        self._check_every = 1 if free or self._keeper.every_update else _UPDATES_BETWEEN_CHECKS
        self._stop_requested = self._stopped_early = False
        self.history: list[EpochRecord] = []
        self._latest: EpochRecord | None = None
        self.step_scheduler()

    @property
    def device(self) -> torch.device:
        return self._engine.device

    @property
    def epochs(self) -> int:
        """Epochs planned."""
        return self.recipe.epochs

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what validate() gives, none without a val_loader. Whose validate() gives more overrides this too."""
        return validation_names() if self._val_loader is not None else ()

    @property
    def total_updates(self) -> int:
        """Optimiser updates planned, over all epochs."""
        return self._loop.curve.total_updates

    @property
    def update(self) -> int:
        """Optimiser updates done, over all epochs."""
        return self._loop.update

    @property
    def epoch(self) -> int:
        """Number, from 1, of the epoch that the latest update belongs to (1 before the first)."""
        return max(1, math.ceil(self.update / self._loop.feed.updates_per_epoch))

    @property
    def seconds(self) -> float:
        """Wall time of its epochs so far, before resume() too."""
        return sum(record.seconds for record in self.history) + self._loop.progress.seconds

    @property
    def images_in_update(self) -> int:
        """Training images of the latest update, over all ranks."""
        return self._loop.images_in_update

    def fit(self) -> FitRecord:
        """Train the epochs that remain, validating, calling back and saving after each.

        The best epoch is one of those that it validated: epochs of train_epoch() before it are in the record only.

        Raises:
            ConfigError: train_epoch() has trained all epochs, so that none is validated.
            TrainingDivergedError: NaN or infinity; the state on disk is the last good one. Seen at once on one
                CPU, up to 20 updates later on accelerators and several ranks.
            KeyboardInterrupt: request_stop() was called; the state is saved.
            StorageError: the state could not be written; the one before is still there.
        """
        self.on_main(self._keeper.clean_up)
        self._emit("on_fit_start")
        try:
            while self._loop.progress.epoch < self.epochs and not self._stopped_early:
                self._emit("on_epoch_start")
                self._latest = self.history[-1] = record = self._with_validation(self.train_epoch())
                self._emit("on_epoch_end", record)
                self.save_state()
                self._emit("on_epoch_saved", record)
        finally:
            self._loop.passes.release()
        result = fit_record(
            self.history,
            monitor=self._monitor,
            mode=self._mode,
            updates=self.update,
            stopped_early=self._stopped_early and self._loop.progress.epoch < self.epochs,
        )
        self._emit("on_fit_end", result)
        return result

    def train_epoch(self) -> EpochRecord:
        """Train what is left of the current epoch; the record, also in `history`, has no validation yet.

        Raises:
            TrainingDivergedError, KeyboardInterrupt, StorageError: as fit().
        """
        with backend_flags(**self._flags):
            self._latest = self._loop.run_epoch(self._after_update)
        self.history.append(self._latest)
        return self._latest

    def validate(self) -> dict[str, float]:
        """Scalar metrics on the validation images: loss (cross-entropy), accuracy, macro_f1, ...

        Raises:
            ConfigError: there is no val_loader.
            TrainingDivergedError: the model's answers are not finite.
        """
        if self._val_loader is None:
            raise ConfigError("validate() needs a val_loader; give one to the Trainer")
        metrics = validation_metrics(
            self.model,
            self._val_loader,
            engine=self._engine,
            precision=self.precision,
            channels_last=self._channels_last,
            class_names=self._class_names,
        )
        if metrics is None:
            raise self._loop.diverged(math.nan)
        return metrics

    def step_scheduler(self, validation_loss: float | None = None) -> float:
        """Set and return the next update's learning rate; schedule 'plateau' is told the validation loss.

        train_epoch() calls it before each update, fit() after each validation: a loop of your own needs it
        for 'plateau' only.
        """
        if validation_loss is not None and self.recipe.schedule == "plateau":
            self._loop.plateau.step(validation_loss)
        self._loop.set_learning_rate()
        return self.get_learning_rate()

    def get_learning_rate(self) -> float:
        """The learning rate that is set: of the latest update, until step_scheduler() sets the next one's."""
        return self._engine.learning_rate

    def get_performance_stats(self) -> dict[str, float | None]:
        """Of the latest epoch: epoch_seconds, images_per_s (training only), peak_memory_mib (None on CPU);
        and skipped_updates, those of all epochs that fp16 overflow cost (up to 20 updates behind).
        """
        last = self._latest
        return {
            "epoch_seconds": last.seconds if last else None,
            "images_per_s": last.images_per_s if last else None,
            "peak_memory_mib": last.peak_memory_mib if last else None,
            "skipped_updates": self._loop.skipped_updates,
        }

    def request_stop(self) -> None:
        """Save the state after the update at hand (of all ranks), then raise KeyboardInterrupt from fit()."""
        self._stop_requested = True

    def stop_early(self) -> None:
        """End fit() after this epoch; for callbacks, which decide the same on every rank."""
        self._stopped_early = True

    def on_main(self, work: Callable[[], T]) -> T:
        """Do `work` on the first rank only and return its result, or raise its error, on all."""
        return self._engine.on_main(work)

    def save_state(self) -> None:
        """Save the state to state_path, if there is one. On several ranks all must call it together.

        Raises:
            TrainingDivergedError: the weights are not finite; nothing is written.
            StorageError: it cannot be written; the state before is still there.
        """
        if self._keeper.path is not None:
            state = self.state_dict()
            self._engine.on_main(lambda: self._keeper.write(state))

    def resume(self, path: str | Path | None = None) -> int:
        """Go on from a saved state (state_path by default); returns the updates that it has behind it.

        Every rank reads the file.

        Raises:
            CheckpointError: missing, damaged, or of a run with other settings.
        """
        source = Path(path) if path is not None else self._keeper.path
        if source is None:
            raise ConfigError("resume() needs a path, or a Trainer with a state_path")
        self.load_state_dict(read_state(source))
        return self.update

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on; tensors and plain values only.

        Raises:
            TrainingDivergedError: the weights are not finite.
        """
        if not self._engine.weights_are_finite():
            raise self._loop.diverged(math.nan)
        return {
            "identity": self._identity(),
            "model": self.model.state_dict(),
            "loop": self._loop.state_dict(),
            "history": [asdict(record) for record in self.history],
            "stopped_early": self._stopped_early,
            "callbacks": [[type(each).__name__, each.state_dict()] for each in self.callbacks],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what state_dict() returned.

        Raises:
            CheckpointError: it is of a run with other settings, another model, or other callbacks.
        """
        check_same(state["identity"], self._identity())
        ours = [each for each in self.callbacks if each.state_dict()]
        theirs = [(name, saved) for name, saved in state["callbacks"] if saved]
        names = [type(each).__name__ for each in ours]
        if [name for name, _ in theirs] != names:
            raise CheckpointError(
                f"the state was saved with the callbacks {[name for name, _ in theirs]}, these are {names}; "
                "give the same ones, or delete it to start anew"
            )
        self.model.load_state_dict(state["model"])
        self._loop.load_state_dict(state["loop"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        self._latest = self.history[-1] if self.history else None
        self._stopped_early = state["stopped_early"]
        for callback, (_, saved) in zip(ours, theirs, strict=True):
            callback.load_state_dict(saved)

    def _identity(self) -> dict[str, Any]:
        """What a saved state must have in common with this run."""
        shapes = {name: list(value.shape) for name, value in self.model.state_dict().items()}
        return {
            **self.recipe.plain(),
            "updates_per_epoch": self._loop.feed.updates_per_epoch,
            "precision": self.precision,
            "model": digest(shapes),
        }

    def _emit(self, event: str, *details: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *details)

    def _after_update(self) -> None:
        """Call back; then, where it is time: check the loss, save, stop, the same on all ranks."""
        self._emit("on_update_end")
        stop, save = self._stop_requested, self._keeper.due()
        asked = (stop or save) and self._engine.world_size == 1
        if not (asked or self._loop.epoch_is_over or self.update % self._check_every == 0):
            return
        loss_sum, stop, save = self._engine.agree(self._loop.tally.loss_sum(), stop=stop, save=save)
        if not math.isfinite(loss_sum):
            raise self._loop.diverged(loss_sum)
        self._loop.skipped_updates += self._engine.count_skipped()
        if stop or save:
            self.save_state()
        if stop:
            self._stop_requested = False
            raise KeyboardInterrupt("asked to stop; the state is saved where state_path was given")

    def _with_validation(self, record: EpochRecord) -> EpochRecord:
        if self._val_loader is None:
            return record
        started = time.monotonic()
        metrics = self.validate()
        if self.recipe.schedule == "plateau":
            self.step_scheduler(metrics["loss"])
        return replace(record, val=metrics, seconds=record.seconds + time.monotonic() - started)
