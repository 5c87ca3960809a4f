"""Spectral occlusion: which detail does a model use? Take octave bands out of the images and see what it costs.

Frequencies are cycles per image side, so a band means the same detail at every resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from resomap.data.colour import normalised
from resomap.models.checkpoints import Checkpoint


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


def occlude_bands(
    checkpoints: Sequence[Checkpoint], squares_NHW3: np.ndarray, labels_N: np.ndarray, *, batch_size: int, device: str
) -> list[dict[str, Any]]:
    """Accuracy and target logit of each network with each octave band taken out of the images.

    The bands are taken out of one common picture of each image; every network then gets that picture at its own size.
    So a band is the same detail for all of them, and a network that was given fewer pixels than the band needs cannot
    change.

    Args:
        squares_NHW3: uint8 pictures, at least as large as the largest resolution of the networks.
        labels_N: their classes.
    Returns:
        One row for each band and network: cycles per image, accuracy and logit without the band, and what they lost.
    """
    squares = squares_NHW3.astype(np.float32)
    rows: list[dict[str, Any]] = []
    for band in (None, *octave_bands(squares.shape[1])):
        altered = squares if band is None else without_band(squares, *band)
        for position, checkpoint in enumerate(checkpoints):
            logits_NK = _logits(checkpoint, altered, batch_size=batch_size, device=device)
            right = logits_NK.argmax(axis=1) == labels_N
            target = logits_NK[np.arange(len(right)), labels_N] - logits_NK.mean(axis=1)
            metadata = checkpoint.metadata
            row: dict[str, Any] = {
                "model": metadata.model, "resolution": metadata.resolution, "seed": metadata.seed,
                "low_cycles": band[0] if band else None, "high_cycles": band[1] if band else None,
                "accuracy": float(right.mean()), "target_logit": float(target.mean()),
            }  # fmt: skip
            whole = rows[position] if band else row
            row["accuracy_drop"] = whole["accuracy"] - row["accuracy"]
            row["logit_drop"] = whole["target_logit"] - row["target_logit"]
            rows.append(row)
    return [row for row in rows if row["low_cycles"] is not None]


def _logits(checkpoint: Checkpoint, squares_NHW3: np.ndarray, *, batch_size: int, device: str) -> np.ndarray:
    """(N, K) of pictures brought to the network's own resolution by antialiased bilinear interpolation."""
    recipe = checkpoint.preprocessing
    side = recipe.resolution
    rows = []
    with torch.inference_mode():
        for start in range(0, len(squares_NHW3), batch_size):
            images_BCHW = normalised(squares_NHW3[start : start + batch_size], mean=recipe.mean, std=recipe.std)
            if images_BCHW.shape[-1] != side:
                images_BCHW = nn.functional.interpolate(
                    images_BCHW, size=(side, side), mode="bilinear", antialias=True, align_corners=False
                )
            rows.append(checkpoint.model.to(device).eval()(images_BCHW.to(device)).float().cpu().numpy())
    return np.concatenate(rows)
