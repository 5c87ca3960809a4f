"""How much room decoded images will take, before any is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resomap.data.hashes import remembered_hashes
from resomap.data.store_build import header_sizes, needed_bytes
from resomap.data.store_files import find
from resomap.data.store_settings import StoreSettings
from resomap.records import ImageRecord

_LOOKED_AT = 1000
"""Headers that are read: the images' sizes are taken to be theirs in the mean."""


@dataclass(frozen=True, slots=True)
class StoreNeed:
    """What the store of one split takes of the cache."""

    bytes: int
    is_there: bool
    """Whether the cache has it already."""


def store_need(images: Sequence[ImageRecord], *, settings: StoreSettings, cache_dir: Path) -> StoreNeed:
    """What pyramid.open_store would write into the cache, or finds there; no image is decoded."""
    sample = np.unique(np.linspace(0, len(images) - 1, min(len(images), _LOOKED_AT)).round().astype(int)).tolist()
    sizes, _ = header_sizes([images[i] for i in sample], max_pixels=settings.max_pixels, workers=None)
    need = round(needed_bytes(sizes, settings) * len(images) / len(sample))
    hashes = remembered_hashes(images, cache_dir=cache_dir)
    if len(hashes) < len(images):  # a store is only made of images whose hashes are known
        return StoreNeed(need, is_there=False)
    stored = find(images, [hashes[image.image_id] for image in images], settings=settings, cache_dir=cache_dir)
    return StoreNeed(need, is_there=stored is not None)
