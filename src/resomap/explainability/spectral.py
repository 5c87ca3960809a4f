"""Spectral occlusion: which detail does a model use? Take octave bands out of the images and see what it costs.

Frequencies are cycles per image side, so a band means the same detail at every resolution.
"""

from __future__ import annotations

import numpy as np


def octave_bands(resolution: int, *, lowest: float = 2.0) -> tuple[tuple[float, float], ...]:
    """(low, high) in cycles per image: octaves from `lowest` up to the Nyquist limit of the resolution.

    The last band may be cut short by that limit; one less than a quarter of an octave wide is joined to the one below.
    """
    nyquist = resolution / 2
    edges = [lowest]
    while edges[-1] * 2 < nyquist:
        edges.append(edges[-1] * 2)
    if edges[-1] * 2**0.25 > nyquist and len(edges) > 1:
        edges.pop()
    return tuple(zip(edges, [*edges[1:], nyquist], strict=True))


def without_band(squares_NHW3: np.ndarray, low: float, high: float) -> np.ndarray:
    """Images with the frequencies low <= f < high removed, phases and all else kept.

    Args:
        squares_NHW3: uint8 or float in 0..255, square.
        low: cycles per image side; radial frequency, so the corners of the spectrum lie above the Nyquist limit and are
            removed with the highest band only if `high` reaches them.
    Returns:
        (N, H, W, 3) float32, clipped to 0..255.
    """
    images = np.asarray(squares_NHW3, dtype=np.float32)
    height, width = images.shape[1:3]
    rows = np.fft.fftfreq(height, 1 / height)[:, None]
    columns = np.fft.rfftfreq(width, 1 / width)[None]
    radius = np.hypot(rows, columns)
    keep = ~((radius >= low) & (radius < high))
    spectrum = np.fft.rfft2(images, axes=(1, 2)) * keep[None, :, :, None]
    return np.fft.irfft2(spectrum, s=(height, width), axes=(1, 2)).clip(0, 255).astype(np.float32)
