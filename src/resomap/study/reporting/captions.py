"""What captions say of the figures below them: how many images and seeds, and what their intervals are over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resomap.printable import counted


def on(split: str, found: Sequence[Mapping[str, Any]], *, of: Sequence[str] = ("images", "seeds")) -> str:
    """'on test (240 images, 1 seed)', 'on val (240 images, 2 to 5 seeds)'.

    Args:
        found: estimates as stored.
        of: what is counted.
    """
    counts = ", ".join(_range({row[key] for row in found}, key.removesuffix("s")) for key in of)
    return f"on {split} ({counts})"


def _range(counts: set[int], noun: str) -> str:
    low, high = min(counts), max(counts)
    return counted(high, noun) if low == high else f"{low} to {counted(high, noun)}"


def intervals(found: Sequence[Mapping[str, Any]]) -> str:
    """'95 % intervals over images and seeds'; over images alone where there is one seed."""
    seeds = {row["seeds"] for row in found}
    if max(seeds) == 1:
        return "95 % intervals over images"
    return "95 % intervals over images and" + (", where there are several," if min(seeds) == 1 else "") + " seeds"


def with_seeds(means: Sequence[Mapping[str, Any]], compared: int) -> dict[str, str]:
    """model -> its name; with its number of seeds where a model has other than the verdict compares.

    Args:
        means: rows of the verdict's 'metrics'.
        compared: seeds of the verdict.
    """
    seeds = {row["model"]: row["seeds"] for row in means}
    if set(seeds.values()) == {compared}:
        return {model: model for model in seeds}
    return {model: f"{model} ({counted(count, 'seed')})" for model, count in seeds.items()}


def title(name: str) -> str:
    """The first letter large, the others as they are."""
    return name[:1].upper() + name[1:]
