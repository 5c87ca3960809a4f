"""Batches for training and evaluation, on torch's DataLoader.

A loader's items are uint8 pixels and one affine colour map an image; `to_model_input` applies the map on the device, in
one pass together with normalisation. Sampler items carry the epoch, so workers keep no state and the result does not
depend on them.

Legend: B images, H W pixels, 3 channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resomap.data.augmentation import AugmentationSettings, Draws, draw
from resomap.data.batches import Batch, as_batches, to_model_input
from resomap.data.colour import jitter_map, normalisation_map
from resomap.data.epoch_plan import MicroBatch, plan_epoch
from resomap.data.pinned_ring import Ring, ring_for
from resomap.data.pyramid import ImageStore
from resomap.data.randomness import epoch_order, image_keys
from resomap.data.rotate_blur_hue import warp

__all__ = ["Batch", "EvalLoader", "TrainLoader", "as_batches", "to_model_input"]

Rgb = Sequence[float]
T = TypeVar("T")


@dataclass
class _TrainImages(Dataset[Batch]):
    """Augmented images of a store; asked for a whole micro-batch of (epoch, position) at once."""

    store: ImageStore
    resolution: int
    augmentation: AugmentationSettings
    seed: int
    mean: Rgb
    std: Rgb
    keys: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.keys = image_keys([image.image_id for image in self.store.images])

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch:
        epoch = items[0][0]
        indices = np.array([index for _, index in items], dtype=np.int64)
        draws = draw(
            self.augmentation,
            self.store.sizes[indices],
            keys_B=self.keys[indices],
            seed=self.seed,
            epoch=epoch,
        )
        pixels = self._pixels(indices, draws)
        return Batch(
            images=torch.from_numpy(pixels),
            labels=torch.from_numpy(self.store.labels[indices]),
            indices=torch.from_numpy(indices),
            colour=self._colour(pixels, draws),
        )

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        return self.__getitems__([item])

    def _pixels(self, indices: np.ndarray, draws: Draws) -> np.ndarray:
        side, settings = self.resolution, self.augmentation
        if settings.crop == "center":
            pixels = self.store.squares(side, indices)
        else:
            pixels = self.store.crops(indices, draws.boxes, side)
        images = torch.from_numpy(pixels)  # torch flips pixels ten times faster than numpy
        for flipped in np.flatnonzero(draws.flip_x).tolist():
            images[flipped] = images[flipped].flip(1)
        for flipped in np.flatnonzero(draws.flip_y).tolist():
            images[flipped] = images[flipped].flip(0)
        return warp(pixels, draws) if settings.warps else pixels

    def _colour(self, pixels: np.ndarray, draws: Draws) -> Tensor:
        if not self.augmentation.jitters:
            return normalisation_map(self.mean, self.std)
        return jitter_map(
            pixels,
            brightness_B=draws.brightness,
            contrast_B=draws.contrast,
            saturation_B=draws.saturation,
            mean=self.mean,
            std=self.std,
        )


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A batch whose pixels lie in a ring; the rest is small, and pickled."""

    number: int
    labels: np.ndarray
    indices: np.ndarray
    colour: np.ndarray | None

    def batch(self, ring: Ring) -> Batch:
        return Batch(
            images=ring.read(self.number, len(self.labels)),
            labels=torch.from_numpy(self.labels),
            indices=torch.from_numpy(self.indices),
            colour=None if self.colour is None else torch.from_numpy(self.colour),
        )


@dataclass
class _RingImages(Dataset[_Parcel]):
    """Asked for (number of the batch, its images)."""

    images: _TrainImages
    ring: Ring

    def __getitems__(self, numbered: tuple[int, list[tuple[int, int]]]) -> _Parcel:
        number, items = numbered
        batch = self.images.__getitems__(items)
        self.ring.write(number, batch.images.numpy())
        colour = None if batch.colour is None else batch.colour.numpy()
        return _Parcel(number, batch.labels.numpy(), batch.indices.numpy(), colour)


def _read(ring: Ring, parcels: Iterator[_Parcel]) -> Iterator[Batch]:
    for parcel in parcels:
        try:
            yield parcel.batch(ring)
        finally:
            ring.advance()


def _identity(batch: Any) -> Any:
    return batch


def _as_planned(plan: Sequence[MicroBatch], batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, each told its part of its update."""
    parts = zip(plan, batches, strict=True)
    return (replace(batch, share=part.share, ends_update=part.ends_update) for part, batch in parts)


class _EpochSampler:
    """Batches of (epoch, position in the store); the main process alone knows the epoch."""

    def __init__(self, plan: list[MicroBatch], *, images: int, seed: int) -> None:
        self.plan, self._images, self._seed = plan, images, seed
        self.epoch = 0
        self.start_update = 0

    def remaining(self) -> list[MicroBatch]:
        return [part for part in self.plan if part.update >= self.start_update]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # Settled here, not while iterating: set_epoch is for the next iteration, not for one under way.
        epoch = self.epoch
        order = epoch_order(self._images, seed=self._seed, epoch=epoch).tolist()
        return ([(epoch, index) for index in order[part.start : part.stop]] for part in self.remaining())

    def __len__(self) -> int:
        return len(self.remaining())


@dataclass
class _Numbered:
    """The batches of a sampler with their numbers from 0."""

    sampler: _EpochSampler

    def __iter__(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        return enumerate(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


class TrainLoader:
    """Micro-batches of augmented images, an epoch at a time.

    The order, the regions and the colours follow from (seed, epoch, image id): the same at every resolution, with
    any number of workers, and after a restart in the middle of an epoch.

    Args:
        effective_batch: images of one optimiser update, over all ranks.
        micro_batch: images of one forward pass.
        workers: processes; 0 works in this one, which is best where the cores are busy anyway.
        pin_memory: batches come in page-locked memory. With workers and CUDA they lie in a ring (data/pinned_ring.py):
            a batch is valid until the third one after it is asked for.
        prefetch_factor: batches that each worker prepares ahead; only with workers.
    """

    def __init__(
        self,
        store: ImageStore,
        *,
        resolution: int,
        augmentation: AugmentationSettings,
        effective_batch: int,
        micro_batch: int,
        seed: int,
        mean: Rgb,
        std: Rgb,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
    ) -> None:
        self.rank, self.world_size = rank, world_size
        plan = plan_epoch(
            len(store),
            effective_batch=effective_batch,
            micro_batch=micro_batch,
            rank=rank,
            world_size=world_size,
        )
        self._sampler = _EpochSampler(plan, images=len(store), seed=seed)
        images = _TrainImages(store, resolution, augmentation, seed, mean, std)
        options: dict[str, Any] = {
            "workers": workers,
            "prefetch_factor": prefetch_factor,
            "persistent_workers": persistent_workers,
        }
        self._ring = None
        if pin_memory:
            self._ring = ring_for(
                workers=min(workers, len(plan)),
                prefetch_factor=prefetch_factor or 2,
                images=micro_batch,
                side=resolution,
            )
        if self._ring is None:
            self._loader = data_loader(images, self._sampler, pin_memory=pin_memory, **options)
        else:
            self._parcels = data_loader(
                _RingImages(images, self._ring), _Numbered(self._sampler), start_method="fork", **options
            )
        self.updates_per_epoch = plan[-1].update + 1
        self.micro_steps_per_epoch = len(plan)
        self.samples_per_epoch = len(store)

    def set_epoch(self, epoch: int, *, start_update: int = 0) -> None:
        """The next iteration is epoch `epoch`, from update `start_update` on."""
        self._sampler.epoch, self._sampler.start_update = epoch, start_update

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._loader) if self._ring is None else self._from(self._ring)
        return _as_planned(self._sampler.remaining(), batches)

    def _from(self, ring: Ring) -> Iterator[Batch]:
        ring.restart()
        return _read(ring, iter(self._parcels))


@dataclass
class _EvalImages(Dataset[Batch]):
    store: ImageStore
    resolution: int
    colour: Tensor

    def __getitems__(self, items: list[int]) -> Batch:
        indices = np.array(items, dtype=np.int64)
        return Batch(
            images=torch.from_numpy(self.store.squares(self.resolution, indices)),
            labels=torch.from_numpy(self.store.labels[indices]),
            indices=torch.from_numpy(indices),
            colour=self.colour,
        )

    def __getitem__(self, item: int) -> Batch:
        return self.__getitems__([item])


class EvalLoader:
    """Batches of evaluation images in the store's order; rank r of n takes every n-th image from the r-th on.

    Args:
        order_seed: the images are in a random order instead, the same at every pass and every resolution.
        update_batch: images of an update, over all ranks, where a network is trained on the batches: these are then its
            micro-batches, of at most batch_size. None: each batch is its own.
    """

    def __init__(
        self,
        store: ImageStore,
        *,
        resolution: int,
        batch_size: int,
        mean: Rgb,
        std: Rgb,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        order_seed: int | None = None,
        update_batch: int | None = None,
    ) -> None:
        self.rank, self.world_size, self.store = rank, world_size, store
        everyones = list(range(len(store)))
        if order_seed is not None:
            everyones = np.random.default_rng(order_seed).permutation(len(store)).tolist()
        self._plan: list[MicroBatch] | None = None
        if update_batch is None:
            own = everyones[rank::world_size]
            batches = [own[i : i + batch_size] for i in range(0, len(own), batch_size)]
        else:
            self._plan = plan_epoch(
                len(store),
                effective_batch=update_batch,
                micro_batch=min(batch_size, update_batch),
                rank=rank,
                world_size=world_size,
            )
            batches = [everyones[part.start : part.stop] for part in self._plan]
        self._count = len(batches)
        self._loader = data_loader(
            _EvalImages(store, resolution, normalisation_map(mean, std)),
            batches,
            workers=workers,
            pin_memory=pin_memory,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
        )

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        if self._plan is None:
            return iter(self._loader)
        return _as_planned(self._plan, self._loader)


def data_loader(
    images: Dataset[T],
    batches: Any,
    *,
    workers: int = 0,
    pin_memory: bool = False,
    prefetch_factor: int | None = None,
    persistent_workers: bool = False,
    start_method: str | None = None,
) -> DataLoader[T]:
    """A DataLoader whose items are whole batches, made by the data set's __getitems__.

    It starts no more workers than there are batches: the others would have nothing to do.
    """
    workers = min(workers, len(batches))
    return DataLoader(
        images,
        batch_sampler=batches,
        collate_fn=_identity,
        generator=torch.Generator(),  # else each epoch would draw from, and change, the global one
        num_workers=workers,
        multiprocessing_context=start_method,
        pin_memory=pin_memory,
        prefetch_factor=prefetch_factor if workers else None,
        persistent_workers=persistent_workers and workers > 0,
    )
