"""Decoding all images of a split, and writing what a store keeps of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from resomap.data import pyramid_levels
from resomap.data.decode import decode_rgb, native_size
from resomap.data.resize import to_square
from resomap.data.store_settings import StoreSettings
from resomap.errors import BadImageError
from resomap.records import ImageRecord
from resomap.serialize import digest, make_dirs, write_json

FORMAT = 3
META = "meta.json"
LEVELS = "levels.u8"
TABLE = "levels.i64"
LEVEL_CHECKSUMS = "levels.u32"

Progress = Callable[[int, int], None]


def squares_name(resolution: int) -> str:
    """The file of one resolution's squares."""
    return f"squares-{resolution}.u8"


def checksums_name(resolution: int) -> str:
    """The file of the checksums of one resolution's squares."""
    return f"squares-{resolution}.u32"


def checksum(pixels: np.ndarray) -> int:
    """CRC-32 of an image's bytes: at about 1 GB/s a hundredth of what training on it costs."""
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def level_bytes(size_hw: tuple[int, int], level: int) -> int:
    """Bytes of one level of an image."""
    height, width = pyramid_levels.level_shape(size_hw, level)
    return height * width * 3


def decode_as_promised(path: Path, size_hw: tuple[int, int], *, max_pixels: int) -> Image.Image:
    """The decoded image; BadImageError also where it is not as large as its header says."""
    image = decode_rgb(path, max_pixels=max_pixels)
    if (image.height, image.width) != tuple(size_hw):
        raise BadImageError(path, "its header promises another size than it holds")
    return image


def header_sizes(
    images: Sequence[ImageRecord], *, max_pixels: int, workers: int | None
) -> tuple[np.ndarray, dict[int, str]]:
    """(N, 2) int32 height and width from the headers, 0 where that fails; and index -> reason of those."""
    sizes = np.zeros((len(images), 2), dtype=np.int32)
    bad: dict[int, str] = {}

    def look(index: int) -> None:
        try:
            sizes[index] = native_size(images[index].path, max_pixels=max_pixels)
        except BadImageError as error:
            bad[index] = error.reason

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        list(pool.map(look, range(len(images))))
    return sizes, bad


def decode_all(
    images: Sequence[ImageRecord],
    sizes: np.ndarray,
    bad: dict[int, str],
    *,
    max_pixels: int,
    workers: int | None,
    progress: Progress | None,
    keep: Callable[[int, Image.Image], None] = lambda index, image: None,
) -> None:
    """Decode every image once and call `keep` with it. What fails is added to `bad`, and its size becomes 0.

    In threads: Pillow frees the interpreter while it decodes and resizes.
    """

    def one(index: int) -> None:
        if index in bad:
            return
        try:
            image = decode_as_promised(images[index].path, sizes[index], max_pixels=max_pixels)
        except BadImageError as error:
            bad[index] = error.reason
        else:
            keep(index, image)

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(one, range(len(images))), start=1):
            if progress is not None:
                progress(done, len(images))
    sizes[list(bad)] = 0


def needed_bytes(sizes: np.ndarray, settings: StoreSettings) -> int:
    """What a store of images of these sizes will take."""
    squares = sum(3 * r * r for r in settings.resolutions) * len(sizes)
    return squares + _level_table(sizes, settings)[1]


def build(
    folder: Path,
    images: Sequence[ImageRecord],
    sizes: np.ndarray,
    bad: dict[int, str],
    *,
    settings: StoreSettings,
    workers: int | None,
    progress: Progress | None,
) -> None:
    """Write the store into `<folder>.tmp` and rename it when it is complete; nothing stays after a failure."""
    temporary = folder.with_suffix(".tmp")
    for leftover in (temporary, folder):
        remove(leftover)
    make_dirs(temporary)
    try:
        _write_pixels(temporary, images, sizes, bad, settings=settings, workers=workers, progress=progress)
        written = {path.name: path.stat().st_size for path in temporary.iterdir()}
        meta = {"format": FORMAT, "sizes": sizes, "bad": sorted(bad.items()), "bytes": written}
        meta["digests"] = {name: small_digest(temporary / name) for name in written if not name.endswith(".u8")}
        write_json(temporary / META, meta | {"digest": digest(meta)})
        os.replace(temporary, folder)
    finally:
        remove(temporary)


def small_digest(path: Path) -> str:
    """Hash of a file that is not pixels; those have a checksum for each image."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def remove(path: Path) -> None:
    """Delete a folder, or whatever else stands at its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write_pixels(
    folder: Path,
    images: Sequence[ImageRecord],
    sizes: np.ndarray,
    bad: dict[int, str],
    *,
    settings: StoreSettings,
    workers: int | None,
    progress: Progress | None,
) -> None:
    table, total = _level_table(sizes, settings)
    sums = {resolution: np.zeros(len(images), dtype=np.uint32) for resolution in settings.resolutions}
    ends = np.cumsum(table[:, 1])
    level_sums = np.zeros(max(1, int(ends[-1])), dtype=np.uint32)  # an empty file cannot be mapped
    with contextlib.ExitStack() as stack:
        squares = {
            r: stack.enter_context(_reserved(folder / squares_name(r), len(images) * 3 * r * r))
            for r in settings.resolutions
        }
        kept = stack.enter_context(_reserved(folder / LEVELS, total))

        def write(index: int, image: Image.Image) -> None:
            for resolution, target in squares.items():
                pixels = to_square(image, resolution, kernel=settings.kernel, information=settings.information)
                _write_at(target, index * pixels.nbytes, pixels)
                sums[resolution][index] = checksum(pixels)
            first, count, offset = table[index].tolist()
            for level in range(first, first + count):
                pixels = pyramid_levels.reduce(image, level)
                _write_at(kept, offset, pixels)
                level_sums[ends[index] - count + level - first] = checksum(pixels)
                offset += pixels.nbytes

        decode_all(images, sizes, bad, max_pixels=settings.max_pixels, workers=workers, progress=progress, keep=write)
    table.tofile(folder / TABLE)
    level_sums.tofile(folder / LEVEL_CHECKSUMS)
    for resolution, values in sums.items():
        values.tofile(folder / checksums_name(resolution))
    for path in folder.iterdir():
        if path.suffix != ".u8":  # pixels that a power failure loses do not fit their checksums, and are decoded again
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())


def _level_table(sizes: np.ndarray, settings: StoreSettings) -> tuple[np.ndarray, int]:
    """(N, 3) int64: first level, number of levels, offset of the first; and the bytes of all."""
    table = np.zeros((len(sizes), 3), dtype=np.int64)
    offset = 0
    for i, (height, width) in enumerate(sizes.tolist()):
        kept = settings.levels_of((height, width)) if height else range(0)
        table[i] = (kept.start, len(kept), offset)
        offset += sum(level_bytes((height, width), level) for level in kept)
    return table, offset


@contextlib.contextmanager
def _reserved(path: Path, size: int) -> Iterator[int]:
    """The descriptor of a file whose room is reserved now: a full disk is an error here, before anything is decoded.

    Written through the descriptor, not through a mapping, whose pages would all count as this process's memory.
    """
    size = max(1, size)  # nothing cannot be mapped later
    with open(path, "wb") as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size)
        else:
            stream.truncate(size)
        yield stream.fileno()


def _write_at(descriptor: int, offset: int, pixels: np.ndarray) -> None:
    """Write all the pixels, whatever a single call takes; several threads may write to one file."""
    left = np.ascontiguousarray(pixels).reshape(-1).data
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written
