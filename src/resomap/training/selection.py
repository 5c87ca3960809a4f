"""Which epoch is the best one, by a metric and a mode that are always named, never guessed."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from resomap.checks import is_whole
from resomap.errors import ConfigError
from resomap.records import EpochRecord, FitRecord

_OF_TRAINING = ("train_loss", "train_accuracy")


def monitored_value(record: EpochRecord, monitor: str) -> float:
    """The value of `monitor` in an epoch: a validation metric, or 'train_loss' / 'train_accuracy'.

    Raises:
        ConfigError: there is no such metric.
    """
    if monitor in _OF_TRAINING:
        return float(getattr(record, monitor))
    check_monitor(monitor, record.val)
    return float(record.val[monitor])


def check_monitor(monitor: str, validated: Collection[str]) -> None:
    """Refuse a metric that no epoch will have.

    Args:
        validated: names of the validation metrics; empty without a val_loader.
    Raises:
        ConfigError: there is no such metric.
    """
    if monitor not in (*validated, *_OF_TRAINING):
        known = ", ".join(sorted([*validated, *_OF_TRAINING]))
        others = "" if validated else "; those of validation need a val_loader"
        raise ConfigError(f"monitor: there is no metric {monitor!r}; available: {known}{others}")


def is_better(value: float, than: float, mode: str, *, min_delta: float = 0.0) -> bool:
    """Whether `value` beats `than` by more than `min_delta`; NaN beats nothing."""
    return value < than - min_delta if mode == "min" else value > than + min_delta


def check_mode(mode: str, *, name: str = "mode") -> str:
    """`mode` itself when it is 'min' or 'max'.

    Args:
        name: of the argument.
    Raises:
        ConfigError: it is neither.
    """
    if mode not in ("min", "max"):
        raise ConfigError(f"{name}: expected min or max, got {mode!r}")
    return mode


def mode_of(monitor: str, mode: str | None) -> str:
    """`mode`, or that of the loss, whose smaller value is the better one.

    Raises:
        ConfigError: it is neither min nor max, or missing with another monitor.
    """
    if mode is None and monitor != "loss":
        raise ConfigError(f"monitor_mode: expected min or max with the monitor {monitor!r}, got none")
    return check_mode("min" if mode is None else mode, name="monitor_mode")


def check_count(name: str, count: int) -> None:
    """Refuse what is no number of epochs.

    Raises:
        ConfigError: not a whole number from 1.
    """
    if not is_whole(count) or count < 1:
        raise ConfigError(f"{name}: expected a whole number from 1, got {count!r}")


def fit_record(
    history: Sequence[EpochRecord], *, monitor: str, mode: str, updates: int, stopped_early: bool
) -> FitRecord:
    """The outcome of training: the best of the epochs that have the metric, the earliest among equals.

    Raises:
        ConfigError: none has it.
    """
    assessed = [record for record in history if monitor in (*record.val, *_OF_TRAINING)]
    if not assessed:
        raise ConfigError(f"fit(): no epoch was left to train, and none has {monitor}; validate() tells the last one's")
    best = assessed[0]
    for record in assessed[1:]:
        if is_better(monitored_value(record, monitor), monitored_value(best, monitor), mode):
            best = record
    last_tenth = max(1, math.ceil(len(history) / 10))
    return FitRecord(
        epochs=tuple(history),
        best_epoch=best.epoch,
        best_value=monitored_value(best, monitor),
        monitor=monitor,
        updates=updates,
        stopped_early=stopped_early,
        still_improving=not stopped_early and best.epoch > len(history) - last_tenth,
    )
