"""A loss that became NaN or infinite: told with the epoch and the learning rate at which it was seen."""

from __future__ import annotations

import math

from resomap.errors import TrainingDivergedError


def divergence(loss: float, *, update: int, updates_per_epoch: int, learning_rate: float) -> TrainingDivergedError:
    """The error for a loss that is not finite.

    Args:
        loss: NaN or infinite; NaN also stands for weights or answers that are not finite.
        update: updates made so far.
    """
    return TrainingDivergedError(
        epoch=max(1, math.ceil(update / updates_per_epoch)), update=update, learning_rate=learning_rate, loss=loss
    )
