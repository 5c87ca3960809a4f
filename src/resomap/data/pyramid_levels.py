"""Which reduced copies of an image are kept, and how a random crop is cut from them.

Level k is the image reduced 2^k times by averaging (Pillow's Image.reduce). A crop is resized from the coarsest
level in which it still has at least GAP times the pixels it ends with. Pillow's own `reducing_gap` argument does the
same, and calls 2.0 close to indistinguishable from resizing the original.

Legend: B images, H W native size, k level, r resolution.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from resomap.data.resize import KERNELS

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


def wanted_levels(boxes_B4: np.ndarray, sizes_B2: np.ndarray, resolution: int) -> np.ndarray:
    """(B,) int64: the level from which each box (top, left, height, width in fractions) should be cut."""
    shorter_B = (boxes_B4[:, 2:] * sizes_B2).min(axis=1)
    # As level_for: at least GAP times the pixels, and the same slack.
    log_B = np.log2(np.maximum(shorter_B, 1e-9) / (GAP * resolution))
    return np.where(shorter_B < GAP * resolution, 0, np.maximum(0, np.floor(log_B + 1e-9))).astype(np.int64)


def edges(boxes_B4: np.ndarray, sizes_B2: np.ndarray, levels_B: np.ndarray) -> np.ndarray:
    """(B, 4) int64: first row, first column, height and width of each box in its level, rounded to whole pixels."""
    scaled_B2 = sizes_B2 / 2.0 ** levels_B[:, None]
    limits_B2 = -(-sizes_B2 // (1 << levels_B[:, None]))
    first_B2 = np.minimum(np.maximum(0, np.rint(boxes_B4[:, :2] * scaled_B2)), limits_B2 - 1)
    last_B2 = np.rint((boxes_B4[:, :2] + boxes_B4[:, 2:]) * scaled_B2)
    last_B2 = np.minimum(limits_B2, np.maximum(first_B2 + 1, last_B2))
    return np.concatenate([first_B2, last_B2 - first_B2], axis=1).astype(np.int64)


def resize_into(slot_HWC: Tensor, pixels_hwC: Tensor, *, kernel: str) -> None:
    """Fill (r, r, 3) uint8, antialiased: by torch where it has the kernel (within 1 of Pillow), else by Pillow."""
    side = (slot_HWC.shape[0], slot_HWC.shape[1])
    if kernel not in ("bilinear", "bicubic"):
        image = Image.fromarray(pixels_hwC.contiguous().numpy())
        slot_HWC.copy_(torch.from_numpy(np.array(image.resize(side[::-1], KERNELS[kernel]))))
        return
    # The batch axis makes torch see channels_last, and answer in it.
    planes = pixels_hwC[None].permute(0, 3, 1, 2)
    resized = interpolate(planes, side, mode=kernel, align_corners=False, antialias=True)
    slot_HWC.copy_(resized[0].permute(1, 2, 0))
