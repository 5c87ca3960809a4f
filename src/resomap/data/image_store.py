"""Decoded images of a split, wherever they come from: squares for evaluation, random crops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resomap.data import pyramid_levels
from resomap.data.resize import to_square
from resomap.data.store_settings import StoreSettings
from resomap.errors import ConfigError
from resomap.records import BadFile, CropBox, ImageRecord, information_at


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
        pixels, chosen_B = self.level_pixels(indices, pyramid_levels.wanted_levels(boxes_B4, sizes_B2, side))
        edges = pyramid_levels.edges(boxes_B4, sizes_B2, chosen_B).tolist()
        out = torch.empty((len(pixels), side, side, 3), dtype=torch.uint8)
        for slot, image, (top, left, height, width) in zip(out.unbind(), pixels, edges, strict=True):
            region = image[top : top + height, left : left + width]
            pyramid_levels.resize_into(slot, region, kernel=kernel)
        if side == resolution:
            return out.numpy()
        return np.stack([to_square(Image.fromarray(crop), resolution, kernel=kernel) for crop in out.numpy()])

    def _check_resolution(self, resolution: int) -> None:
        if resolution not in self.settings.resolutions:
            raise ConfigError(
                f"the store holds {self.settings.resolutions}, not {resolution}; open it with that resolution"
            )
