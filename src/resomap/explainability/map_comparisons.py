"""Every comparison of stored maps: across resolutions, seeds and methods, and with masks. Pure arrays, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from resomap.errors import TargetLayerError
from resomap.explainability.agreement import SIMILARITIES, consistency
from resomap.explainability.frame import coarsest_grid, support, to_common_frame
from resomap.explainability.store import StoredMaps
from resomap.metrics import maps as measures
from resomap.metrics.map_intervals import mean_interval, pooled_energy, share_interval
from resomap.printable import printable

_PARTNERS = 8
"""Other images whose masks are laid on each map, for what it gets by place alone."""
Framed = Mapping[int, Mapping[int, np.ndarray]]
"""resolution -> seed -> (N, g, g), NaN outside of what the models see."""


def compare_maps(
    stored: Sequence[StoredMaps],
    *,
    masks: Sequence[np.ndarray] | None = None,
    class_names: Sequence[str] = (),
    similarity: str = "spearman",
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, list[dict[str, Any]]]:
    """Tables, as rows of plain values.

    Args:
        stored: maps of the same images, of any models, resolutions, seeds and methods.
        masks: (H, W) in 0..1 for each image, where it is known what they should show.
        similarity: the one that is also computed for the images that are right at both resolutions.
    Returns:
        'consistency': each model, method, pair of resolutions and similarity; 'spread': entropy, Gini, energy in mask
        and pointing game by model, method and resolution; 'between_methods': likeness of the
        methods' maps; 'completeness'.
    Raises:
        TargetLayerError: maps of one model and method are of different layers.
    """
    tables: dict[str, list[dict[str, Any]]] = {
        "consistency": [],
        "spread": [],
        "between_methods": [],
        "completeness": [],
    }
    for (model, method), group in _grouped(stored, lambda s: (s.cell.model, s.method)):
        _check_layer(group)
        frames, grid = _framed(group)
        named = {"model": model, "method": method, "grid": grid}
        for low, high in combinations(sorted(frames), 2):
            right = _right_at_both(group, low, high)
            for measure in SIMILARITIES:
                found = consistency(frames, low, high, similarity=measure, draws=draws, seed=seed)
                tables["consistency"].append(named | {"subset": "all"} | _row(found, grid))
            found = consistency(frames, low, high, similarity=similarity, draws=draws, seed=seed, keep=right)
            tables["consistency"].append(named | {"subset": "right at both"} | _row(found, grid))
        tables["spread"] += [named | row for row in _spread(group, masks, class_names, draws=draws, seed=seed)]
        tables["completeness"] += _completeness(group)
    for (model, resolution), group in _grouped(stored, lambda s: (s.cell.model, s.cell.resolution)):
        tables["between_methods"] += [{"model": model, "resolution": resolution} | row for row in _methods(group)]
    return tables


def _grouped(
    stored: Iterable[StoredMaps], key: Callable[[StoredMaps], tuple[Any, Any]]
) -> list[tuple[tuple[Any, Any], list[StoredMaps]]]:
    groups: dict[tuple[Any, Any], list[StoredMaps]] = {}
    for one in stored:
        groups.setdefault(key(one), []).append(one)
    return list(groups.items())


def _check_layer(group: Sequence[StoredMaps]) -> None:
    layers = sorted({str(name) for one in group for name in one.notes.get("layer", ())})
    if len(layers) > 1:
        first = group[0]
        raise TargetLayerError(
            f"{first.cell.model}, {first.method}: maps of different layers ({printable(', '.join(layers))}) cannot be "
            "compared; make them all with one target_layer"
        )


def _framed(group: Sequence[StoredMaps]) -> tuple[Framed, int]:
    """All maps of a model on the coarsest one's grid."""
    grid = coarsest_grid(one.maps.shape for one in group)
    seen = support(group[0].boxes, grid=grid)
    frames: dict[int, dict[int, np.ndarray]] = {}
    for one in group:
        framed = to_common_frame(one.maps, one.boxes, grid=grid)
        frames.setdefault(one.cell.resolution, {})[one.cell.seed] = np.where(seen, framed, np.nan)
    return frames, grid


def _right_at_both(group: Sequence[StoredMaps], low: int, high: int) -> np.ndarray:
    """(N,) bool: right with every seed at both resolutions."""
    return np.all([one.correct for one in group if one.cell.resolution in (low, high)], axis=0)


def _row(found: Any, grid: int) -> dict[str, Any]:
    chance = measures.chance_iou(grid * grid) if found.similarity == "top_k_iou" else None
    return asdict(found) | {"chance": chance}


def _spread(
    group: Sequence[StoredMaps],
    masks: Sequence[np.ndarray] | None,
    class_names: Sequence[str],
    *,
    draws: int,
    seed: int,
) -> list[dict[str, Any]]:
    """How maps are spread, by resolution: mean over seeds of an image, interval over images; energies in masks."""
    rows = []
    for resolution in sorted({one.cell.resolution for one in group}):
        of_side = [one for one in group if one.cell.resolution == resolution]
        figures = {
            "entropy": np.mean([measures.entropy(one.maps) for one in of_side], axis=0),
            "gini": np.mean([measures.gini(one.maps) for one in of_side], axis=0),
        }
        if masks is not None:
            pairs = [framed_with_masks(one.maps, one.boxes, masks) for one in of_side]
            hits_N = measures.mean_of_known(np.array([measures.pointing_game(*pair) for pair in pairs]), axis=0)
        row: dict[str, Any] = {"resolution": resolution, "seeds": len(of_side)}
        row |= {name: asdict(mean_interval(values, draws=draws, seed=seed)) for name, values in figures.items()}
        if masks is not None:
            row["pointing_game"] = asdict(share_interval(hits_N, networks=len(of_side)))
            row |= _energies(of_side, masks, class_names, draws=draws, seed=seed)
        rows.append(row)
    return rows


def _energies(
    of_side: Sequence[StoredMaps], masks: Sequence[np.ndarray], class_names: Sequence[str], *, draws: int, seed: int
) -> dict[str, Any]:
    """Energy in the masks, in those of other images (place alone), and by class; intervals over images and seeds."""
    inside, total = _stacked(of_side, masks)
    labels = of_side[0].labels
    by_class = {
        str(class_names[k] if len(class_names) > k else k): asdict(
            pooled_energy(inside[:, labels == k], total[:, labels == k], draws=draws, seed=seed)
        )
        for k in np.unique(labels)
    }
    return {
        "energy_in_mask": asdict(pooled_energy(inside, total, draws=draws, seed=seed)),
        "energy_in_other_masks": asdict(pooled_energy(*_stacked(of_side, masks, others=True), draws=draws, seed=seed)),
        "energy_by_class": by_class,
    }


def _stacked(
    of_side: Sequence[StoredMaps], masks: Sequence[np.ndarray], *, others: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """energy_of each seed, (S, N) each."""
    parts = [energy_of(one.maps, one.boxes, masks, others=others) for one in of_side]
    return np.array([inside for inside, _ in parts]), np.array([total for _, total in parts])


def framed_with_masks(
    maps_Nhw: np.ndarray, boxes_N4: np.ndarray, masks: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """(maps, masks), both (N, g, g) on the maps' own grid over the whole image."""
    grid = coarsest_grid([maps_Nhw.shape])
    whole = np.array([[0.0, 0.0, 1.0, 1.0]])
    framed = to_common_frame(maps_Nhw, boxes_N4, grid=grid)
    return framed, np.concatenate([to_common_frame(mask[None], whole, grid=grid) for mask in masks])


def energy_of(
    maps_Nhw: np.ndarray, boxes_N4: np.ndarray, masks: Sequence[np.ndarray], *, others: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """metrics.maps.energy_parts in the common frame; `others`: mean over other images' masks, 0 without any."""
    framed, framed_masks = framed_with_masks(maps_Nhw, boxes_N4, masks)
    if not others:
        return measures.energy_parts(framed, framed_masks)
    if len(framed) < 2:
        return np.zeros(len(framed)), np.zeros(len(framed))
    shifts = np.unique(np.linspace(1, len(framed) - 1, min(_PARTNERS, len(framed) - 1)).round().astype(int))
    parts = [measures.energy_parts(framed, np.roll(framed_masks, shift, axis=0)) for shift in shifts]
    inside, total = np.mean(parts, axis=0)
    return inside, total


def _methods(group: Sequence[StoredMaps]) -> list[dict[str, Any]]:
    """Mean similarity of two methods' maps of the same runs; None where every map is constant."""
    rows = []
    by_seed: dict[int, dict[str, StoredMaps]] = {}
    for one in group:
        by_seed.setdefault(one.cell.seed, {})[one.method] = one
    for first, second in combinations(dict.fromkeys(one.method for one in group), 2):
        found = [
            measures.spearman(*_framed_pair(of_run[first], of_run[second]))
            for of_run in by_seed.values()
            if first in of_run and second in of_run
        ]
        if found:
            likeness = float(measures.mean_of_known(np.array(found)))
            rows.append({"first": first, "second": second, "spearman": None if np.isnan(likeness) else likeness})
    return rows


def _framed_pair(a: StoredMaps, b: StoredMaps) -> tuple[np.ndarray, np.ndarray]:
    """Both as (N, g, g) on the coarser one's grid, NaN outside of what the models see."""
    grid = coarsest_grid([a.maps.shape, b.maps.shape])
    seen = support(a.boxes, grid=grid)
    one, other = (np.where(seen, to_common_frame(m.maps, m.boxes, grid=grid), np.nan) for m in (a, b))
    return one, other


def _completeness(group: Sequence[StoredMaps]) -> list[dict[str, Any]]:
    rows = []
    for one in group:
        errors = one.notes.get("completeness_error")
        if errors:
            rows.append(
                asdict(one.cell)
                | {"method": one.method, "median_relative_error": float(np.median(errors)),
                   "worst_relative_error": float(np.max(errors)), "mean_steps": float(np.mean(one.notes["steps"]))}
            )  # fmt: skip
    return rows
