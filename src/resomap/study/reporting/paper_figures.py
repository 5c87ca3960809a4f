"""The figures of a study, from what its stages stored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from resomap.config.schema import ResoMapConfig
from resomap.errors import DatasetError, StudyError
from resomap.explainability.overlay import overlay, resized_map
from resomap.explainability.store import StoredMaps, read_maps
from resomap.layout import StudyLayout, folder_name
from resomap.profiling.latency import BATCH_1, SATURATED
from resomap.records import Cell, ImageDataset, splits_used
from resomap.report.figures import (
    Panel,
    agreement_figure,
    cost_figure,
    gallery_figure,
    performance_figure,
    spectral_figure,
    spread_figure,
)
from resomap.report.saving import save_figure
from resomap.study import build
from resomap.study.costs.cost import check_same_hardware, common_mode, stored_profiles, timed_as
from resomap.study.explaining.explanations import explained_of
from resomap.study.explaining.images import ExplainedImages, evenly_spread
from resomap.study.results import assessed_rows
from resomap.study.runs import assessed_runs
from resomap.study.same_images import open_images
from resomap.study.shared_micro_batch import comparable_runs
from resomap.study.stored_files import read_explanations

log = logging.getLogger(__name__)

Progress = Callable[[str], None]
_PICTURE = 224
"""Side of the pictures in galleries."""


def draw_figures(
    config: ResoMapConfig,
    *,
    images: ImageDataset | None = None,
    layout: StudyLayout | None = None,
    progress: Progress = lambda _: None,
) -> list[Path]:
    """Every figure for which the study has data, as PNG and PDF in report/figures."""
    layout = layout or build.layout(config, images or build.dataset(config))
    explained = None
    if layout.explanations_path.exists():
        try:
            explained = explained_of(config, images or open_images(config, layout)[0])
        except (DatasetError, StudyError) as gone:
            log.warning("no galleries of explanations among the figures: %s", gone)
    return draw_study(
        layout,
        explained=explained,
        metric=build.table_metric(config),
        methods=build.explanation_methods(config),
        gallery=build.explanation_extras(config)["gallery"],
        cells=[record.cell for record in assessed_runs(comparable_runs(layout))],
        progress=progress,
    )


def draw_study(
    layout: StudyLayout,
    *,
    explained: ExplainedImages | None,
    metric: str,
    methods: Sequence[str],
    gallery: int,
    cells: Sequence[Cell],
    progress: Progress = lambda _: None,
) -> list[Path]:
    """Draw and store every figure of a study from plain values; `cells` are those whose maps are shown."""
    progress("figures")
    written: list[Path] = []

    def keep(name: str, figure: Any) -> None:
        written.extend(save_figure(figure, layout.figures_dir / name))

    results = _results(layout)
    if results is not None:
        _, split = splits_used(set(results["split"]))
        keep("performance", performance_figure(results, metric=metric, split=split))
    profiles = [p for p in stored_profiles(layout) if p["latency"]]
    if profiles:
        try:
            keep("cost", cost_figure(_costs(profiles, layout)))
        except StudyError as mixed:
            log.warning("no figure of cost: %s", mixed)
    analysed = read_explanations(layout)
    if analysed is not None:
        for name, figure in _explanation_figures(analysed):
            keep(name, figure)
    if explained is not None and gallery:
        for name, figure in galleries(layout, explained, cells=cells, methods=methods, count=gallery):
            keep(name, figure)
    return written


def _costs(profiles: Sequence[Mapping[str, Any]], layout: StudyLayout) -> list[dict[str, Any]]:
    check_same_hardware(profiles, layout)
    modes = {protocol: common_mode(profiles, layout, protocol) for protocol in (BATCH_1, SATURATED)}
    return [
        {
            "model": profile["model"],
            "resolution": profile["resolution"],
            "memory_mib": profile["inference_memory"]["peak_mib"],
        }
        | {protocol: timed_as(profile, protocol, mode) for protocol, mode in modes.items()}
        for profile in profiles
    ]


def _results(layout: StudyLayout) -> pd.DataFrame | None:
    if not layout.results_csv_path.exists():
        return None
    frame = pd.read_csv(layout.results_csv_path)
    if "split" not in frame:
        return None
    assessed = assessed_rows(frame)
    return assessed if (assessed["status"] == "finished").any() else None


def _explanation_figures(analysed: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    lead = analysed["methods"][0]
    rows = [r for r in analysed["consistency"] if r["similarity"] == analysed["similarity"] and r["subset"] == "all"]
    for model in dict.fromkeys(r["model"] for r in rows):
        of_model = [r for r in rows if r["model"] == model and r["method"] == lead]
        if of_model:
            yield f"agreement-{folder_name(model)}", agreement_figure(of_model, similarity=analysed["similarity"])
    if analysed["spectral"]:
        yield "spectral", spectral_figure(analysed["spectral"])
    if analysed["has_masks"]:
        label = "energy in mask / share of area"
        yield "energy-in-mask", spread_figure(analysed["spread"], figure_of="energy_in_mask", label=label, chance=1.0)


def galleries(
    layout: StudyLayout, explained: ExplainedImages, *, cells: Sequence[Cell], methods: Sequence[str], count: int
) -> Iterable[tuple[str, Any]]:
    """For each model: images across resolutions (first method), and methods beside each other (largest resolution)."""
    for model in dict.fromkeys(cell.model for cell in cells):
        first: dict[int, Cell] = {}
        for cell in sorted(c for c in cells if c.model == model):
            first.setdefault(cell.resolution, cell)
        stored = {(r, m): read_maps(layout.maps_path(cell, m)) for r, cell in first.items() for m in methods}
        across = [maps for r in first if (maps := stored[r, methods[0]]) is not None]
        if across:
            yield f"explanations-{folder_name(model)}", across_resolutions(explained, across, count=count)
        beside = [maps for m in methods if (maps := stored[max(first), m]) is not None]
        if len(beside) > 1:
            yield f"methods-{folder_name(model)}", across_methods(explained, beside, count=count)


def across_resolutions(explained: ExplainedImages, stored: Sequence[StoredMaps], *, count: int) -> Any:
    """One row an image: the original, then heat map and overlay at each resolution with prediction and confidence."""
    chosen = evenly_spread(len(explained.records), count)
    pictures = explained.squares(_PICTURE, kernel="bilinear")
    rows = []
    for i in chosen:
        row = [Panel(pictures[i], _name(explained, int(stored[0].labels[i])))]
        for maps in stored:
            row += [
                Panel(resized_map(maps.maps[i], _PICTURE, _PICTURE).clip(0), f"max {maps.maps[i].max():.2g}"),
                Panel(overlay(pictures[i], maps.maps[i]), _answer(explained, maps, i)),
            ]
        rows.append(row)
    titles = ["image"]
    for maps in stored:
        titles += [f"{maps.cell.resolution} px", "overlay"]
    first = stored[0]
    note = f"{first.method} of {first.cell.model}, seed {first.cell.seed}; each map from 0 to its own 99th percentile"
    return gallery_figure(rows, titles=titles, note=note)


def across_methods(explained: ExplainedImages, stored: Sequence[StoredMaps], *, count: int) -> Any:
    """One row an image: the original, then the overlay of each method."""
    chosen = evenly_spread(len(explained.records), count)
    pictures = explained.squares(_PICTURE, kernel="bilinear")
    rows = [
        [Panel(pictures[i], _name(explained, int(stored[0].labels[i])))]
        + [Panel(overlay(pictures[i], maps.maps[i]), _answer(explained, maps, i)) for maps in stored]
        for i in chosen
    ]
    cell = stored[0].cell
    note = f"{cell.model} at {cell.resolution} px, seed {cell.seed}; each map from 0 to its own 99th percentile"
    return gallery_figure(rows, titles=["image", *[m.method.replace("_", " ") for m in stored]], note=note)


def _name(explained: ExplainedImages, label: int) -> str:
    name = explained.class_names[label]
    return name if len(name) <= 18 else f"{name[:17]}…"


def _answer(explained: ExplainedImages, maps: StoredMaps, position: int) -> str:
    mark = "" if maps.correct[position] else "wrong: "
    return f"{mark}{_name(explained, int(maps.predicted[position]))} {maps.confidence[position]:.2f}"
