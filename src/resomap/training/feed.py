"""Where training batches come from: ResoMap's TrainLoader, or any DataLoader of (images, labels)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from typing import Any, Protocol

import torch
from torch.utils.data import BatchSampler

from resomap.checks import is_whole
from resomap.data.loaders import Batch, TrainLoader, as_batches
from resomap.data.randomness import derive_seed
from resomap.errors import ConfigError
from resomap.models.generators import seed_generators
from resomap.training.engine import Engine


class Feed(Protocol):
    """Batches of an epoch, from any update on, the same ones every time they are asked for."""

    updates_per_epoch: int
    ends_with_one: bool
    """Whether the epoch's last batch is known to have a single image."""

    def batches(self, epoch: int, *, start_update: int) -> Iterator[Batch]:
        """The micro-batches of epoch `epoch` (from 0), without those of the first `start_update` updates."""


def make_feed(loader: Any, *, engine: Engine, accumulation_steps: int, seed: int) -> Feed:
    """A feed over `loader`.

    Raises:
        ConfigError: the loader does not fit the number of processes, has no length, or is empty.
    """
    rank, world_size = engine.rank, engine.world_size
    if isinstance(loader, TrainLoader):
        if (loader.rank, loader.world_size) != (rank, world_size):
            raise ConfigError(
                f"the TrainLoader was made for rank {loader.rank} of {loader.world_size}, this process is "
                f"rank {rank} of {world_size}; give it rank= and world_size= (see engine.process_ranks)"
            )
        return _StudyFeed(loader)
    if world_size > 1:
        raise ConfigError(
            f"a plain DataLoader cannot be shared by {world_size} processes with the right gradients; "
            "use resomap.data.loaders.TrainLoader"
        )
    return _PlainFeed(loader, accumulation_steps=accumulation_steps, seed=seed, device=engine.device)


class _StudyFeed:
    ends_with_one = False  # study.build looks at that before training

    def __init__(self, loader: TrainLoader) -> None:
        self._loader = loader
        self.updates_per_epoch = loader.updates_per_epoch

    def batches(self, epoch: int, *, start_update: int) -> Iterator[Batch]:
        self._loader.set_epoch(epoch, start_update=start_update)
        return iter(self._loader)


class _PlainFeed:
    """A DataLoader whose order and random transforms follow from (seed, epoch, position) as far as torch's
    go.

    Resuming loads and drops the batches before `start_update`. Transforms that draw from `random` or numpy,
    or in worker processes, are only as repeatable as they are made.
    """

    def __init__(self, loader: Any, *, accumulation_steps: int, seed: int, device: torch.device) -> None:
        try:
            batches = len(loader)
        except TypeError:
            raise ConfigError(
                "the training loader has no length; schedules need one, use a map-style data set"
            ) from None
        if batches == 0:
            raise ConfigError("the training loader is empty; give it at least one batch of images")
        if not is_whole(accumulation_steps) or accumulation_steps < 1:
            raise ConfigError(f"accumulation_steps: expected a whole number, at least 1, got {accumulation_steps!r}")
        self._loader, self._steps, self._seed, self._device = loader, accumulation_steps, seed, device
        self.updates_per_epoch = math.ceil(batches / accumulation_steps)
        self.ends_with_one = _leaves_one(loader)

    def batches(self, epoch: int, *, start_update: int) -> Iterator[Batch]:
        for owner in (self._loader, getattr(self._loader, "sampler", None)):
            set_epoch = getattr(owner, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)
        done = 0
        for batch in as_batches(self._seeded(epoch), self._steps):
            if done >= start_update:
                yield batch
            done += batch.ends_update

    def _seeded(self, epoch: int) -> Iterator[Any]:
        """The loader's batches, each drawn with generators seeded for its position."""
        seed_generators(derive_seed(self._seed, "order", epoch), self._device)
        iterator = iter(self._loader)
        for position in count():
            seed_generators(derive_seed(self._seed, "load", epoch, position), self._device)
            try:
                batch = next(iterator)
            except StopIteration:
                return
            yield batch


def _leaves_one(loader: Any) -> bool:
    """Whether a DataLoader's last batch has one image, as far as it says."""
    sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(sampler, BatchSampler) or sampler.drop_last:
        return False
    try:
        return sampler.batch_size > 1 and len(sampler.sampler) % sampler.batch_size == 1  # type: ignore[arg-type]
    except TypeError:
        return False
