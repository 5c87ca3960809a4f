"""Every comparison of stored maps: across resolutions, seeds and methods, and with masks. Pure arrays, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from scipy import special

from resomap.errors import TargetLayerError
from resomap.explainability.frame import coarsest_grid, support, to_common_frame
from resomap.explainability.store import StoredMaps
from resomap.metrics import maps as measures
from resomap.metrics.classification import wilson_interval
from resomap.metrics.consistency import SIMILARITIES, Interval, consistency
from resomap.printable import printable

_PARTNERS = 8
"""Other images whose masks are laid on each map, for what it gets by place alone."""
_LONGEST = 700.0
"""Half of an interval of a logarithm: beyond it float64 overflows."""
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


def mean_interval(values: np.ndarray, *, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean of what is defined, with its 95 % bootstrap interval over the values."""
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return Interval(None)
    chosen = np.random.default_rng(seed).integers(len(known), size=(draws, len(known)))
    low, high = np.quantile(known[chosen].mean(axis=1), [0.025, 0.975])
    return Interval(float(known.mean()), float(low), float(high))


def share_interval(values_N: np.ndarray, *, networks: int) -> Interval:
    """Mean over images of shares of networks, with Wilson's 95 % interval for so many images as give its variance.

    That leaves an interval of some length where every map hits. The networks are given: it holds for new images.

    Args:
        values_N: share of the networks that hit, NaN where it is not defined.
    """
    known = values_N[np.isfinite(values_N)]
    count = len(known)
    if count == 0:
        return Interval(None)
    value = float(known.mean())
    variance = float(known.var(ddof=1)) / count if count > 1 else 0.0
    trials = min(value * (1 - value) / variance, count * networks) if variance > 0 else count
    # Wilson's normal quantile becomes Student's.
    trials *= (special.ndtri(0.975) / special.stdtrit(max(1, count - 1), 0.975)) ** 2
    return Interval(value, *wilson_interval(value * trials, trials))


def pooled_energy(
    inside_SN: np.ndarray,
    total_SN: np.ndarray,
    *,
    over: tuple[np.ndarray, np.ndarray] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Energy in the mask over its area of S networks' maps of N images, all energy summed: 1 for maps that ignore it.

    One network alone has the bootstrap's interval over images. Several are a sample too, since one with random weights
    may by chance show the evidence or hide it in all images alike: theirs is Student's t on the logarithm, for new
    images and new networks. No interval where no energy is inside.

    Args:
        inside_SN, total_SN: of metrics.maps.energy_parts.
        over: the same of other networks on the same images, whose figure this one is divided by.
    """
    groups = [(inside_SN, total_SN), *([] if over is None else [over])]
    figures = [float(inside.sum() / total.sum()) if total.sum() > 0 else np.nan for inside, total in groups]
    if not np.isfinite(figures).all() or (over is not None and figures[1] == 0):
        return Interval(None)
    value = figures[0] / figures[1] if over is not None else figures[0]
    if max(len(inside) for inside, _ in groups) == 1:
        return _over_images(groups, value, draws=draws, seed=seed)
    if value == 0:
        return Interval(value)
    half = min(_half_of_log([_relative(*group) for group in groups]), _LONGEST)
    return Interval(value, value * float(np.exp(-half)), value * float(np.exp(half)))


def _over_images(groups: Sequence[tuple[np.ndarray, np.ndarray]], value: float, *, draws: int, seed: int) -> Interval:
    """Images drawn with replacement, the same for both."""
    images = groups[0][0].shape[1]
    images_DN = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), draws)
    parts = [(images_DN @ inside[0], images_DN @ total[0]) for inside, total in groups]
    drawn = [np.where(total > 0, inside / np.where(total > 0, total, 1), np.nan) for inside, total in parts]
    figures_D = drawn[0]
    if len(drawn) > 1:
        figures_D = np.where(drawn[1] > 0, figures_D / np.where(drawn[1] > 0, drawn[1], 1), np.nan)
    known = figures_D[np.isfinite(figures_D)]
    if len(known) < draws / 2:
        return Interval(None)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _relative(inside_SN: np.ndarray, total_SN: np.ndarray) -> np.ndarray:
    """(S, N) with mean 0: what each map adds to the logarithm of the pooled figure, to first order."""
    figure = inside_SN.sum() / total_SN.sum()
    return (inside_SN - figure * total_SN) / (figure * total_SN.mean())


def _half_of_log(groups: Sequence[np.ndarray]) -> float:
    """Half of the 95 % interval of the first group's mean less the second's: (S, N) values on the same N images.

    The two-way layout of multi-reader studies, networks in the place of readers: the variance of the images' means plus
    that of networks, (MS_networks - MS_rest) / (S N) or 0 (Obuchowski and Rockette 1995,
    doi:10.1080/03610919508813243); degrees of freedom by Satterthwaite 1946, doi:10.2307/3002019.
    """
    images = groups[0].shape[1]
    image_df = max(1, images - 1)
    by_image_N = groups[0].mean(axis=0) - (groups[1].mean(axis=0) if len(groups) > 1 else 0)
    variance = float(by_image_N.var()) / image_df
    below, least_df = variance**2 / image_df, float(image_df)
    for values_SN in groups:
        networks = len(values_SN)
        if networks > 1:
            by_network_S = values_SN.mean(axis=1)
            rest_SN = values_SN - values_SN.mean(axis=0) - by_network_S[:, None] + values_SN.mean()
            of_networks = float(by_network_S.var(ddof=1)) / networks
            of_rest = float((rest_SN**2).sum()) / ((networks - 1) * image_df * networks * images)
            variance += max(of_networks - of_rest, 0.0)
            below += of_networks**2 / (networks - 1) + of_rest**2 / ((networks - 1) * image_df)
            least_df = min(least_df, networks - 1)
    if below == 0:
        return 0.0
    return float(special.stdtrit(max(variance**2 / below, least_df), 0.975) * np.sqrt(variance))


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
        found = []
        for of_run in by_seed.values():
            if first in of_run and second in of_run:
                frames, _ = _framed_pair(of_run[first], of_run[second])
                found.append(measures.spearman(*frames))
        if found:
            likeness = float(measures.mean_of_known(np.array(found)))
            rows.append({"first": first, "second": second, "spearman": None if np.isnan(likeness) else likeness})
    return rows


def _framed_pair(a: StoredMaps, b: StoredMaps) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    grid = coarsest_grid([a.maps.shape, b.maps.shape])
    seen = support(a.boxes, grid=grid)
    one, other = (np.where(seen, to_common_frame(m.maps, m.boxes, grid=grid), np.nan) for m in (a, b))
    return (one, other), grid


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
