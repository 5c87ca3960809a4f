"""What weakens a study's results and is known before there are any: its images, its settings, its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from resomap.printable import counted, listed
from resomap.records import Cell
from resomap.study import build
from resomap.study.context import StudyContext

if TYPE_CHECKING:
    from resomap.data.pyramid import ImageStore

_UNEVEN = 0.1
"""Computation of an option that is off by more, as a share, is named."""


def study_notes(context: StudyContext, cells: Mapping[Cell, int]) -> Iterator[str]:
    """What weakens the results and is known without them.

    Args:
        cells: of plan.held_cells().
    """
    yield from context.images.notes
    yield from _few_seeds(cells)
    for split, store in context.stores.items():
        if store.bad_files:
            yield f"{split}: {counted(len(store.bad_files), 'unreadable file')} left out"
    sides = sorted({cell.resolution for cell in cells})
    for side, share in upsampled_share(context.stores, sides).items():
        if share >= 0.05:
            yield f"{share:.0%} of the images are smaller than {side} px and were enlarged"
    limit = build.information_resolution(context.config)
    if limit is not None and limit < sides[-1]:
        yield (
            f"every image was reduced to {limit} px before it was brought to its input resolution "
            "(data.information_resolution): above that, inputs have larger maps and no more detail"
        )
    if build.kernel(context.config) == "box":
        yield "the box kernel lets detail finer than a pixel through as false patterns (aliases)"
    if context.budget_reference is not None:
        about = f"the same computation at every resolution ({_epochs(cells)}): training length differs too"
        uneven = list(_uneven(context, cells))
        yield about + (f"; epochs are whole, so it is not the same: {listed(uneven, most=6)}" if uneven else "")
    if build.is_resolution_aware(context.config):
        yield "augmentation differs by resolution (resolution_aware): resolution is not all that changes"


def upsampled_share(stores: Mapping[str, ImageStore], resolutions: Iterable[int]) -> dict[str, float]:
    """resolution -> share of all images whose short side is below it: more pixels, no more information."""
    short_sides = np.concatenate([store.sizes.min(axis=1) for store in stores.values()])
    return {str(r): float((short_sides < r).mean()) for r in resolutions}


def _few_seeds(cells: Iterable[Cell]) -> Iterator[str]:
    seeds: dict[str, int] = {}
    for cell in cells:
        option = f"{cell.model} @{cell.resolution}"
        seeds[option] = seeds.get(option, 0) + 1
    few = [option for option, count in seeds.items() if count < 3]
    if few:
        where = f" of {listed(few, most=6)}" if len(few) < len(seeds) else ""
        yield f"fewer than 3 seeds{where}: differences between resolutions may be chance"


def _uneven(context: StudyContext, cells: Iterable[Cell]) -> Iterator[str]:
    """Options whose whole epochs leave them more than a tenth off the computation that all are to have.

    Not of models that are no longer asked for, whose networks are not built.
    """
    asked, reference = {cell.model for cell in context.cells}, context.budget_reference
    for model, side in dict.fromkeys((cell.model, cell.resolution) for cell in cells if cell.model in asked):
        share = build.computation_at(context.config, model, side, reference=reference)
        if abs(share - 1) > _UNEVEN:
            yield f"{model} @{side} has {share:.2g} times the computation of @{reference}"


def _epochs(cells: Mapping[Cell, int]) -> str:
    """'resnet18 epochs @224: 20, @320: 10'"""
    models: dict[str, dict[int, int]] = {}
    for cell, epochs in cells.items():
        of_model = models.setdefault(cell.model, {})
        of_model[cell.resolution] = max(epochs, of_model.get(cell.resolution, 0))
    return "; ".join(
        f"{model} epochs " + ", ".join(f"@{side}: {epochs}" for side, epochs in of_model.items())
        for model, of_model in models.items()
    )
