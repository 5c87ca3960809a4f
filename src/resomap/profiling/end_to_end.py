"""From an image file to an answer: decoding, resizing and the model, measured together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from resomap.data.colour import normalised
from resomap.data.decode import decode_rgb
from resomap.data.resize import to_square
from resomap.errors import BadImageError
from resomap.models.modules import input_dtype
from resomap.records import Preprocessing

_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """From an image file to an answer, one image at a time; medians in ms."""

    images: int
    """Files that could be read."""
    decode_ms: float
    resize_ms: float
    """Resizing and normalising."""
    model_ms: float
    """There and back: the image onto the device, the answer from it."""
    total_ms: float
    """Median of the sum, which need not be the sum of the medians."""
    mode: str = "eager"
    """How the model was deployed: in the weights' precision, whatever other modes are timed."""


def time_files(
    networks: Sequence[nn.Module],
    recipes: Sequence[Preprocessing],
    paths: Sequence[Path],
    *,
    device: torch.device,
    max_pixels: int,
) -> list[EndToEnd | None]:
    """Every network in turn on every file, several rounds; files that cannot be read are left out.

    Args:
        networks: they may be the same one several times; put on the device and into evaluation mode.
        recipes: what each network sees of an image.
    """
    for network in networks:
        network.to(device).eval()
    times: list[list[tuple[float, float, float]]] = [[] for _ in networks]
    for round_ in range(_ROUNDS + 1):
        for path in paths:
            for of_network, network, recipe in zip(times, networks, recipes, strict=True):
                try:
                    spent = _answer(network, path, recipe, device=device, max_pixels=max_pixels)
                except BadImageError:
                    continue
                if round_:  # the first round warms up
                    of_network.append(spent)
    return [_summary(np.array(of_network)) if of_network else None for of_network in times]


def _answer(
    network: nn.Module, path: Path, recipe: Preprocessing, *, device: torch.device, max_pixels: int
) -> tuple[float, float, float]:
    """Seconds of decoding, of resizing and normalising, and of the model (its answer read back)."""
    dtype = input_dtype(network)
    started = time.perf_counter()
    picture = decode_rgb(path, max_pixels=max_pixels)
    decoded = time.perf_counter()
    square = to_square(picture, recipe.resolution, kernel=recipe.kernel, information=recipe.information_resolution)
    images_BCHW = normalised(square[None], mean=recipe.mean, std=recipe.std)
    resized = time.perf_counter()
    with torch.inference_mode():
        network(images_BCHW.to(device, dtype)).argmax(dim=1).cpu()
    return decoded - started, resized - decoded, time.perf_counter() - resized


def _summary(seconds_T3: np.ndarray) -> EndToEnd:
    decode, resize, model = (float(v) * 1000 for v in np.median(seconds_T3, axis=0))
    return EndToEnd(len(seconds_T3) // _ROUNDS, decode, resize, model, float(np.median(seconds_T3.sum(axis=1))) * 1000)
