"""The common frame: maps of different sizes in normalised image coordinates, on one declared grid.

A map is a density over the region that its model saw. Its integral over the image is kept: each cell of the common
grid gets the mean over its area, zero outside the region. Nothing is scaled by a map's own minimum or maximum.

Legend: N images, h w cells of a map, g cells a side of the common grid.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from resomap.checks import is_whole
from resomap.errors import ConfigError


def coarsest_grid(shapes: Iterable[tuple[int, ...]]) -> int:
    """Cells a side of the coarsest of several maps: finer ones can be brought to it, not the reverse."""
    return min(min(shape[-2:]) for shape in shapes)


def to_common_frame(maps_Nhw: np.ndarray, boxes_N4: np.ndarray, *, grid: int) -> np.ndarray:
    """Maps on a grid x grid partition of the whole image, pooled by area.

    Args:
        maps_Nhw: values per area of the region seen, any scale.
        boxes_N4: that region: top, left, height and width in fractions of the image.
        grid: cells a side.
    Returns:
        (N, g, g) float64; sum(result) / g^2 equals sum(map) / (h w) * area of the region.
    Raises:
        ConfigError: shapes that do not belong together, or regions outside the image.
    """
    maps, boxes = np.asarray(maps_Nhw, dtype=np.float64), np.asarray(boxes_N4, dtype=np.float64)
    if maps.ndim != 3 or 0 in maps.shape[1:] or boxes.shape != (len(maps), 4):
        raise ConfigError(f"maps: expected (N, h, w) with (N, 4) boxes, got {maps.shape}, {boxes.shape}")
    if not is_whole(grid) or grid < 1:
        raise ConfigError(f"grid: expected a whole number of cells from 1, got {grid!r}")
    top, left, height, width = boxes.T
    if not (
        boxes.min(initial=0) >= -1e-9
        and (top + height).max(initial=0) <= 1 + 1e-9
        and (left + width).max(initial=0) <= 1 + 1e-9
    ):
        raise ConfigError("boxes: expected fractions of the image from 0 to 1; a region lies outside of it")
    rows_Ngh = _shares(top, height, cells=maps.shape[1], grid=grid)
    columns_Ngw = _shares(left, width, cells=maps.shape[2], grid=grid)
    return np.einsum("ngh,nhw,nkw->ngk", rows_Ngh, maps, columns_Ngw, optimize=True)


def support(boxes_N4: np.ndarray, *, grid: int) -> np.ndarray:
    """(N, g, g) bool: cells of the common grid of which the model saw at least half."""
    ones = np.ones((len(boxes_N4), 1, 1))
    return to_common_frame(ones, boxes_N4, grid=grid) >= 0.5


def _shares(start_N: np.ndarray, length_N: np.ndarray, *, cells: int, grid: int) -> np.ndarray:
    """(N, g, cells): the share of a grid cell's extent that each cell of the map covers."""
    edges = np.arange(cells + 1) / cells
    low = start_N[:, None] + length_N[:, None] * edges[:-1]
    high = start_N[:, None] + length_N[:, None] * edges[1:]
    goal = np.arange(grid + 1) / grid
    overlap = np.minimum(high[:, None], goal[None, 1:, None]) - np.maximum(low[:, None], goal[None, :-1, None])
    return np.clip(overlap, 0, None) * grid
