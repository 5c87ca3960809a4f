"""What a store of decoded images is asked to hold."""

from __future__ import annotations

from dataclasses import dataclass

from resomap.data import pyramid_levels
from resomap.data.decode import MAX_PIXELS
from resomap.records import information_at


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """What a store holds.

    crop: 'center' keeps only the squares; 'random_resized' also what crops of at least `min_scale` of the area and
    an aspect down to `min_ratio` (shorter / longer side) need.
    """

    resolutions: tuple[int, ...]
    kernel: str = "bilinear"
    crop: str = "center"
    min_scale: float = 1.0
    min_ratio: float = 0.75
    max_pixels: int = MAX_PIXELS
    information: int | None = None
    """Side to which squares and crops are brought before they are enlarged to a larger resolution; None: none."""

    def levels_of(self, size_hw: tuple[int, int]) -> range:
        """The levels to keep of an image; none for 'center'."""
        if self.crop == "center":
            return range(0)
        sides = tuple(information_at(side, self.information) for side in self.resolutions)
        return pyramid_levels.needed_levels(
            size_hw, resolutions=sides, min_scale=self.min_scale, min_ratio=self.min_ratio
        )
