"""Raw maps of a run's explained images: made once, stored, and read again."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resomap.errors import StudyError
from resomap.printable import printable
from resomap.records import Cell
from resomap.serialize import DAMAGE, check_unpacked, plain, write_atomic

FORMAT = 1
_LARGEST_BYTES = 2**32
_ARRAYS = ("maps", "boxes", "labels", "targets", "predicted", "confidence")


@dataclass(frozen=True, slots=True, eq=False)
class StoredMaps:
    """What one method says about N images of one run. Nothing in it is rescaled.

    maps (N, h, w) float32 on the method's own grid; boxes (N, 4) float64: the region that the model saw, as top, left,
    height and width in fractions of the image; labels, targets, predicted (N,) int64; confidence (N,) float32:
    probability of the predicted class.
    """

    cell: Cell
    method: str
    key: str
    """Of the run's weights and the method's options: other maps have another key."""
    image_ids: tuple[str, ...]
    maps: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    notes: Mapping[str, Any]
    """What the method reports about itself: its layer, its completeness error, its steps."""

    @property
    def correct(self) -> np.ndarray:
        """(N,) bool: the model was right."""
        return self.predicted == self.labels


def write_maps(path: Path, stored: StoredMaps) -> None:
    """Store atomically, as an npz whose text is JSON: nothing in it is pickled."""
    header = {
        "format": FORMAT,
        "cell": asdict(stored.cell),
        "method": stored.method,
        "key": stored.key,
        "image_ids": stored.image_ids,
        "notes": plain(stored.notes),
    }
    arrays = {name: getattr(stored, name) for name in _ARRAYS}
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, header=text, **arrays)
    write_atomic(path, lambda stream: stream.write(buffer.getvalue()))


def read_maps(path: Path) -> StoredMaps | None:
    """The stored maps; None where there are none.

    Raises:
        StudyError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        # Opened here, since numpy leaves its own handle open when the file is no archive.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            check_unpacked(stored, most_bytes=_LARGEST_BYTES)
            header = json.loads(stored["header"].tobytes())
            arrays = {name: stored[name] for name in _ARRAYS}
        if header["format"] != FORMAT:
            return None
        _check_shapes(arrays, len(header["image_ids"]))
        return StoredMaps(
            cell=Cell(**header["cell"]),
            method=header["method"],
            key=header["key"],
            image_ids=tuple(header["image_ids"]),
            notes=header["notes"],
            **arrays,
        )
    except DAMAGE as bad:
        raise StudyError(
            f"{printable(path)} is damaged ({printable(bad)}); delete it and run `resomap explain` again"
        ) from bad


def _check_shapes(arrays: Mapping[str, np.ndarray], count: int) -> None:
    """ValueError unless every array has a number for each of `count` images."""
    for name, values in arrays.items():
        wanted = {"maps": 3, "boxes": 2}.get(name, 1)
        if values.ndim != wanted or len(values) != count or values.dtype.kind not in "fiu":
            raise ValueError(f"{name} holds {values.dtype} of shape {values.shape}")


def choose_images(labels: Sequence[int] | np.ndarray, *, count: int, seed: int) -> np.ndarray:
    """Sorted positions of at most `count` images, as many of each class as there are: drawn by class.

    The same positions whatever the resolution, the model or the run's seed.
    """
    labels = np.asarray(labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = [order[labels[order] == k] for k in np.unique(labels)]
    longest = max(len(positions) for positions in by_class)
    # One of each class in turn, until there are enough.
    turns = [positions[turn] for turn in range(longest) for positions in by_class if turn < len(positions)]
    return np.sort(np.array(turns[:count], dtype=np.int64))


def seen_boxes(sizes_N2: np.ndarray) -> np.ndarray:
    """(N, 4): the centre square that the short side leaves, in fractions of the image (top, left, height, width)."""
    sizes = np.asarray(sizes_N2, dtype=np.float64)
    share = sizes.min(axis=1, keepdims=True) / sizes
    return np.concatenate([(1 - share) / 2, share], axis=1)
