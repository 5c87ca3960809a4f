"""Hue, rotation and blur, image by image through torchvision; only where asked for, since each costs milliseconds."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from resomap.data.augmentation import Draws


def warp(pixels_BHWC: np.ndarray, draws: Draws) -> np.ndarray:
    """(B, H, W, 3) uint8 after rotation (bilinear, black corners), blur and hue shift, in this order."""
    side = pixels_BHWC.shape[1]
    for i in range(len(pixels_BHWC)):
        image = torch.from_numpy(pixels_BHWC[i]).permute(2, 0, 1)
        if draws.angle[i]:
            image = functional.rotate(image, float(draws.angle[i]), interpolation=InterpolationMode.BILINEAR)
        if draws.sigma[i]:
            sigma = float(draws.sigma[i]) * side
            image = functional.gaussian_blur(image, kernel_size=_odd(6 * sigma), sigma=sigma)
        if draws.hue[i]:
            image = functional.adjust_hue(image, float(draws.hue[i]))
        pixels_BHWC[i] = image.permute(1, 2, 0).numpy()
    return pixels_BHWC


def _odd(width: float) -> int:
    """The smallest odd kernel size that holds three sigmas on each side."""
    return 2 * int(np.ceil(max(width, 1.0) / 2)) + 1
