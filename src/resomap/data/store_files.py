"""The files behind a store: built once under a lock, complete or not there, bounded, memory-mapped.

    <cache_dir>/pyramid/<key>/
      meta.json              format, native sizes, bad files, byte sizes and hashes of the others
      squares-224.u8         (N, 224, 224, 3), one file a resolution; squares-224.u32 is a checksum of each image
      levels.u8              (h, w, 3) blocks one after the other; levels.i64 says where each one is, levels.u32 checks
    <cache_dir>/pyramid/<key>.<number>.lease             who builds it

The key is a hash of the images' contents in their order, the settings, and Pillow's version (data/store_key.py). A
store is built in `<key>.tmp` and renamed when it is complete (data/store_build.py); whoever gets its lease deletes what
a dead builder left. A store that is opened while it is evicted stays readable: Linux keeps mapped files. Small files
are checked when a store is opened, an image when it is first read: a changed one is decoded again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resomap.data.cache_limit import make_room
from resomap.data.decode import native_size
from resomap.data.store_build import (
    FORMAT,
    LEVEL_CHECKSUMS,
    LEVELS,
    META,
    TABLE,
    Progress,
    build,
    checksum,
    checksums_name,
    decode_as_promised,
    header_sizes,
    needed_bytes,
    small_digest,
    squares_name,
)
from resomap.data.store_key import store_key
from resomap.data.store_settings import StoreSettings
from resomap.errors import BadImageError, StorageError
from resomap.lease import Leases
from resomap.printable import printable
from resomap.records import ImageRecord
from resomap.serialize import DAMAGE, digest, make_dirs, storage_errors

log = logging.getLogger(__name__)

_DAMAGE: tuple[type[Exception], ...] = (*DAMAGE, StorageError)


_MAPPED_AT_ONCE = 2**28
"""Bytes of images that a process lets lie in its memory before it gives them back; they stay in the system's cache."""


@dataclass(eq=False)
class StoredImages:
    """A complete store, mapped on demand; pickles as its folder, so worker processes map it themselves."""

    folder: Path
    sizes: np.ndarray
    """(N, 2) int32 native height and width; 0 for bad files."""
    bad: list[tuple[int, str]]
    """(index, reason)."""

    def __post_init__(self) -> None:
        spoiled = {index for index, _ in self.bad}
        self.good = np.array([i for i in range(len(self.sizes)) if i not in spoiled], dtype=np.int64)
        self._maps: dict[str, np.ndarray] = {}
        self._memory: list[mmap.mmap] = []
        self._bytes_read = 0
        self._flat: Tensor | None = None
        self._checked: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}, "_memory": [], "_bytes_read": 0, "_flat": None, "_checked": {}}

    def squares(self, resolution: int) -> np.ndarray:
        """(N, r, r, 3) uint8, memory-mapped."""
        return self._map(squares_name(resolution), (len(self.sizes), resolution, resolution, 3))

    def level_pixels(self, indices: np.ndarray, levels_B: np.ndarray) -> tuple[list[Tensor], np.ndarray]:
        """Pixels (h, w, 3) of the kept level nearest to the one wanted, views into the mapping, and which they are."""
        first_B, count_B, offset_B = self._table()[indices].T
        chosen_B = np.clip(levels_B, first_B, first_B + count_B - 1)
        sizes_B2 = self.sizes[indices].astype(np.int64)
        offset_B = offset_B.copy()
        for level in range(int(first_B.min()), int(chosen_B.max())):
            block = 1 << level
            height_B, width_B = -(-sizes_B2[:, 0] // block), -(-sizes_B2[:, 1] // block)
            offset_B += np.where((level >= first_B) & (level < chosen_B), height_B * width_B * 3, 0)
        shapes_B2 = -(-sizes_B2 // (1 << chosen_B[:, None]))
        self.has_read(3 * int(shapes_B2.prod(axis=1).sum()))
        flat = self._level_bytes()
        places = zip(shapes_B2.tolist(), offset_B.tolist(), strict=True)
        return [flat.as_strided((h, w, 3), (3 * w, 3, 1), offset) for (h, w), offset in places], chosen_B

    def has_read(self, count: int) -> None:
        """So many bytes of images: what has been read is not kept in this process for ever.

        The pages of a mapped file that a process has looked at count as its memory until somebody else needs it, which
        a limit on the process, or its owner, may take for a leak.
        """
        self._bytes_read += count
        if self._bytes_read > _MAPPED_AT_ONCE and hasattr(mmap, "MADV_DONTNEED"):
            self._bytes_read = 0
            for memory in self._memory:
                memory.madvise(mmap.MADV_DONTNEED)

    def damaged_squares(self, resolution: int, indices: np.ndarray, pixels_BHW3: np.ndarray) -> list[int]:
        """Positions in the batch whose pixels are not as they were written; looks once at each image."""
        return self._damaged(checksums_name(resolution), indices, pixels_BHW3)

    def damaged_levels(self, indices: np.ndarray, levels_B: np.ndarray, pixels: Sequence[Tensor]) -> list[int]:
        """Positions in the batch whose kept levels are not as they were written; looks once at each image."""
        first_B, count_B, _ = self._table()[indices].T
        positions_B = self._level_ends()[indices] - count_B + levels_B - first_B
        return self._damaged(LEVEL_CHECKSUMS, positions_B, pixels)

    def _damaged(self, name: str, places_B: np.ndarray, pixels: Sequence[Any] | np.ndarray) -> list[int]:
        sums = self._checksums(name)
        checked = self._checked.setdefault(name, np.zeros(len(sums), dtype=bool))
        known_B = checked[places_B]
        if known_B.all():
            return []
        unknown = np.flatnonzero(~known_B).tolist()
        damaged = [i for i in unknown if checksum(np.asarray(pixels[i])) != sums[places_B[i]]]
        checked[np.delete(places_B, damaged)] = True
        return damaged

    def _checksums(self, name: str) -> np.ndarray:
        return self._map(name, (-1,), dtype=np.uint32)

    def _level_ends(self) -> np.ndarray:
        if "ends" not in self._maps:
            self._maps["ends"] = np.cumsum(self._table()[:, 1])
        return self._maps["ends"]

    def open_all(self, resolutions: Sequence[int]) -> None:
        """Map every file now, so that the store outlives its deletion."""
        for resolution in resolutions:
            self.squares(resolution)
            self._checksums(checksums_name(resolution))
        self._level_ends()
        self._checksums(LEVEL_CHECKSUMS)
        self._map(LEVELS, (-1,))

    def _level_bytes(self) -> Tensor:
        """All levels as one tensor over the mapping. Nobody writes to it: the mapping is read-only."""
        if self._flat is None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                self._flat = torch.from_numpy(self._map(LEVELS, (-1,)))
        return self._flat

    def forget(self) -> None:
        """Let the next process that asks for this store build it anew; what is mapped stays readable."""
        with contextlib.suppress(OSError):
            (self.folder / META).unlink(missing_ok=True)

    def _table(self) -> np.ndarray:
        return self._map(TABLE, (len(self.sizes), 3), dtype=np.int64)

    def _map(self, name: str, shape: tuple[int, ...], *, dtype: type = np.uint8) -> np.ndarray:
        if name not in self._maps:
            try:
                # Read-only: the kernel refuses copy-on-write maps that are larger than memory.
                flat = np.memmap(self.folder / name, dtype=dtype, mode="r")
            except FileNotFoundError as gone:
                raise StorageError(
                    f"the decoded images {printable(self.folder / name)} are gone; run the same command again"
                ) from gone
            if dtype is np.uint8 and isinstance(flat.base, mmap.mmap):
                self._memory.append(flat.base)
            # A plain array over the mapping: np.memmap's own indexing costs several microseconds more.
            self._maps[name] = np.asarray(flat).reshape(shape)
        return self._maps[name]


def find(
    images: Sequence[ImageRecord], hashes: Sequence[str], *, settings: StoreSettings, cache_dir: Path
) -> StoredImages | None:
    """The store of these images if it is in the cache, complete."""
    return open_stored(cache_dir / "pyramid" / store_key(hashes, settings), images, settings)


def find_or_build(
    images: Sequence[ImageRecord],
    hashes: Sequence[str],
    *,
    settings: StoreSettings,
    cache_dir: Path,
    limit_bytes: int,
    workers: int | None,
    progress: Progress | None,
) -> StoredImages | None:
    """The store of these images, built if it is not there; None where it cannot fit.

    Raises:
        StorageError: the cache cannot be written.
    """
    root = cache_dir / "pyramid"
    folder = root / store_key(hashes, settings)
    stored = open_stored(folder, images, settings)
    if stored is not None:
        return stored
    if limit_bytes <= 0:
        log.warning("data.cache_gib is 0: decoding on the fly, which is slower")
        return None
    make_dirs(root)
    with storage_errors(root), Leases(root).hold(folder.name):
        stored = open_stored(folder, images, settings)  # another process may have built it while we waited
        if stored is not None:
            return stored
        sizes, bad = header_sizes(images, max_pixels=settings.max_pixels, workers=workers)
        if not make_room(root, needed_bytes(sizes, settings), limit_bytes, key=folder.name):
            return None
        build(folder, images, sizes, bad, settings=settings, workers=workers, progress=progress)
        return open_stored(folder, images, settings)


def open_stored(folder: Path, images: Sequence[ImageRecord], settings: StoreSettings) -> StoredImages | None:
    """The store in `folder`; None if it is not there, damaged or out of date."""
    try:
        meta = json.loads((folder / META).read_text())
        complete = all((folder / name).stat().st_size == size for name, size in meta["bytes"].items())
        if not complete or meta["format"] != FORMAT:
            raise ValueError("sizes or format differ")
        if meta.pop("digest") != digest(meta) or not _are_intact(folder, meta["digests"]):
            raise ValueError("a checksum differs")
        sizes = np.array(meta["sizes"], dtype=np.int32).reshape(len(images), 2)
        if (sizes < 0).any():
            raise ValueError("negative sizes")
        stored = StoredImages(folder, sizes, [(range(len(images))[i], str(reason)) for i, reason in meta["bad"]])
        stored.open_all(settings.resolutions)
    except FileNotFoundError:
        return None
    except _DAMAGE as damage:
        log.warning("the decoded cache %s is damaged (%s); decoding again", folder.name, printable(damage))
        return None
    if any(_is_readable(images[i], settings) for i, _ in stored.bad):
        log.info("files that could not be read can be now; decoding again")
        return None
    with contextlib.suppress(OSError):  # a read-only cache serves as well
        os.utime(folder / META)  # last use, for eviction
    return stored


def _are_intact(folder: Path, digests: Mapping[str, str]) -> bool:
    return all(small_digest(folder / name) == stated for name, stated in digests.items())


def _is_readable(image: ImageRecord, settings: StoreSettings) -> bool:
    """Whether a file recorded as bad can be read after all: it may have failed for want of memory."""
    try:
        size = native_size(image.path, max_pixels=settings.max_pixels)
        decode_as_promised(image.path, size, max_pixels=settings.max_pixels)
    except BadImageError:
        return False
    return True
