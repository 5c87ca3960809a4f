"""Which reduced copies of an image are kept, and how a random crop is cut from them.

Level k is the image reduced 2^k times by averaging (Pillow's Image.reduce). A crop is resized from the coarsest
level in which it still has at least GAP times the pixels it ends with. Pillow's own `reducing_gap` argument does the
same, and calls 2.0 close to indistinguishable from resizing the original.

Legend: H W native size, k level, r resolution.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from resomap.data.decode import KERNELS
from resomap.records import CropBox

GAP = 2.0


def level_shape(size_hw: tuple[int, int], level: int) -> tuple[int, int]:
    """Height and width of a level; a last partial block counts."""
    block = 2**level
    return -(-size_hw[0] // block), -(-size_hw[1] // block)


def needed_levels(
    size_hw: tuple[int, int], *, resolutions: tuple[int, ...], min_scale: float, min_ratio: float
) -> range:
    """The levels that crops of an image can ask for: the smallest box at the largest resolution to the reverse."""
    height, width = size_hw
    smallest = min(math.sqrt(min_scale * height * width * min_ratio), height, width)
    finest = level_for(smallest, max(resolutions))
    coarsest = level_for(min(height, width), min(resolutions))
    return range(finest, max(finest, coarsest) + 1)


def level_for(side_px: float, resolution: int) -> int:
    """The coarsest level in which `side_px` native pixels are still GAP times `resolution`; 0 where none is."""
    if side_px < GAP * resolution:
        return 0
    # Tiny slack: a box of exactly GAP times the resolution must not fall to a finer level by rounding.
    return max(0, math.floor(math.log2(side_px / (GAP * resolution)) + 1e-9))


def reduce(image: Image.Image, level: int) -> np.ndarray:
    """(h, w, 3) uint8: the image averaged over blocks of 2^level."""
    return np.asarray(image.reduce(2**level) if level else image)


def wanted_level(box: CropBox, size_hw: tuple[int, int], resolution: int) -> int:
    """The level from which a box should be cut."""
    return level_for(min(box.height * size_hw[0], box.width * size_hw[1]), resolution)


def cut(pixels_hw3: np.ndarray, box: CropBox, size_hw: tuple[int, int], level: int) -> np.ndarray:
    """The box's pixels in a level, rounded to whole ones; a view."""
    top, bottom = _range(box.top, box.height, size_hw[0] / 2**level, pixels_hw3.shape[0])
    left, right = _range(box.left, box.width, size_hw[1] / 2**level, pixels_hw3.shape[1])
    return pixels_hw3[top:bottom, left:right]


def _range(start: float, length: float, side: float, limit: int) -> tuple[int, int]:
    first = min(max(0, round(start * side)), limit - 1)
    last = min(limit, max(first + 1, round((start + length) * side)))
    return first, last


def resize(pixels_hw3: np.ndarray, resolution: int, *, kernel: str) -> np.ndarray:
    """(r, r, 3) uint8, antialiased: by torch where it has the kernel (within 1 of Pillow), else by Pillow."""
    if kernel not in ("bilinear", "bicubic"):
        return np.asarray(Image.fromarray(pixels_hw3).resize((resolution, resolution), KERNELS[kernel]))
    # torch takes no read-only memory, and would copy the rows together anyway. The batch axis is added first, so that
    # torch sees channels_last and answers in it.
    tensor = torch.from_numpy(np.array(pixels_hw3))[None].permute(0, 3, 1, 2)
    side = (resolution, resolution)
    resized = interpolate(tensor, side, mode=kernel, align_corners=False, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()
