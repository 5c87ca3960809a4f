"""How an epoch is cut into updates, and an update into micro-batches; the same for any number of processes."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from resomap.errors import ConfigError


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A slice of the epoch's order.

    share: its images / images of the whole update, over all ranks; 0 for a repeat that only keeps ranks in step.
    """

    update: int
    start: int
    stop: int
    share: float
    ends_update: bool


def plan_epoch(
    n: int, *, effective_batch: int, micro_batch: int, rank: int = 0, world_size: int = 1
) -> list[MicroBatch]:
    """The micro-batches of one rank for n images.

    Update u takes images u E to (u + 1) E of the epoch's order. What is left over is an update of its own, except a
    single image, which joins the update before (BatchNorm cannot normalise one). An update is cut into
    ceil(size / micro_batch) nearly equal parts; part j goes to rank j mod world_size. Every rank gets the same
    number of parts: one that has fewer repeats the update's first part with share 0.
    """
    if not 1 <= micro_batch <= effective_batch:
        raise ConfigError(f"micro_batch: expected 1 to the effective batch {effective_batch}, got {micro_batch}")
    if n < 1:
        raise ConfigError("there are no images to train on")
    plan = []
    for update, (start, stop) in enumerate(itertools.pairwise(_edges(n, effective_batch))):
        plan += _plan_update(update, start, stop, micro_batch=micro_batch, rank=rank, world_size=world_size)
    return plan


def smallest_part(n: int, *, effective_batch: int, micro_batch: int) -> int:
    """Images of the smallest micro-batch that plan_epoch makes of n images."""
    sizes = {stop - start for start, stop in itertools.pairwise(_edges(n, effective_batch))}
    return min(size // math.ceil(size / micro_batch) for size in sizes)


def _edges(n: int, effective_batch: int) -> list[int]:
    """Where the updates begin, and n."""
    edges = [*range(0, n, effective_batch), n]
    if effective_batch > 1 and len(edges) > 2 and edges[-1] - edges[-2] == 1:
        del edges[-2]
    return edges


def _plan_update(
    update: int, start: int, stop: int, *, micro_batch: int, rank: int, world_size: int
) -> list[MicroBatch]:
    count = math.ceil((stop - start) / micro_batch)
    cuts = np.linspace(start, stop, count + 1).round().astype(int).tolist()
    parts = [(a, b, (b - a) / (stop - start)) for a, b in itertools.pairwise(cuts)]
    steps = math.ceil(count / world_size)
    parts += [(parts[0][0], parts[0][1], 0.0)] * (steps * world_size - count)
    own = parts[rank::world_size]
    return [MicroBatch(update, a, b, share, ends_update=i == len(own) - 1) for i, (a, b, share) in enumerate(own)]
