"""Images decoded once: squares for evaluation, reduced levels for random crops, memory-mapped from a cache.

    store = open_store(images, settings=StoreSettings(resolutions=(224, 320)), cache_dir=..., cache_gib=20,
                       content_hashes=hashes)
    store.square(0, 224)            the evaluation image, byte for byte resize.to_square's
    store.crop(0, box, 224)         a random crop

A store is a folder of flat uint8 files (data/store_files.py); where it does not fit, images are decoded at each
access with the same results (data/on_the_fly.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resomap.data import pyramid_levels
from resomap.data.bad_files import settle_bad_files
from resomap.data.decode import decode_rgb
from resomap.data.image_store import ImageStore
from resomap.data.on_the_fly import OnTheFlyStore, open_on_the_fly
from resomap.data.resize import to_square
from resomap.data.store_build import Progress
from resomap.data.store_files import StoredImages, find, find_or_build, open_stored
from resomap.data.store_settings import StoreSettings
from resomap.errors import ConfigError, StorageError
from resomap.printable import printable
from resomap.records import BadFile, ImageRecord

__all__ = ["CachedStore", "ImageStore", "OnTheFlyStore", "StoreSettings", "find_store", "open_store", "reopen_store"]

log = logging.getLogger(__name__)


class CachedStore(ImageStore):
    """A store on disk, memory-mapped."""

    def __init__(self, images: Sequence[ImageRecord], stored: StoredImages, settings: StoreSettings) -> None:
        kept = [images[i] for i in stored.good]
        bad = [BadFile(images[i].image_id, reason) for i, reason in stored.bad]
        super().__init__(kept, stored.sizes[stored.good], bad, settings)
        self._stored = stored

    @property
    def folder(self) -> Path:
        """Where its files lie: <cache_dir>/pyramid/<key>."""
        return self._stored.folder

    def squares(self, resolution: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        self._check_resolution(resolution)
        rows = self._stored.good[np.asarray(indices)]
        pixels = self._stored.squares(resolution)[rows]
        self._stored.has_read(pixels.nbytes)
        for position in self._stored.damaged_squares(resolution, rows, pixels):
            image = self._decode_again(int(indices[position]))
            pixels[position] = to_square(
                image, resolution, kernel=self.settings.kernel, information=self.settings.information
            )
        return pixels

    def level_pixels(self, indices: np.ndarray, levels_B: np.ndarray) -> tuple[list[Tensor], np.ndarray]:
        rows = self._stored.good[indices]
        pixels, chosen_B = self._stored.level_pixels(rows, levels_B)
        for position in self._stored.damaged_levels(rows, chosen_B, pixels):
            image = self._decode_again(int(indices[position]))
            pixels[position] = torch.from_numpy(np.array(pyramid_levels.reduce(image, int(chosen_B[position]))))
        return pixels, chosen_B

    def _decode_again(self, index: int) -> Image.Image:
        """The image itself; the next start builds the store anew."""
        log.warning("the decoded cache of %s is damaged; decoding it again", printable(self.images[index].image_id))
        self._stored.forget()
        return decode_rgb(self.images[index].path, max_pixels=self.settings.max_pixels)


def open_store(
    images: Sequence[ImageRecord],
    *,
    settings: StoreSettings,
    cache_dir: Path,
    cache_gib: float,
    content_hashes: Mapping[str, str],
    on_bad_file: str = "stop",
    workers: int | None = None,
    progress: Progress | None = None,
) -> ImageStore:
    """Open the decoded images of one split; decode them first where the cache does not hold them.

    Args:
        cache_gib: bound of the whole cache; 0 decodes on the fly.
        on_bad_file: 'stop' raises with the whole list, 'skip' leaves them out and records them.
        workers: decoding threads; None: one a core.
        progress: called with (done, total).
    Raises:
        DatasetError: unreadable files (all named), or a class without images once they are left out.
        StorageError: the cache cannot be written.
    """
    if on_bad_file not in ("stop", "skip"):
        raise ConfigError(f"on_bad_file: expected 'stop' or 'skip', got {on_bad_file!r}")
    stored = find_or_build(
        images,
        [content_hashes[image.image_id] for image in images],
        settings=settings,
        cache_dir=cache_dir,
        limit_bytes=int(cache_gib * 2**30),
        workers=workers,
        progress=progress,
    )
    store: ImageStore
    if stored is None:
        store = open_on_the_fly(images, settings, workers=workers, progress=progress)
    else:
        store = CachedStore(images, stored, settings)
    settle_bad_files(store.bad_files, images, kept=store.images, on_bad_file=on_bad_file)
    return store


def find_store(
    images: Sequence[ImageRecord],
    *,
    settings: StoreSettings,
    cache_dir: Path,
    content_hashes: Mapping[str, str],
    on_bad_file: str = "stop",
) -> ImageStore | None:
    """The store of these images as open_store would give it, if it is in the cache; nothing is decoded.

    Raises:
        DatasetError: as open_store.
    """
    hashes = [content_hashes[image.image_id] for image in images]
    stored = find(images, hashes, settings=settings, cache_dir=cache_dir)
    if stored is None:
        return None
    store = CachedStore(images, stored, settings)
    settle_bad_files(store.bad_files, images, kept=store.images, on_bad_file=on_bad_file)
    return store


def reopen_store(folder: Path, images: Sequence[ImageRecord], settings: StoreSettings) -> CachedStore:
    """Open the store in `folder` that another process has built from these images; the files of the images are not
    looked at.

    Raises:
        StorageError: it is not there, damaged, or of another version.
    """
    stored = open_stored(folder, images, settings)
    if stored is None:
        raise StorageError(f"the decoded images {printable(folder)} are gone or damaged; run the same command again")
    return CachedStore(images, stored, settings)
