"""Images decoded once: squares for evaluation, reduced levels for random crops, memory-mapped from a cache.

    store = open_store(images, settings=StoreSettings(resolutions=(224, 320)), cache_dir=..., cache_gib=20,
                       content_hashes=hashes)
    store.square(0, 224)            the evaluation image, byte for byte resize.to_square's
    store.crop(0, box, 224)         a random crop

A store is a folder of flat uint8 files (data/store_files.py); where it does not fit, images are decoded at each
access with the same results.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resomap.data import levels
from resomap.data.bad_files import settle_bad_files
from resomap.data.decode import decode_rgb
from resomap.data.resize import to_square
from resomap.data.store_build import Progress, decode_all, header_sizes
from resomap.data.store_files import StoredImages, find, find_or_build, open_stored
from resomap.data.store_settings import StoreSettings
from resomap.errors import ConfigError, StorageError
from resomap.printable import printable
from resomap.records import BadFile, CropBox, ImageRecord, information_at

__all__ = ["CachedStore", "ImageStore", "OnTheFlyStore", "StoreSettings", "find_store", "open_store", "reopen_store"]

log = logging.getLogger(__name__)


class ImageStore(ABC):
    """Decoded images of one split.

    images: those that could be decoded; bad_files: the others. labels (N,) int64; sizes (N, 2) int32: native height
    and width in pixels.
    """

    def __init__(
        self,
        images: Sequence[ImageRecord],
        sizes: np.ndarray,
        bad: Sequence[BadFile],
        settings: StoreSettings,
    ) -> None:
        self.images = tuple(images)
        self.bad_files = tuple(bad)
        self.labels = np.array([image.label for image in images], dtype=np.int64)
        self.sizes = np.asarray(sizes, dtype=np.int32).reshape(-1, 2)
        self.settings = settings

    def __len__(self) -> int:
        return len(self.images)

    @abstractmethod
    def squares(self, resolution: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(len(indices), r, r, 3) uint8: evaluation images."""

    @abstractmethod
    def level_pixels(self, indices: np.ndarray, levels_B: np.ndarray) -> tuple[list[Tensor], np.ndarray]:
        """Pixels (h, w, 3) uint8 of the kept level nearest to the one wanted, read only, and which ones they are."""

    def squares_of(self, resolutions: Sequence[int], indices: Sequence[int] | np.ndarray) -> dict[int, np.ndarray]:
        """Resolution -> (len(indices), r, r, 3) uint8; no image is decoded twice."""
        return {resolution: self.squares(resolution, indices) for resolution in resolutions}

    def square(self, index: int, resolution: int) -> np.ndarray:
        """(r, r, 3) uint8: one evaluation image."""
        return self.squares(resolution, [index])[0]

    def crop(self, index: int, box: CropBox, resolution: int) -> np.ndarray:
        """(r, r, 3) uint8: the box resized to the resolution, antialiased."""
        boxes = np.array([[box.top, box.left, box.height, box.width]])
        return self.crops(np.array([index]), boxes, resolution)[0]

    def crops(self, indices: np.ndarray, boxes_B4: np.ndarray, resolution: int) -> np.ndarray:
        """(B, r, r, 3) uint8: one box (top, left, height, width in fractions) of each image, resized, antialiased.

        Where each box lies is worked out for the whole batch at once: per image, Python would cost as much as the
        resizing of a small crop.
        """
        self._check_resolution(resolution)
        if self.settings.crop == "center":
            raise ConfigError("a store opened with crop='center' holds no crops; open it with 'random_resized'")
        side, kernel = information_at(resolution, self.settings.information), self.settings.kernel
        sizes_B2 = self.sizes[indices].astype(np.int64)
        pixels, chosen_B = self.level_pixels(indices, levels.wanted_levels(boxes_B4, sizes_B2, side))
        edges = levels.edges(boxes_B4, sizes_B2, chosen_B).tolist()
        out = torch.empty((len(pixels), side, side, 3), dtype=torch.uint8)
        for slot, image, (top, left, height, width) in zip(out.unbind(), pixels, edges, strict=True):
            region = image[top : top + height, left : left + width]
            levels.resize_into(slot, region, kernel=kernel)
        if side == resolution:
            return out.numpy()
        return np.stack([to_square(Image.fromarray(crop), resolution, kernel=kernel) for crop in out.numpy()])

    def _check_resolution(self, resolution: int) -> None:
        if resolution not in self.settings.resolutions:
            raise ConfigError(
                f"the store holds {self.settings.resolutions}, not {resolution}; open it with that resolution"
            )


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
            pixels[position] = torch.from_numpy(np.array(levels.reduce(image, int(chosen_B[position]))))
        return pixels, chosen_B

    def _decode_again(self, index: int) -> Image.Image:
        """The image itself; the next start builds the store anew."""
        log.warning("the decoded cache of %s is damaged; decoding it again", printable(self.images[index].image_id))
        self._stored.forget()
        return decode_rgb(self.images[index].path, max_pixels=self.settings.max_pixels)


class OnTheFlyStore(ImageStore):
    """Decodes at each access; the same pixels as a CachedStore."""

    def squares(self, resolution: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        return self.squares_of([resolution], indices)[resolution]

    def squares_of(self, resolutions: Sequence[int], indices: Sequence[int] | np.ndarray) -> dict[int, np.ndarray]:
        made = {r: np.empty((len(indices), r, r, 3), dtype=np.uint8) for r in resolutions}
        for resolution in made:
            self._check_resolution(resolution)
        for position, index in enumerate(indices):
            image = self._decode(int(index))
            for resolution, squares in made.items():
                squares[position] = to_square(
                    image, resolution, kernel=self.settings.kernel, information=self.settings.information
                )
        return made

    def level_pixels(self, indices: np.ndarray, levels_B: np.ndarray) -> tuple[list[Tensor], np.ndarray]:
        chosen_B = levels_B.copy()
        pixels = []
        for i, index in enumerate(indices.tolist()):
            kept = self.settings.levels_of((int(self.sizes[index, 0]), int(self.sizes[index, 1])))
            chosen_B[i] = min(max(levels_B[i], kept.start), kept.stop - 1)
            pixels.append(torch.from_numpy(np.array(levels.reduce(self._decode(index), int(chosen_B[i])))))
        return pixels, chosen_B

    def _decode(self, index: int) -> Image.Image:
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
        store = _on_the_fly(images, settings, workers=workers, progress=progress)
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


def _on_the_fly(
    images: Sequence[ImageRecord], settings: StoreSettings, *, workers: int | None, progress: Progress | None
) -> OnTheFlyStore:
    """Decode everything once to find bad files, since nothing is kept."""
    sizes, bad = header_sizes(images, max_pixels=settings.max_pixels, workers=workers)
    decode_all(images, sizes, bad, max_pixels=settings.max_pixels, workers=workers, progress=progress)
    good = [i for i in range(len(images)) if i not in bad]
    listed = [BadFile(images[i].image_id, reason) for i, reason in sorted(bad.items())]
    return OnTheFlyStore([images[i] for i in good], sizes[good], listed, settings)
