"""Heat maps as pictures: brought to the image's size by bilinear interpolation, coloured by a uniform scale.

Only pictures are scaled, each by a stated maximum; figures and comparisons use the raw maps.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

COLOUR_MAP = "inferno"
"""Perceptually uniform, and rising in grey."""
TOP = 99
"""Percentile of a heat map that gets the full colour: single pixels would leave the rest dark."""


def top_value(map_hw: np.ndarray) -> float:
    """The map's value that gets the full colour: its 99th percentile, its largest where that is 0."""
    return float(np.percentile(map_hw, TOP)) or float(np.max(map_hw))


def colour_map(values_HW: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of values in 0..1."""
    from matplotlib import colormaps

    return (colormaps[COLOUR_MAP](np.clip(values_HW, 0, 1))[..., :3] * 255).round().astype(np.uint8)


def resized_map(map_hw: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) float32, bilinear."""
    picture = Image.fromarray(np.asarray(map_hw, dtype=np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def overlay(image_HW3: np.ndarray, map_hw: np.ndarray, *, top: float | None = None, opacity: float = 0.6) -> np.ndarray:
    """(H, W, 3) uint8: the image in grey with the map's colour over it, the stronger the higher the value.

    Args:
        image_HW3: uint8.
        top: value that gets the full colour; None: the map's own 99th percentile.
        opacity: of the full colour.
    """
    height, width = image_HW3.shape[:2]
    largest = top_value(map_hw) if top is None else top
    share = np.clip(resized_map(map_hw, height, width) / largest, 0, 1) if largest > 0 else np.zeros((height, width))
    grey = np.asarray(image_HW3, dtype=np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    weight = opacity * np.sqrt(share)[..., None]
    mixed = grey[..., None] * (1 - weight) + colour_map(share).astype(np.float32) * weight
    return mixed.round().clip(0, 255).astype(np.uint8)
