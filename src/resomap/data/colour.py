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
_TILE = 8
"""Pixels multiplied together by a block-diagonal matrix: 2.5 times as fast as one by one at 224 pixels."""
_CACHED_VALUES = 100_000


def normalisation_map(mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(3, 4) float32: out = (x - mean) / std for x in 0..1; one diagonal map for all images."""
    matrix = np.zeros((3, 4), dtype=np.float32)
    matrix[range(3), range(3)] = 1 / np.asarray(std)
    matrix[:, 3] = -np.asarray(mean) / np.asarray(std)
    return torch.from_numpy(matrix)


def normalised(squares_BHWC: np.ndarray, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, H, W) float32: (x / 255 - mean) / std of uint8 pixels, or of floats in 0..255; as evaluation does."""
    return apply_map(torch.from_numpy(np.ascontiguousarray(squares_BHWC)), normalisation_map(mean, std))


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
        images_BHWC: uint8, or floating point in 0..255.
        colour: (B, 3, 4), one map for each image; or (3, 4), a diagonal one for all.
    """
    batch, height, width, _ = images_BHWC.shape
    apply = _apply_diagonal if colour.dim() == 2 else _apply_each
    # Several pixels at a time, so that the innermost loops are longer than three.
    tile = width if colour.dim() == 2 else math.gcd(height * width, _TILE)
    rows = images_BHWC.reshape(batch, -1, 3 * tile)
    out = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    with torch.autocast(rows.device.type, enabled=False):  # it would round the pixels to bfloat16
        apply(rows, colour[..., :3] / 255, colour[..., 3], tile=tile, out=out)
    return out.view(batch, height, width, 3).permute(0, 3, 1, 2)


def _apply_diagonal(rows: Tensor, matrix_33: Tensor, offset_3: Tensor, *, tile: int, out: Tensor) -> None:
    scale, offset = matrix_33.diagonal().repeat(tile), offset_3.repeat(tile)
    for part in _parts(rows):
        torch.addcmul(offset, rows[part].to(torch.float32), scale, out=out[part])


def _apply_each(rows: Tensor, matrix_B33: Tensor, offset_B3: Tensor, *, tile: int, out: Tensor) -> None:
    blocks = _block_diagonal(matrix_B33.transpose(1, 2), tile)
    offset = offset_B3.repeat(1, tile)[:, None]
    for part in _parts(rows):
        torch.baddbmm(offset[part], rows[part].to(torch.float32), blocks[part], out=out[part])


def _parts(rows: Tensor) -> list[slice]:
    """The batch in parts that stay in a core's cache between conversion and multiplication; whole on accelerators."""
    batch, count, length = rows.shape
    step = max(1, _CACHED_VALUES // (count * length)) if rows.device.type == "cpu" else max(1, batch)
    return [slice(i, i + step) for i in range(0, batch, step)]


def _block_diagonal(matrix_B33: Tensor, count: int) -> Tensor:
    """(B, 3 count, 3 count): `count` copies on the diagonal."""
    batch = len(matrix_B33)
    blocks = matrix_B33.new_zeros(batch, count, 3, count, 3)
    blocks.diagonal(dim1=1, dim2=3).copy_(matrix_B33[..., None])
    return blocks.view(batch, 3 * count, 3 * count)
