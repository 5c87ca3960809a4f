"""What an acuity image is made of: the evidence, the noise, the classes. No files, no observer.

    image = 0.5 + background + white noise + amplitude * g(y - y0) w(x - x0)        (stripes horizontal)

in grey values 0..1, the same evidence in the three channels, noise and background drawn anew for
each. w is a Hann window, g a grating of `band` cycles an image under that window, both with unit sum
of squares, g with zero sum: whatever class, place and phase, evidence adds the same mean and RMS.

Legend: n image side, p patch side, m background modes, all one-dimensional profiles float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from resomap.errors import DatasetError

SIZE = 256
"""Default side of the images in pixels."""
LEAST_SIZE = 64
"""Smaller images have no room for a patch."""
BANDS = (27.0, 47.0)
"""Default bands in cycles an image."""
NATIVE_DPRIME = 50.0
"""Default d' of the ideal observer at native size."""
TRAIN, VAL, TEST = 1200, 300, 600
"""Default numbers of images, all classes together."""
SHORTCUT_AGREEMENT = 0.9
"""Default share of images whose tint is that of their own class."""
ORIENTATIONS = ("horizontal", "vertical")
VARIANTS = ("standard", "null", "shortcut")
WHITE_NOISE = 0.1
"""Standard deviation of the white noise, grey values 0..1, every channel on its own."""
BACKGROUND = 0.01
"""RMS of the low-frequency background, grey values 0..1, every channel on its own."""
BACKGROUND_MODES = 8
"""Cosine modes of the background by axis: mode k has k/2 cycles an image, so it ends at 3.5."""
LOWEST_BAND = 4.0
"""One cycle in the patch; with less there is no orientation to tell."""
NULL_BANDS = (6.0, 12.0)
"""Lowest and highest frequency of the null variant: both are whole from 32 pixels on."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the evidence lies: top-left corner of the patch in pixels, and the grating's phase in radians."""

    top: int
    left: int
    phase: float


def patch_side(size: int) -> int:
    """Side of the evidence's square patch: a quarter of the image's."""
    return size // 4


def evidence_bands(bands: tuple[float, ...], variant: str) -> tuple[float, ...]:
    """Frequencies that really carry the evidence, in cycles an image.

    The null variant keeps the number of bands and moves them to NULL_BANDS, evenly spaced, where
    every resolution from 32 pixels on holds them.
    """
    if variant != "null":
        return bands
    low, high = NULL_BANDS
    if len(bands) == 1:
        return ((low + high) / 2,)
    return tuple(round(float(band), 3) for band in np.linspace(low, high, len(bands)))


def class_names(bands: tuple[float, ...]) -> tuple[str, ...]:
    """Two classes a band, e.g. 'band24-horizontal' (its stripes run horizontally), 'band24-vertical'."""
    return tuple(f"band{band:g}-{orientation}" for band in bands for orientation in ORIENTATIONS)


def check_bands(bands: tuple[float, ...], size: int) -> None:
    """Refuse bands that an image of `size` cannot show.

    Raises:
        DatasetError: none given, two equal, below one cycle a patch, or too near to native Nyquist.
    """
    highest = size / 2 - 2 * size / patch_side(size)
    if not bands or len(set(class_names(bands))) != 2 * len(bands):
        raise DatasetError(f"acuity bands: expected one or more different frequencies, got {list(bands)}")
    for band in bands:
        if not LOWEST_BAND <= band <= highest:
            raise DatasetError(
                f"acuity band {band:g} cycles an image: expected {LOWEST_BAND:g} to {highest:g} "
                f"at size {size}; choose another band or a larger size"
            )


@lru_cache(maxsize=16)
def window(size: int) -> np.ndarray:
    """(p,) Hann window of the patch, unit sum of squares."""
    side = patch_side(size)
    profile = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(side) + 0.5) / side)
    profile /= np.linalg.norm(profile)
    profile.flags.writeable = False
    return profile


def grating(size: int, *, band: float, phase: float) -> np.ndarray:
    """(p,) windowed cosine of `band` cycles an image, zero sum, unit sum of squares.

    The phase is that at the patch's centre.
    """
    hann = window(size)
    offset = np.arange(len(hann)) - (len(hann) - 1) / 2
    profile = hann * np.cos(2 * np.pi * band * offset / size + phase)
    profile -= hann * (profile.sum() / hann.sum())
    return profile / np.linalg.norm(profile)


def evidence(size: int, *, band: float, orientation: str, phase: float) -> np.ndarray:
    """(p, p) evidence of unit sum of squares."""
    across = np.outer(grating(size, band=band, phase=phase), window(size))
    return across if orientation == "horizontal" else across.T


@lru_cache(maxsize=16)
def background_factor(size: int) -> np.ndarray:
    """(n, m) F such that F Z F^T, with Z (m, m) of independent unit normals, is a background of RMS 1.

    Columns are cosine modes that fall as 1 / (1 + k), so the covariance F F^T (x) F F^T is separable.
    """
    position = (np.arange(size) + 0.5) / size
    factor = np.stack([np.cos(np.pi * k * position) / (1 + k) for k in range(BACKGROUND_MODES)], axis=1)
    factor /= np.sqrt((factor**2).sum(axis=1).mean())
    factor.flags.writeable = False
    return factor
