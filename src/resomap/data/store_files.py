"""The files behind a store: built once under a lock, complete or not there, bounded, memory-mapped.

    <cache_dir>/pyramid/<key>/
      meta.json              format, native sizes, bad files, byte sizes of the others
      squares-224.u8         (N, 224, 224, 3), one file a resolution
      levels.u8              (h, w, 3) blocks one after the other; levels.npy says where each one is
    <cache_dir>/pyramid/<key>.lock

The key is a hash of the images' contents in their order, the settings, and Pillow's version. A store is built in
`<key>.tmp` and renamed when it is complete; whoever gets the lock (the kernel frees it if the builder dies) deletes
what a dead builder left. A store that is opened while it is evicted stays readable: Linux keeps mapped files.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
from filelock import FileLock, Timeout

from resomap.data import levels
from resomap.data.decode import decode_rgb, native_size, to_square
from resomap.errors import BadImageError
from resomap.records import ImageRecord
from resomap.serialize import digest, make_dirs, storage_errors, write_json

if TYPE_CHECKING:
    from resomap.data.pyramid import StoreSettings

log = logging.getLogger(__name__)

FORMAT = 1
_META = "meta.json"
_LEVELS = "levels.u8"
_TABLE = "levels.npy"


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

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}

    def squares(self, resolution: int) -> np.ndarray:
        """(N, r, r, 3) uint8, memory-mapped."""
        return self._map(_squares_name(resolution), (len(self.sizes), resolution, resolution, 3))

    def level(self, index: int, level: int) -> tuple[np.ndarray, int]:
        """Pixels of the kept level nearest to `level`, and which one that is."""
        if _TABLE not in self._maps:
            self._maps[_TABLE] = np.load(self.folder / _TABLE)
        first, count, offset = (int(v) for v in self._maps[_TABLE][index])
        chosen = min(max(level, first), first + count - 1)
        size = (int(self.sizes[index, 0]), int(self.sizes[index, 1]))
        for earlier in range(first, chosen):
            offset += _level_bytes(size, earlier)
        height, width = levels.level_shape(size, chosen)
        flat = self._map(_LEVELS, (-1,))
        return flat[offset : offset + height * width * 3].reshape(height, width, 3), chosen

    def open_all(self, resolutions: Sequence[int], *, has_levels: bool) -> None:
        """Map every file now, so that the store outlives its deletion."""
        for resolution in resolutions:
            self.squares(resolution)
        if has_levels:
            self._maps[_TABLE] = np.load(self.folder / _TABLE)
            self._map(_LEVELS, (-1,))

    def _map(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in self._maps:
            # Copy on write: nobody can change the file, and torch takes the arrays without a warning.
            flat = np.memmap(self.folder / name, dtype=np.uint8, mode="c")
            # A plain array over the mapping: np.memmap's own indexing costs several microseconds more.
            self._maps[name] = np.asarray(flat).reshape(shape)
        return self._maps[name]


def find_or_build(
    images: Sequence[ImageRecord],
    hashes: Sequence[str],
    *,
    settings: StoreSettings,
    cache_dir: Path,
    limit_bytes: int,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> StoredImages | None:
    """The store of these images, built if it is not there; None where it cannot fit.

    Raises:
        StorageError: the cache cannot be written.
    """
    root = cache_dir / "pyramid"
    key = digest({"format": FORMAT, "pillow": PIL.__version__, "images": hashes, "settings": asdict(settings)})
    folder = root / key
    stored = _open(folder, settings)
    if stored is not None or limit_bytes == 0:
        return stored
    make_dirs(root)
    with storage_errors(root), FileLock(root / f"{key}.lock"):
        stored = _open(folder, settings)  # another process may have built it while we waited
        if stored is not None:
            return stored
        sizes, bad = _native_sizes(images, settings, workers)
        needed = _needed_bytes(sizes, settings)
        if not _make_room(root, needed, limit_bytes, keep=key):
            return None
        _build(folder, images, sizes, bad, settings=settings, workers=workers, progress=progress)
        return _open(folder, settings)


def _squares_name(resolution: int) -> str:
    return f"squares-{resolution}.u8"


def _level_bytes(size_hw: tuple[int, int], level: int) -> int:
    height, width = levels.level_shape(size_hw, level)
    return height * width * 3


def _open(folder: Path, settings: StoreSettings) -> StoredImages | None:
    """The store in `folder` if it is complete; None (and gone) if it is damaged."""
    try:
        meta = json.loads((folder / _META).read_text())
        sizes = np.array(meta["sizes"], dtype=np.int32).reshape(-1, 2)
        complete = all((folder / name).stat().st_size == size for name, size in meta["bytes"].items())
        bad = [(int(i), str(reason)) for i, reason in meta["bad"]]
        if complete and meta["format"] == FORMAT:
            os.utime(folder / _META)  # last use, for eviction
            stored = StoredImages(folder, sizes, bad)
            stored.open_all(settings.resolutions, has_levels=settings.crop != "center")
            return stored
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as damage:
        log.warning("the decoded cache %s is damaged (%s); decoding again", folder.name, damage)
    return None


def _native_sizes(
    images: Sequence[ImageRecord], settings: StoreSettings, workers: int | None
) -> tuple[np.ndarray, dict[int, str]]:
    """Sizes from the headers, and what is bad already there."""
    sizes = np.zeros((len(images), 2), dtype=np.int32)
    bad: dict[int, str] = {}

    def look(index: int) -> None:
        try:
            sizes[index] = native_size(images[index].path, max_pixels=settings.max_pixels)
        except BadImageError as error:
            bad[index] = error.reason

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        list(pool.map(look, range(len(images))))
    return sizes, bad


def _needed_bytes(sizes: np.ndarray, settings: StoreSettings) -> int:
    squares = sum(3 * r * r for r in settings.resolutions) * len(sizes)
    kept = sum(_level_bytes((h, w), level) for h, w in sizes.tolist() if h for level in settings.levels_of((h, w)))
    return squares + kept


def _make_room(root: Path, needed: int, limit: int, *, keep: str) -> bool:
    """Evict the stores used longest ago until `needed` more bytes fit; False (nothing evicted) if they never can."""
    free = shutil.disk_usage(root).free
    stores = sorted((m.stat().st_mtime, m.parent) for m in root.glob(f"*/{_META}") if m.parent.name != keep)
    held = {folder: _folder_bytes(folder) for _, folder in stores}
    if needed > limit or needed > free + sum(held.values()):
        log.warning(
            "decoded images need %.2f GiB, data.cache_gib is %.2f and %.2f GiB are free: decoding on the fly, "
            "which is slower",
            needed / 2**30,
            limit / 2**30,
            free / 2**30,
        )
        return False
    used = sum(held.values())
    for _, folder in stores:
        if used + needed <= limit and needed <= free:
            break
        if _evict(folder):
            used -= held[folder]
            free += held[folder]
    return True


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # another process evicts too
            continue
    return total


def _evict(folder: Path) -> bool:
    """Delete a store unless somebody builds it."""
    try:
        with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
            return True
    except Timeout:
        return False


def _build(
    folder: Path,
    images: Sequence[ImageRecord],
    sizes: np.ndarray,
    bad: dict[int, str],
    *,
    settings: StoreSettings,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    temporary = folder.with_name(f"{folder.name}.tmp")
    for leftover in (temporary, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    make_dirs(temporary)
    try:
        table, level_bytes = _level_table(sizes, settings)
        np.save(temporary / _TABLE, table)
        squares = {r: _allocate(temporary / _squares_name(r), len(images) * 3 * r * r) for r in settings.resolutions}
        kept = _allocate(temporary / _LEVELS, level_bytes)
        _fill(images, sizes, bad, squares, kept, table, settings=settings, workers=workers, progress=progress)
        sizes[list(bad)] = 0
        _sync(temporary)
        names = [_TABLE, _LEVELS, *[_squares_name(r) for r in settings.resolutions]]
        meta = {
            "format": FORMAT,
            "sizes": sizes,
            "bad": sorted(bad.items()),
            "bytes": {name: (temporary / name).stat().st_size for name in names},
        }
        write_json(temporary / _META, meta)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _level_table(sizes: np.ndarray, settings: StoreSettings) -> tuple[np.ndarray, int]:
    """(N, 3) int64: first level, number of levels, offset of the first; and the bytes of all."""
    table = np.zeros((len(sizes), 3), dtype=np.int64)
    offset = 0
    for i, (height, width) in enumerate(sizes.tolist()):
        kept = settings.levels_of((height, width)) if height else range(0)
        table[i] = (kept.start, len(kept), offset)
        offset += sum(_level_bytes((height, width), level) for level in kept)
    return table, offset


def _allocate(path: Path, size: int) -> np.ndarray:
    """A writable mapping whose room is reserved now: a full disk is an error here, not a crash while writing."""
    with open(path, "wb") as stream:
        if size:
            os.posix_fallocate(stream.fileno(), 0, size)
        else:
            stream.write(b"\0")
    return np.memmap(path, dtype=np.uint8, mode="r+")


def _fill(
    images: Sequence[ImageRecord],
    sizes: np.ndarray,
    bad: dict[int, str],
    squares: dict[int, np.ndarray],
    kept: np.ndarray,
    table: np.ndarray,
    *,
    settings: StoreSettings,
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Decode every image once and write all that is derived from it. Pillow frees the interpreter: threads suffice."""

    def one(index: int) -> None:
        if index in bad:
            return
        try:
            image = decode_rgb(images[index].path, max_pixels=settings.max_pixels)
            if (image.height, image.width) != tuple(sizes[index]):
                raise BadImageError(images[index].path, "its header promises another size than it holds")
        except BadImageError as error:
            bad[index] = error.reason
            return
        for resolution, target in squares.items():
            block = 3 * resolution * resolution
            pixels = to_square(image, resolution, kernel=settings.kernel)
            target[index * block : (index + 1) * block] = pixels.reshape(-1)
        first, count, offset = (int(v) for v in table[index])
        for level in range(first, first + count):
            pixels = levels.reduce(image, level)
            kept[offset : offset + pixels.size] = pixels.reshape(-1)
            offset += pixels.size

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(one, range(len(images))), start=1):
            if progress is not None:
                progress(done, len(images))
    for mapped in (*squares.values(), kept):
        mapped.flush()


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
