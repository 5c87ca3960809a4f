"""Evaluation images at several resolutions at once, each decoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from resomap.data.batches import Batch
from resomap.data.colour import normalisation_map
from resomap.data.loaders import data_loader
from resomap.data.pyramid import ImageStore

Sizes = dict[int, Batch]
"""Resolution -> the batch at that resolution; the images are the same."""


@dataclass
class _SizesImages(Dataset[Sizes]):
    store: ImageStore
    resolutions: tuple[int, ...]
    colour: Tensor

    def __getitems__(self, items: list[int]) -> Sizes:
        indices = np.array(items, dtype=np.int64)
        labels = torch.from_numpy(self.store.labels[indices])
        return {
            side: Batch(torch.from_numpy(pixels), labels, torch.from_numpy(indices), self.colour)
            for side, pixels in self.store.squares_of(self.resolutions, indices).items()
        }

    def __getitem__(self, item: int) -> Sizes:
        return self.__getitems__([item])


class SizesLoader:
    """Batches of evaluation images in the store's order, as {resolution: Batch}.

    Args:
        loader_options: of DataLoader: workers, pin_memory, prefetch_factor, persistent_workers.
    """

    def __init__(
        self,
        store: ImageStore,
        *,
        resolutions: Sequence[int],
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        **loader_options: Any,
    ) -> None:
        self.store = store
        batches = [list(range(i, min(i + batch_size, len(store)))) for i in range(0, len(store), batch_size)]
        images = _SizesImages(store, tuple(dict.fromkeys(resolutions)), normalisation_map(mean, std))
        self._loader = data_loader(images, batches, **loader_options)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Sizes]:
        return iter(self._loader)
