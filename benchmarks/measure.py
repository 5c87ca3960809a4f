"""What the benchmarks share: photograph-like images, and runs in turn with intervals of their ratios."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

SIZE_WH = (490, 380)
"""Of the photographs of ants and bees on which figures were first taken, about."""
CLASSES = ("a", "b")


def photographs(folder: Path, count: int, *, size_wh: tuple[int, int] = SIZE_WH) -> list[Path]:
    """Smooth random pictures with detail, as JPEG files <folder>/<class>/<i>.jpg, classes in turn."""
    paths = []
    for i in range(count):
        rng = np.random.default_rng(i)
        coarse = Image.fromarray(rng.integers(0, 255, (19, 24, 3), dtype=np.uint8)).resize(size_wh, 3)
        noise = Image.fromarray(rng.integers(0, 255, (*size_wh[::-1], 3), dtype=np.uint8))
        picture = Image.blend(coarse, noise.filter(ImageFilter.GaussianBlur(1)), 0.3)
        path = folder / CLASSES[i % len(CLASSES)] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)
        paths.append(path)
    return paths


def in_turn(
    arms: Mapping[str, Callable[[], object]], rounds: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each arm in each round: A B C A B C, every other round backwards.

    Args:
        clock: time.process_time counts this process's work alone, whatever else the machine does.
    """
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds):
        names = list(arms) if turn % 2 == 0 else list(reversed(arms))
        for name in names:
            started = clock()
            arms[name]()
            taken[name].append(clock() - started)
    return taken


def median_interval(values: Sequence[float], *, draws: int = 10_000) -> tuple[float, float, float]:
    """(median, low, high): 95 % percentile bootstrap interval of the median."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), size=(draws, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(np.median(values)), float(low), float(high)


def shown(values: Sequence[float]) -> str:
    """'1.93 (1.88-1.99)'."""
    return "{:.2f} ({:.2f}-{:.2f})".format(*median_interval(values))
