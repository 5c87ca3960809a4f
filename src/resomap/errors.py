"""Everything that ResoMap raises on purpose.

    ResoMapError
    ├── ConfigError              a YAML file, an override or a flag is wrong (all problems in one message)
    ├── ArgumentError            arrays or numbers that a function cannot take; a ValueError too
    ├── DatasetError             the images cannot make a study: folders, classes, splits
    │   └── BadImageError        one file cannot be decoded; carries the path and the reason
    ├── UnknownModelError        no model of that name; carries the nearest names
    ├── ResolutionError          a model cannot take that input resolution; names the nearest it can
    ├── CheckpointError          a checkpoint is missing, damaged, or of another model
    │   └── UnsafeCheckpointError  loading it would run code; it was not loaded
    ├── DeviceError              the device or the precision asked for is not there
    ├── TargetLayerError         no layer to explain (its output is not B C H W)
    ├── TrainingDivergedError    the loss became NaN or infinite; carries epoch and learning rate
    ├── StorageError             the disk is full, read-only, or not permitted
    ├── RunFailedError           a run's own process ended with an error or was killed; the message is its own
    ├── LeaseLostError           another process took a cell over while this one slept
    └── StudyError               a study directory does not fit what was asked of it
        └── ExtrapolationError   a fitted law was asked for a resolution outside the measured range

A message says what was expected, what came, and what to do. The command line prints it as one line
(or a short list) and exits with status 2; nothing already computed is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from resomap.printable import printable


class ResoMapError(Exception):
    """Base of all errors that a user can cause and mend."""


class ConfigError(ResoMapError):
    """One or more settings are wrong.

    Args:
        problems: one line for each problem, "file: dotted.key: what is wrong; what to do".
    """

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class ArgumentError(ResoMapError, ValueError):
    """A function was given arrays or numbers that it cannot take."""


class DatasetError(ResoMapError):
    """The images cannot make a study."""


class BadImageError(DatasetError):
    """One file cannot be decoded to an RGB image."""

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = Path(path)
        self.reason = reason
        super().__init__(f"{printable(self.path)}: {reason}")

    def __reduce__(self) -> tuple[type[BadImageError], tuple[Path, str]]:
        return type(self), (self.path, self.reason)


class UnknownModelError(ResoMapError):
    """No model of that name is known."""


class ResolutionError(ResoMapError):
    """The model cannot take that input resolution."""


class CheckpointError(ResoMapError):
    """A checkpoint is missing, damaged, or belongs to something else."""


class UnsafeCheckpointError(CheckpointError):
    """Loading the file would execute code from it; it was refused."""


class DeviceError(ResoMapError):
    """The device or precision asked for is not available."""


class TargetLayerError(ResoMapError):
    """No layer with a (B, C, H, W) output was found or named."""


class TrainingDivergedError(ResoMapError):
    """The loss is NaN or infinite."""

    def __init__(self, *, epoch: int, update: int, learning_rate: float, loss: float) -> None:
        self.epoch, self.update = epoch, update
        self.learning_rate, self.loss = learning_rate, loss
        super().__init__(
            f"the loss became {loss} in epoch {epoch}, update {update}, at learning rate "
            f"{learning_rate:g}; lower training.learning_rate, or set training.clip_grad_norm"
        )

    def __reduce__(self) -> tuple[Callable[..., TrainingDivergedError], tuple[()]]:
        values = {n: getattr(self, n) for n in ("epoch", "update", "learning_rate", "loss")}
        return partial(type(self), **values), ()


class StorageError(ResoMapError):
    """Writing failed: no room, no permission, or a read-only file system."""


class RunFailedError(ResoMapError):
    """A run failed in a process of its own."""


class LeaseLostError(ResoMapError):
    """Another process works on this now; nothing more may be written."""


class StudyError(ResoMapError):
    """The study directory holds something else than what was asked for."""


class ExtrapolationError(StudyError):
    """A fitted law was asked for a resolution outside the range that it was measured in."""
