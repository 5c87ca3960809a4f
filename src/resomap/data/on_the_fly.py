"""Where decoded images do not fit the cache: decoded at each access, with the same results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resomap.data import pyramid_levels
from resomap.data.decode import decode_rgb
from resomap.data.image_store import ImageStore
from resomap.data.resize import to_square
from resomap.data.store_build import Progress, decode_all, header_sizes
from resomap.data.store_settings import StoreSettings
from resomap.records import BadFile, ImageRecord


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
            pixels.append(torch.from_numpy(np.array(pyramid_levels.reduce(self._decode(index), int(chosen_B[i])))))
        return pixels, chosen_B

    def _decode(self, index: int) -> Image.Image:
        return decode_rgb(self.images[index].path, max_pixels=self.settings.max_pixels)


def open_on_the_fly(
    images: Sequence[ImageRecord], settings: StoreSettings, *, workers: int | None, progress: Progress | None
) -> OnTheFlyStore:
    """Decode everything once to find bad files, since nothing is kept."""
    sizes, bad = header_sizes(images, max_pixels=settings.max_pixels, workers=workers)
    decode_all(images, sizes, bad, max_pixels=settings.max_pixels, workers=workers, progress=progress)
    good = [i for i in range(len(images)) if i not in bad]
    listed = [BadFile(images[i].image_id, reason) for i, reason in sorted(bad.items())]
    return OnTheFlyStore([images[i] for i in good], sizes[good], listed, settings)
