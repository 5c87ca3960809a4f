"""The explanation stage of a study: maps of its finished runs, every comparison, one JSON file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from resomap.config.schema import ResoMapConfig
from resomap.errors import StudyError, TargetLayerError
from resomap.explainability.map_comparisons import compare_maps
from resomap.explainability.methods import REVISIONS
from resomap.explainability.spectral import occlude_bands
from resomap.explainability.store import StoredMaps
from resomap.layout import StudyLayout
from resomap.models.checkpoints import Checkpoint, load_checkpoint
from resomap.printable import printable
from resomap.records import ImageDataset
from resomap.serialize import check_writable, digest, plain, provenance, write_json
from resomap.study import build
from resomap.study.explaining.images import ExplainedImages, masks_of, open_explained
from resomap.study.explaining.map_tests import run_map_tests
from resomap.study.explaining.maps import MapRecipe, Source, make_maps, with_layers
from resomap.study.runs import assessed_runs
from resomap.study.same_images import open_images
from resomap.study.shared_micro_batch import comparable_runs
from resomap.study.stored_files import read_explanations

log = logging.getLogger(__name__)

Progress = Callable[[str], None]
_LARGEST_OCCLUDED = 512


def explained_of(config: ResoMapConfig, images: ImageDataset) -> ExplainedImages:
    """The images that the configuration has explained."""
    drawn = build.explained_images(config)
    return open_explained(images, count=drawn["count"], seed=drawn["seed"], max_pixels=build.max_pixels(config))


def recipe_of(config: ResoMapConfig, *, device: str) -> MapRecipe:
    """How the configuration has maps made."""
    drawn = build.explained_images(config)
    methods = build.explanation_methods(config)
    return MapRecipe(
        methods=methods,
        options={method: build.method_options(config, method) for method in methods},
        target=drawn["target"],
        batch_size=drawn["batch_size"],
        device=device,
        allow_callables=build.allows_callables(config),
    )


def explain_study(
    config: ResoMapConfig,
    *,
    images: ImageDataset | None = None,
    layout: StudyLayout | None = None,
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Explain every finished run of the study that is assessed, compare, and write analysis/explanations.json.

    Maps and tables that are stored and still belong to the weights and settings are not made again.

    Args:
        images: the study's own; None: they are opened.
    Raises:
        StudyError: no run is finished yet, or the images are not those that the study was made from.
        TargetLayerError: Grad-CAM alone is asked for, and no model has a layer for it; tables of an earlier version,
            which do not hold, are removed.
    """
    build.settle_process(config)
    device, _ = build.device_and_precision(config)
    if images is None:
        images, layout = open_images(config, layout)
    layout = layout or build.layout(config, images)
    sources = [
        Source(record.cell, layout.run_dir(record.cell, record.family), record.key)
        for record in assessed_runs(comparable_runs(layout))
    ]
    if not sources:
        raise StudyError(f"{printable(layout.root)} holds no finished run; run `resomap run` first")
    explained = explained_of(config, images)
    recipe = recipe_of(config, device=device)
    key = _key(sources, explained, recipe, build.agreement_options(config), build.explanation_extras(config))
    try:
        known = read_explanations(layout)
    except StudyError as damaged:
        log.warning("made anew: %s", damaged)
    else:
        if known is not None and known.get("key") == key:
            return known
    check_writable(layout.explanations_path)
    masks = masks_of(images, explained.records, max_pixels=build.max_pixels(config))
    try:
        result = analyse_sources(
            sources,
            explained,
            recipe=recipe,
            layout=layout,
            masks=masks,
            agreement=build.agreement_options(config),
            extras=build.explanation_extras(config),
            progress=progress,
        )
    except TargetLayerError:
        layout.explanations_path.unlink(missing_ok=True)
        raise
    write_json(layout.explanations_path, result | {"key": key})
    return result


def _key(
    sources: Sequence[Source],
    explained: ExplainedImages,
    recipe: MapRecipe,
    agreement: Mapping[str, Any],
    extras: Mapping[str, Any],
) -> str:
    """Of everything that the tables follow from: equal keys, equal tables."""
    return digest(
        plain(
            {
                "runs": {str(source.cell): source.key for source in sources},
                "images": [record.image_id for record in explained.records],
                "recipe": recipe,
                "layers": "one a model, of its smallest resolution",
                "revisions": REVISIONS,
                "agreement": agreement,
                "extras": extras,
            }
        )
    )


def analyse_sources(
    sources: Sequence[Source],
    explained: ExplainedImages,
    *,
    recipe: MapRecipe,
    layout: StudyLayout,
    masks: Sequence[Any] | None,
    agreement: Mapping[str, Any],
    extras: Mapping[str, Any],
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Make the maps, compare them, and probe the first seed of each model and resolution."""
    if "gradcam" in recipe.methods or extras["faithfulness"]:
        recipe = with_layers(recipe, sources)
    stored = make_maps(sources, explained, recipe=recipe, path_of=layout.maps_path, progress=progress)
    progress("comparing maps")
    tables = compare_maps(stored, masks=masks, class_names=explained.class_names, **agreement)
    firsts = _first_seeds(sources) if extras["faithfulness"] or extras["spectral"] else []
    checkpoints = {s.cell: load_checkpoint(s.checkpoint, allow_callables=recipe.allow_callables) for s in firsts}
    probes = []
    for one in stored if extras["faithfulness"] else ():
        if one.cell in checkpoints:
            progress(f"faithfulness of {one.method}: {one.cell}")
            probes.append(
                run_map_tests(
                    checkpoints[one.cell], one, explained, options=recipe.options_of(one.cell.model, one.method),
                    layer=recipe.layers[one.cell.model], device=recipe.device,
                    random_weights=extras["random_weights"], masks=masks, draws=agreement["draws"],
                )
            )  # fmt: skip
    spectral = _spectral(checkpoints.values(), explained, recipe, progress) if extras["spectral"] else []
    return {
        "split": explained.split,
        "images": len(explained.records),
        "class_names": explained.class_names,
        "target": recipe.target,
        "methods": recipe.methods,
        "layers": recipe.layers,
        "similarity": agreement["similarity"],
        "has_masks": masks is not None,
        "runs": [asdict(source.cell) for source in sources],
        **tables,
        "faithfulness": probes,
        "spectral": spectral,
        "accuracy": [_accuracy(one) for one in stored if one.method == recipe.methods[0]],
        "provenance": provenance(device=recipe.device),
    }


def _first_seeds(sources: Sequence[Source]) -> list[Source]:
    first: dict[tuple[str, int], Source] = {}
    for source in sorted(sources, key=lambda s: s.cell):
        first.setdefault((source.cell.model, source.cell.resolution), source)
    return list(first.values())


def _spectral(
    checkpoints: Any, explained: ExplainedImages, recipe: MapRecipe, progress: Progress
) -> list[dict[str, Any]]:
    """Every model's networks on one common picture of each image, at the model's largest resolution."""
    progress("spectral occlusion")
    of_model: dict[str, list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        of_model.setdefault(checkpoint.metadata.model, []).append(checkpoint)
    rows: list[dict[str, Any]] = []
    for group in of_model.values():
        seen = group[0].preprocessing
        side = min(_LARGEST_OCCLUDED, max(checkpoint.preprocessing.resolution for checkpoint in group))
        squares = explained.squares(side, kernel=seen.kernel, information=seen.information_resolution)
        rows += occlude_bands(group, squares, explained.labels, batch_size=recipe.batch_size, device=recipe.device)
    return rows


def _accuracy(stored: StoredMaps) -> dict[str, Any]:
    return asdict(stored.cell) | {"accuracy": float(stored.correct.mean())}
