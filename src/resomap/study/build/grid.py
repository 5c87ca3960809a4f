"""The grid: models x resolutions x seeds, spelled out as cells."""

from __future__ import annotations

from resomap.config.schema import ResoMapConfig
from resomap.records import Cell


def cells(config: ResoMapConfig) -> list[Cell]:
    """The grid, one seed after the other, so that a study cut short has whole comparisons.

    With successive halving the largest resolutions come first: others are compared with them.
    """
    from resomap.models.registry import canonical_name

    models = [canonical_name(name) for name in config.sweep.models]
    resolutions = list(config.sweep.resolutions)
    if config.training.successive_halving:
        resolutions.sort(reverse=True)
    return [
        Cell(model, resolution, seed) for seed in config.sweep.seeds for model in models for resolution in resolutions
    ]


def sides(config: ResoMapConfig) -> list[int]:
    """The grid's resolutions, ascending."""
    return sorted(config.sweep.resolutions)


def grid_size(config: ResoMapConfig) -> int:
    """How many cells the grid has; without torch."""
    return len(config.sweep.models) * len(config.sweep.resolutions) * len(config.sweep.seeds)
