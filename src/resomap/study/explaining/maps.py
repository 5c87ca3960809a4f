"""Where the finished runs look: raw maps of the same images, then every comparison, from the stored maps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resomap.errors import TargetLayerError
from resomap.explainability.methods import REVISIONS, make_explainer
from resomap.explainability.store import StoredMaps, read_maps, write_maps
from resomap.models.checkpoints import Checkpoint, load_checkpoint
from resomap.models.target_layers import get_target_layer
from resomap.records import Cell
from resomap.serialize import digest
from resomap.study.explaining.images import ExplainedImages

log = logging.getLogger(__name__)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """One trained model to be explained."""

    cell: Cell
    checkpoint: Path
    """A run's folder or weights file."""
    key: str
    """Of its weights."""


@dataclass(frozen=True, slots=True)
class MapRecipe:
    """How maps are made; the same for every run."""

    methods: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """method -> its arguments."""
    layers: Mapping[str, str | None] = field(default_factory=dict)
    """model -> the layer that Grad-CAM explains at all of its resolutions; None: it has none (with_layers)."""
    target: str = "label"
    """'label' or 'predicted': the class that is explained."""
    batch_size: int = 16
    device: str = "cpu"
    allow_callables: bool = False

    def options_of(self, model: str, method: str) -> dict[str, Any]:
        """Arguments of the method for a model."""
        options = dict(self.options.get(method, {}))
        if method == "gradcam" and self.layers.get(model) is not None:
            options["target_layer"] = self.layers[model]
        return options


def with_layers(recipe: MapRecipe, sources: Sequence[Source]) -> MapRecipe:
    """The recipe with one layer for each model: the one asked for, or the last feature map at its smallest resolution.

    Each size's own last feature map would be another layer where a small input leaves a single cell to the last ones
    (resnet18: layer3 at 32 px, layer4 from 64 on), and maps of two layers differ whatever the resolution does.
    """
    asked = recipe.options.get("gradcam", {}).get("target_layer")
    layers: dict[str, str | None] = {}
    for source in sorted(sources, key=lambda s: s.cell):
        if source.cell.model not in layers:
            layers[source.cell.model] = asked or _last_feature_map(source, recipe)
    return replace(recipe, layers=layers)


def _last_feature_map(source: Source, recipe: MapRecipe) -> str | None:
    network = load_checkpoint(source.checkpoint, allow_callables=recipe.allow_callables).model
    try:
        return get_target_layer(network, resolution=source.cell.resolution)
    except TargetLayerError as error:
        if "gradcam" in recipe.methods:
            log.warning("no Grad-CAM of %s: %s", source.cell.model, error)
        return None


def make_maps(
    sources: Sequence[Source],
    images: ExplainedImages,
    *,
    recipe: MapRecipe,
    path_of: Callable[[Cell, str], Path],
    progress: Progress = lambda _: None,
) -> list[StoredMaps]:
    """Maps of every run and method; those that are stored already are read, those of another layer made anew.

    A model without a layer to explain has no maps by Grad-CAM; those of an earlier version are removed.

    Args:
        recipe: with_layers, so that Grad-CAM explains one layer of a model.
    Raises:
        CheckpointError: a run's weights are gone or damaged.
        TargetLayerError: nothing is left to be explained.
    """
    made: list[StoredMaps] = []
    for source in sources:
        checkpoint: Checkpoint | None = None
        for method in recipe.methods:
            if method == "gradcam" and recipe.layers.get(source.cell.model, "") is None:
                path_of(source.cell, method).unlink(missing_ok=True)
                continue
            key = _key(source, method, images, recipe)
            stored = read_maps(path_of(source.cell, method))
            if stored is None or stored.key != key:
                progress(f"{method}: {source.cell}")
                checkpoint = checkpoint or load_checkpoint(source.checkpoint, allow_callables=recipe.allow_callables)
                stored = _explain(checkpoint, source.cell, method, images, recipe=recipe, key=key)
                write_maps(path_of(source.cell, method), stored)
            made.append(stored)
    if not made:
        names = ", ".join(dict.fromkeys(source.cell.model for source in sources))
        raise TargetLayerError(
            f"{names}: Grad-CAM needs a convolutional layer, and found none for the reasons above; choose another "
            "method with --set explainability.methods=[integrated_gradients]"
        )
    return made


def _key(source: Source, method: str, images: ExplainedImages, recipe: MapRecipe) -> str:
    return digest(
        {
            "weights": source.key,
            "method": method,
            "options": recipe.options_of(source.cell.model, method),
            "target": recipe.target,
            "images": [record.image_id for record in images.records],
        }
        | ({"revision": REVISIONS[method]} if method in REVISIONS else {})
    )


def _explain(
    checkpoint: Checkpoint, cell: Cell, method: str, images: ExplainedImages, *, recipe: MapRecipe, key: str
) -> StoredMaps:
    network = checkpoint.model.to(recipe.device)
    parts: list[tuple[np.ndarray, ...]] = []
    notes: dict[str, list[Any]] = {}
    explain = make_explainer(network, method=method, **recipe.options_of(cell.model, method))
    for part, images_BCHW in images.batches(checkpoint.preprocessing, batch_size=recipe.batch_size):
        targets_B = torch.from_numpy(images.labels[part]).to(recipe.device) if recipe.target == "label" else None
        of_batch = explain(images_BCHW.to(recipe.device), targets_B)
        confidence_B, predicted_B = of_batch.logits_BK.float().softmax(dim=1).max(dim=1)
        columns = (of_batch.maps_Bhw.float(), of_batch.targets_B, predicted_B, confidence_B)
        parts.append(tuple(column.cpu().numpy() for column in columns))
        for name, values in of_batch.notes.items():
            notes.setdefault(name, []).extend(values)
    maps, targets, predicted, confidence = (np.concatenate(column) for column in zip(*parts, strict=True))
    return StoredMaps(
        cell=cell,
        method=method,
        key=key,
        image_ids=tuple(record.image_id for record in images.records),
        maps=maps,
        boxes=images.boxes,
        labels=images.labels,
        targets=targets,
        predicted=predicted,
        confidence=confidence,
        notes=notes,
    )
