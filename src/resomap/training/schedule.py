"""Learning rate over time: pure functions of the update's number, and the one schedule that has to listen.

Every schedule but 'plateau' is a factor on the peak learning rate that depends on nothing but which update
it is, so that resuming needs no scheduler state, and that a curve can be worked out by hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

SCHEDULES = ("constant", "cosine", "exponential", "plateau", "step")


@dataclass(frozen=True, slots=True)
class Schedule:
    """When the learning rate changes, in updates of the optimiser.

    Let u be the update's number from 0, T all updates, E the updates of an epoch, W those of the warm-up:

        u < W         (u + 1) / W                              whatever the schedule
        constant      1
        plateau       1 (times the factor of `Plateau`)
        cosine        (1 + cos(pi (u - W) / (T - W))) / 2      from 1 at u = W towards 0 at u = T
        step          gamma ** floor(floor(u / E) / step_epochs)
        exponential   gamma ** ((u - W) / E)

    Reference: cosine from Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, with one cycle.
    """

    name: str
    total_updates: int
    updates_per_epoch: int
    warmup_updates: int = 0
    step_epochs: int = 10
    gamma: float = 0.1

    def factor(self, update: int) -> float:
        """Share of the peak learning rate that update number `update` (from 0) uses."""
        if update < self.warmup_updates:
            return (update + 1) / self.warmup_updates
        since = update - self.warmup_updates
        if self.name == "cosine":
            span = max(1, self.total_updates - self.warmup_updates)
            return (1.0 + math.cos(math.pi * min(1.0, since / span))) / 2.0
        if self.name == "step":
            return self.gamma ** (update // self.updates_per_epoch // self.step_epochs)
        if self.name == "exponential":
            return self.gamma ** (since / self.updates_per_epoch)
        return 1.0


def warmup_updates(warmup_epochs: float, *, updates_per_epoch: int, total_updates: int) -> int:
    """Updates of linear warm-up; at least one update is left at the peak."""
    return min(round(warmup_epochs * updates_per_epoch), total_updates - 1)


class Plateau:
    """Multiplies the learning rate by `gamma` after `patience` epochs without a smaller validation loss.

    Counting starts anew after each drop. An epoch is better when its loss is smaller by more than 0.01 %, the
    relative threshold of torch's ReduceLROnPlateau.
    """

    THRESHOLD = 1e-4

    def __init__(self, *, gamma: float, patience: int) -> None:
        self.gamma, self.patience = gamma, patience
        self.factor, self.best, self.waited = 1.0, math.inf, 0

    def step(self, loss: float) -> None:
        """One more epoch, with this validation loss."""
        if loss < self.best * (1.0 - self.THRESHOLD):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.factor, self.waited = self.factor * self.gamma, 0

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.factor, self.best, self.waited = state["factor"], state["best"], state["waited"]
