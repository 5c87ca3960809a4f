"""A few hundred bytes of a picture by which copies of it are recognised, computed once and remembered."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resomap.data.decode import decode_rgb
from resomap.data.hashes import index_path
from resomap.errors import BadImageError, StorageError
from resomap.records import ImageRecord
from resomap.serialize import DAMAGE, check_unpacked, write_atomic

_FORMAT = 1
_LARGEST_BYTES = 2**32

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """What is left of a picture for comparing it with others."""

    bits: int
    """64-bit difference hash: where brightness rises from left to right, on 9 x 8 pixels."""
    grey: np.ndarray
    """(256,) uint8: 16 x 16 thumbnail."""
    colour: np.ndarray
    """(3,) float32: mean of R, G, B in 0..255."""


def signature(image: Image.Image) -> Signature:
    """The signature of an RGB image."""
    small = image.resize((72, 64), Image.Resampling.BOX, reducing_gap=3.0)
    grey = small.convert("L")
    # Means of 8 x 8 pixels kept as fractions: rounded, they would tie in smooth places, and ties tip over.
    cells = np.asarray(grey, dtype=np.float64).reshape(8, 8, 9, 8).mean(axis=(1, 3))
    signs = np.packbits((cells[:, 1:] > cells[:, :-1]).ravel())
    return Signature(
        bits=int.from_bytes(signs.tobytes(), "big"),
        grey=np.asarray(grey.resize((16, 16), Image.Resampling.BOX)).ravel(),
        colour=np.asarray(small, dtype=np.float32).mean(axis=(0, 1)),
    )


def signature_index(record: ImageRecord, *, cache_dir: Path) -> Path:
    """Where the signatures of this image's data set are remembered."""
    return index_path(record, cache_dir=cache_dir).with_suffix(".npz")


def read_signatures(
    paths: Mapping[str, Path], *, index: Path, progress: Callable[[int, int], None] | None = None
) -> dict[str, Signature]:
    """Signatures of files, from the index where it has them.

    Args:
        paths: content hash -> a file with that content.
        index: npz file of signatures by content hash; a cache, made again where damaged.
    Returns:
        content hash -> signature; files that cannot be decoded are left out.
    """
    known = remembered_signatures(index)
    missing = {key: path for key, path in paths.items() if key not in known}
    if missing:
        _logger.info("comparing %d images to find copies", len(missing))
        fresh = {}
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for done, (key, found) in enumerate(zip(missing, pool.map(_read, missing.values()), strict=True), 1):
                if found is not None:
                    fresh[key] = found
                if progress is not None:
                    progress(done, len(missing))
        known |= fresh
        remember_signatures(fresh, index=index)
    return {key: known[key] for key in paths if key in known}


def _read(path: Path) -> Signature | None:
    try:
        return signature(decode_rgb(path))
    except BadImageError:
        return None


def remembered_signatures(index: Path) -> dict[str, Signature]:
    """All signatures of the index by content hash; none where it is missing or damaged."""
    try:
        with open(index, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            check_unpacked(stored, most_bytes=_LARGEST_BYTES)
            if stored["format"] != _FORMAT:
                return {}
            columns = (stored["keys"].tolist(), stored["bits"].tolist(), stored["grey"], stored["colour"])
            return {key: Signature(*values) for key, *values in zip(*columns, strict=True)}
    except FileNotFoundError:
        return {}
    except DAMAGE as error:
        _logger.warning("the index of image signatures is damaged (%s) and is made again", type(error).__name__)
        return {}


def remember_signatures(signatures: Mapping[str, Signature], *, index: Path) -> None:
    """Add signatures by content hash to the index; a warning where they cannot be written."""
    known = remembered_signatures(index) if signatures else {}
    if signatures.keys() <= known.keys():
        return
    known |= signatures
    values = list(known.values())
    columns: dict[str, Any] = {
        "format": np.array(_FORMAT),
        "keys": np.array(list(known)),
        "bits": np.array([s.bits for s in values], dtype=np.uint64),
        "grey": np.stack([s.grey for s in values]),
        "colour": np.stack([s.colour for s in values]),
    }
    try:
        write_atomic(index, lambda stream: np.savez(stream, **columns))
    except StorageError as error:
        _logger.warning("image signatures are not remembered: %s", error)
