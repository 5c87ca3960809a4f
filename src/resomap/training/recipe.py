"""The settings that determine what a run learns, checked together before anything starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from resomap.checks import is_number, is_whole
from resomap.errors import ConfigError
from resomap.training.optimizers import OPTIMIZERS, build_optimizer
from resomap.training.schedule import SCHEDULES, Plateau, Schedule, warmup_updates

_ROUNDING = 1e-6
"""Of epochs that a schedule was stretched by (study.build.with_budget)."""

_NUMBERS = {
    **dict.fromkeys(("epochs", "seed"), True),
    **dict.fromkeys(("learning_rate", "weight_decay", "momentum", "warmup_epochs", "step_epochs", "gamma"), False),
    **dict.fromkeys(("plateau_patience", "label_smoothing"), False),
}
"""Settings that are numbers, and whether they are whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model is trained; equal recipes on equal batches give equal weights.

    Raises:
        ConfigError: one or more settings are out of range, all of them named.
    """

    epochs: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    momentum: float
    schedule: str
    warmup_epochs: float
    step_epochs: int
    gamma: float
    plateau_patience: int
    label_smoothing: float
    class_weights: tuple[float, ...] | None
    clip_grad_norm: float | None
    seed: int

    def __post_init__(self) -> None:
        problems = [
            f"training.{name}: expected {'a whole number' if whole else 'a number'}, got {getattr(self, name)!r}"
            for name, whole in _NUMBERS.items()
            if not (is_whole if whole else is_number)(getattr(self, name))
        ]
        if problems:
            raise ConfigError(problems)
        weights = self.class_weights or (0.0,)
        clip = self.clip_grad_norm
        longest = max(1, self.epochs) + _ROUNDING
        checks = [
            ("epochs", "at least 1", self.epochs >= 1),
            ("optimizer", f"one of {', '.join(OPTIMIZERS)}", self.optimizer in OPTIMIZERS),
            ("schedule", f"one of {', '.join(SCHEDULES)}", self.schedule in SCHEDULES),
            ("learning_rate", "above 0", self.learning_rate > 0),
            ("weight_decay", "at least 0", self.weight_decay >= 0),
            ("momentum", "from 0 to below 1", 0 <= self.momentum < 1),
            ("warmup_epochs", f"from 0 to the {self.epochs} epochs", 0 <= self.warmup_epochs <= longest),
            ("step_epochs", "at least 1", self.step_epochs >= 1),
            ("gamma", "between 0 and 1", 0 < self.gamma < 1),
            ("plateau_patience", "at least 1", self.plateau_patience >= 1),
            ("label_smoothing", "from 0 to below 1", 0 <= self.label_smoothing < 1),
            ("class_weights", "none below 0", min(weights) >= 0),
            ("clip_grad_norm", "above 0, or None", clip is None or clip > 0),
        ]
        problems = [
            f"training.{name}: expected {expected}, got {getattr(self, name)!r}"
            for name, expected, holds in checks
            if not holds
        ]
        if problems:
            raise ConfigError(problems)

    def optimizer_for(self, model: nn.Module, *, fused: bool, loss_scaled: bool) -> torch.optim.Optimizer:
        """The optimiser over the model's parameters, where they now are."""
        return build_optimizer(
            model,
            self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            fused=fused,
            loss_scaled=loss_scaled,
        )

    def curve(self, updates_per_epoch: int) -> Schedule:
        """The learning rate's factor over the updates."""
        total = self.epochs * updates_per_epoch
        warmup = warmup_updates(self.warmup_epochs, updates_per_epoch=updates_per_epoch, total_updates=total)
        return Schedule(
            self.schedule,
            total_updates=total,
            updates_per_epoch=updates_per_epoch,
            warmup_updates=warmup,
            step_epochs=self.step_epochs,
            gamma=self.gamma,
        )

    def plateau(self) -> Plateau:
        """The part of schedule 'plateau' that listens; idle under the others."""
        return Plateau(gamma=self.gamma, patience=self.plateau_patience)

    def plain(self) -> dict[str, Any]:
        """As plain values, for a saved state."""
        weights = list(self.class_weights) if self.class_weights is not None else None
        return asdict(self) | {"class_weights": weights}
