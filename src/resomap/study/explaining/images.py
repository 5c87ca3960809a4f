"""The images that are explained: decoded once, and the same for every run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from resomap.data.colour import normalised
from resomap.data.decode import decode_rgb
from resomap.data.resize import to_square
from resomap.errors import BadImageError, DatasetError
from resomap.explainability.store import choose_images, seen_boxes
from resomap.records import ImageDataset, ImageRecord, Preprocessing


def evenly_spread(images: int, count: int) -> np.ndarray:
    """Sorted positions of at most `count` of the images, the first and the last among them where there are two."""
    return np.linspace(0, images - 1, min(images, count)).round().astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class ExplainedImages:
    """N images of one split, upright and in full size."""

    split: str
    class_names: tuple[str, ...]
    records: tuple[ImageRecord, ...]
    pictures: tuple[Image.Image, ...]

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64."""
        return np.array([record.label for record in self.records], dtype=np.int64)

    @property
    def boxes(self) -> np.ndarray:
        """(N, 4): the region that the models see, in fractions of the image."""
        return seen_boxes(np.array([(p.height, p.width) for p in self.pictures]))

    def spread_over(self, count: int) -> tuple[np.ndarray, ExplainedImages]:
        """(positions, those images): at most `count`, evenly spaced, since images of a class may lie together."""
        positions = evenly_spread(len(self.records), count)
        chosen = ExplainedImages(
            self.split,
            self.class_names,
            tuple(self.records[i] for i in positions),
            tuple(self.pictures[i] for i in positions),
        )
        return positions, chosen

    def squares(self, resolution: int, *, kernel: str, information: int | None = None) -> np.ndarray:
        """(N, r, r, 3) uint8: as evaluation sees them."""
        options: dict[str, Any] = {"kernel": kernel, "information": information}
        return np.stack([to_square(picture, resolution, **options) for picture in self.pictures])

    def batches(self, preprocessing: Preprocessing, *, batch_size: int) -> Iterator[tuple[slice, Tensor]]:
        """(positions, images (B, 3, r, r) float32 normalised), in order."""
        known = preprocessing
        squares = self.squares(known.resolution, kernel=known.kernel, information=known.information_resolution)
        for start in range(0, len(squares), batch_size):
            part = slice(start, min(start + batch_size, len(squares)))
            yield part, normalised(squares[part], mean=preprocessing.mean, std=preprocessing.std)


def open_explained(images: ImageDataset, *, count: int, seed: int, max_pixels: int) -> ExplainedImages:
    """At most `count` images of the test split (val where there is none), drawn by class.

    Those that cannot be read are left out: the audit names them.

    Raises:
        DatasetError: not one image can be read.
    """
    _, split = images.splits_used
    records = images.splits[split]
    chosen = choose_images([record.label for record in records], count=count, seed=seed)
    kept = list(_readable([records[i] for i in chosen], max_pixels=max_pixels))
    if not kept:
        raise DatasetError(f"{images.name}: not one of the {len(chosen)} {split} images drawn can be read; mend them")
    return ExplainedImages(
        split=split,
        class_names=images.class_names,
        records=tuple(record for record, _ in kept),
        pictures=tuple(picture for _, picture in kept),
    )


def _readable(records: Sequence[ImageRecord], *, max_pixels: int) -> Iterator[tuple[ImageRecord, Image.Image]]:
    for record in records:
        try:
            yield record, decode_rgb(record.path, max_pixels=max_pixels)
        except BadImageError:
            continue


def masks_of(images: ImageDataset, records: Sequence[ImageRecord], *, max_pixels: int) -> list[np.ndarray] | None:
    """(H, W) float32 in 0..1 for each image: where the evidence is; None unless the data set knows (acuity)."""
    paths = [images.root / "masks" / record.image_id for record in records]
    if not paths or not all(path.is_file() for path in paths):
        return None
    decoded = (decode_rgb(path, max_pixels=max_pixels).convert("L") for path in paths)
    return [np.asarray(picture, dtype=np.float32) / 255 for picture in decoded]
