"""Colour jitter and normalisation as one affine map of each pixel.

Brightness, contrast and saturation are linear in a pixel's (R, G, B), and so is normalisation; composed they cost
one pass. The steps are torchvision's, in this order, without its rounding to 8 bits and clamping after each step: in
the range where nothing is clamped both agree (tests/reference/test_augmentation_reference.py).

Legend: B images, H W pixels, 3 channels last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_LUMA = np.array([0.2989, 0.587, 0.114])
"""Weights of grey, ITU-R BT.601 as torchvision rounds them."""
_GROUP = 8


def normalisation_map(mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(3, 4) float32: out = (x - mean) / std for x in 0..1; one diagonal map for all images."""
    matrix = np.zeros((3, 4), dtype=np.float32)
    matrix[range(3), range(3)] = 1 / np.asarray(std)
    matrix[:, 3] = -np.asarray(mean) / np.asarray(std)
    return torch.from_numpy(matrix)


def jitter_map(
    images_BHWC: np.ndarray,
    *,
    brightness_B: np.ndarray,
    contrast_B: np.ndarray,
    saturation_B: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """(B, 3, 4) float32: brightness, then contrast, then saturation, then normalisation.

    x1 = b x;  x2 = c x1 + (1 - c) mean(grey(x1));  x3 = s x2 + (1 - s) grey(x2);  out = (x3 - mean) / std
    """
    grey_mean_B = channel_means(images_BHWC) @ _LUMA / 255
    offset_B = (1 - contrast_B) * brightness_B * grey_mean_B
    gain_B = contrast_B * brightness_B
    mix_B33 = saturation_B[:, None, None] * np.eye(3) + (1 - saturation_B)[:, None, None] * _LUMA
    # The rows of mix do not quite sum to 1 (the luma weights sum to 0.9999): keep the offset exact.
    matrix_B34 = np.empty((len(images_BHWC), 3, 4))
    matrix_B34[:, :, :3] = gain_B[:, None, None] * mix_B33
    matrix_B34[:, :, 3] = offset_B[:, None] * mix_B33.sum(axis=2)
    scale = 1 / np.asarray(std)
    matrix_B34 *= scale[:, None]
    matrix_B34[:, :, 3] -= np.asarray(mean) * scale
    return torch.from_numpy(matrix_B34.astype(np.float32))


def channel_means(images_BHWC: np.ndarray) -> np.ndarray:
    """(B, 3) float64: mean of each channel, 0..255. Rows are summed first, since that is contiguous."""
    batch, height, width, _ = images_BHWC.shape
    rows = images_BHWC.reshape(batch, height, width * 3).sum(axis=1, dtype=np.uint32)
    return rows.reshape(batch, width, 3).sum(axis=1, dtype=np.uint64) / (height * width)


def apply_map(images_BHWC: Tensor, colour: Tensor) -> Tensor:
    """(B, 3, H, W) float32, channels_last in memory: the affine map on uint8 pixels scaled to 0..1.

    Args:
        images_BHWC: uint8.
        colour: (B, 3, 4), one map for each image; or (3, 4), a diagonal one for all.
    """
    batch, height, width, _ = images_BHWC.shape
    matrix, offset = colour[..., :3] / 255, colour[..., 3]
    if colour.dim() == 2:
        # Tiled over a row, so that the innermost loop is longer than three.
        scale = matrix.diagonal().repeat(width)
        pixels = images_BHWC.to(torch.float32).view(batch, height, width * 3)
        out = pixels.mul_(scale).add_(offset.repeat(width))
    else:
        # Several pixels to a row of the product: matrices of three columns are slow to multiply.
        group = math.gcd(_GROUP, height * width)
        pixels = images_BHWC.to(torch.float32).view(batch, -1, 3 * group)
        with torch.autocast(images_BHWC.device.type, enabled=False):  # it would round the pixels to bfloat16
            out = torch.baddbmm(offset.repeat(1, group)[:, None], pixels, _repeated(matrix.mT, group))
    return out.view(batch, height, width, 3).permute(0, 3, 1, 2)


def _repeated(matrices_B33: Tensor, count: int) -> Tensor:
    """(B, 3 count, 3 count): each matrix `count` times along the diagonal of a larger one."""
    blocks = matrices_B33.new_zeros(len(matrices_B33), count, 3, count, 3)
    # The diagonal's axis comes last.
    blocks.diagonal(dim1=1, dim2=3).copy_(matrices_B33[..., None])
    return blocks.view(-1, 3 * count, 3 * count)
