"""Evaluation pixels: from an upright RGB image to the square that a model sees, byte for byte Pillow's."""

from __future__ import annotations

import numpy as np
from PIL import Image

from resomap.errors import ConfigError
from resomap.printable import printable

KERNELS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
MAX_ASPECT = 32
"""A 1 x 20,000 image would be 512 x 10,240,000 before its centre is cut: it is cut to this aspect ratio first."""


def to_square(image: Image.Image, resolution: int, *, kernel: str, information: int | None = None) -> np.ndarray:
    """Resize the short side to `resolution` (antialiased), then cut the centre square.

    The long side becomes its length times resolution / short side, rounded half up. Images longer
    than 32 times their width are cut to that ratio about the centre first.

    Args:
        image: mode RGB.
        resolution: side in pixels.
        kernel: 'bilinear', 'bicubic', 'lanczos' or 'box' (area average).
        information: side to which the image is brought first, if it is smaller: a larger input without the detail.
    Returns:
        (resolution, resolution, 3) uint8, contiguous and writable.
    """
    if kernel not in KERNELS:
        raise ConfigError(f"kernel: expected one of {', '.join(KERNELS)}; got {printable(repr(kernel))}")
    if resolution < 1:
        raise ConfigError(f"resolution: expected a side of at least 1 pixel; got {resolution}")
    if information is not None and information < resolution:
        image = Image.fromarray(to_square(image, information, kernel=kernel))
    short = min(image.size)
    if max(image.size) > MAX_ASPECT * short:
        image = _centre(image, *(min(side, MAX_ASPECT * short) for side in image.size))
    width, height = ((2 * side * resolution + short) // (2 * short) for side in image.size)
    resized = image.resize((width, height), KERNELS[kernel])
    return np.array(_centre(resized, resolution, resolution))


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
