"""Seconds of a training step on this machine, from a few real ones."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from resomap.config.schema import ResoMapConfig
from resomap.records import Cell
from resomap.study import build

LEAST_S = 0.5
"""Time spent on measuring each point, warm-up excluded."""
LONGEST_STEP_S = 5.0
"""A point whose single image would take longer is scaled from a smaller one instead."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Training time per image as a power of the side, through one or two measured points."""

    sides: tuple[int, ...]
    seconds_per_image: tuple[float, ...]
    exponent: float

    def at(self, resolution: int) -> float:
        """Seconds per image at a resolution."""
        return self.seconds_per_image[0] * (resolution / self.sides[0]) ** self.exponent


def calibrate(
    config: ResoMapConfig, model: str, resolutions: Sequence[int], *, num_classes: int, micro_batch: int
) -> StepTime:
    """Time the smallest and, where that is affordable, the largest resolution of a model.

    Convolutions cost in proportion to the pixels, so one point is scaled with r^2.
    """
    low, high = min(resolutions), max(resolutions)

    def measured(side: int, batch: int) -> float:
        return _seconds_per_image(config, Cell(model, side, 0), num_classes=num_classes, batch=batch)

    first = measured(low, micro_batch)
    expected = first * (high / low) ** 2
    if high == low or expected > LONGEST_STEP_S:
        return StepTime((low,), (first,), 2.0)
    # As many images as fit the time: the batch matters less than the side (caches), but it does.
    last = measured(high, max(1, min(micro_batch, int(LONGEST_STEP_S / expected))))
    return StepTime((low, high), (first, last), math.log(last / first) / math.log(high / low))


def _seconds_per_image(config: ResoMapConfig, cell: Cell, *, num_classes: int, batch: int) -> float:
    """Median over updates of the real Trainer on random images."""
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.randn(max(2, batch), 3, cell.resolution, cell.resolution, generator=generator)
    labels_B = torch.arange(len(images_BCHW)) % num_classes
    network = build.model(config, cell, num_classes=num_classes)
    trainer = build.timing_trainer(config, network, [(images_BCHW, labels_B)], cell=cell)
    return median_seconds(trainer.train_epoch) / len(images_BCHW)


def median_seconds(step: Callable[[], object], *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median duration of `step`: one call to warm up, then at least 3 calls and LEAST_S seconds."""
    step()
    times: list[float] = []
    while len(times) < 3 or sum(times) < LEAST_S:
        started = clock()
        step()
        times.append(clock() - started)
    return sorted(times)[len(times) // 2]
