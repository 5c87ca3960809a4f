"""Tests of maps that need the model again: faithfulness, random weights, receptive field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resomap.errors import TargetLayerError
from resomap.explainability.faithfulness import insertion_deletion, max_sensitivity, with_random_weights
from resomap.explainability.map_comparisons import energy_of
from resomap.explainability.methods import explain, make_explainer
from resomap.explainability.receptive_field import effective_receptive_field
from resomap.explainability.store import StoredMaps
from resomap.metrics import maps as measures
from resomap.metrics.map_intervals import mean_interval, pooled_energy
from resomap.models.checkpoints import Checkpoint
from resomap.study.explaining.images import ExplainedImages

FAITHFUL_IMAGES = 16
SENSITIVE_IMAGES = 4


def run_map_tests(
    checkpoint: Checkpoint,
    stored: StoredMaps,
    images: ExplainedImages,
    *,
    options: Mapping[str, Any],
    layer: str | None,
    device: str,
    random_weights: int,
    masks: Sequence[np.ndarray] | None = None,
    draws: int = 2000,
) -> dict[str, Any]:
    """One run's maps of one method against its own network; on a few images, since each costs many passes.

    Args:
        layer: whose receptive field is measured, the same at all resolutions; None: the model has no feature map.
        random_weights: initialisations that the maps are held against; 0: none.
    Returns:
        Plain values: insertion and deletion area, max-sensitivity, likeness to maps of random weights, receptive field.
    """
    network = checkpoint.model.to(device)
    chosen, few_images = images.spread_over(FAITHFUL_IMAGES)
    _, images_BCHW = next(iter(few_images.batches(checkpoint.preprocessing, batch_size=len(chosen))))
    images_BCHW = images_BCHW.to(device)
    targets_B = torch.from_numpy(stored.targets[chosen]).to(device)
    maps_Bhw = torch.from_numpy(stored.maps[chosen]).to(device)
    curves = insertion_deletion(network, images_BCHW, maps_Bhw, targets_B)
    few = slice(0, SENSITIVE_IMAGES)
    explain_again = make_explainer(network, method=stored.method, **options)
    row: dict[str, Any] = asdict(stored.cell) | {
        "method": stored.method,
        "images": len(images_BCHW),
        "deletion_auc": asdict(mean_interval(curves.deletion_auc, draws=draws)),
        "insertion_auc": asdict(mean_interval(curves.insertion_auc, draws=draws)),
        "max_sensitivity": float(
            measures.mean_of_known(max_sensitivity(explain_again, images_BCHW[few], targets_B[few]))
        ),
    }
    if random_weights:
        random = [
            _random_maps(network, stored.method, images_BCHW, targets_B, options, seed=seed)
            for seed in range(random_weights if masks is not None else 1)
        ]
        row |= _beside_random(stored.maps[chosen], random, images.boxes[chosen],
                              [masks[i] for i in chosen] if masks is not None else None, draws=draws)  # fmt: skip
    try:
        field = effective_receptive_field(network, stored.cell.resolution, target_layer=layer)
        row |= {"receptive_field_px": field.side_px, "receptive_field_share": field.share_of_input}
    except TargetLayerError:
        row |= {"receptive_field_px": None, "receptive_field_share": None}
    return row


def _beside_random(
    maps_Bhw: np.ndarray,
    random: Sequence[np.ndarray],
    boxes_B4: np.ndarray,
    masks: Sequence[np.ndarray] | None,
    *,
    draws: int,
) -> dict[str, Any]:
    """Likeness to maps of random weights; with masks also how much more the trained ones lie on the evidence.

    Several initialisations are pooled: the sign of a random head decides whether a map shows what stands out in all
    images, or hides it, so that a single one says nothing. What is left above 1 is contrast, to which any filter
    responds.
    """
    alike = np.array([measures.spearman(maps_Bhw, of_one) for of_one in random])
    row: dict[str, Any] = {
        "random_weights": len(random),
        "random_weights_spearman": asdict(mean_interval(measures.mean_of_known(alike, axis=0), draws=draws)),
    }
    if masks is not None:
        inside, total = energy_of(maps_Bhw, boxes_B4, masks)
        parts = [energy_of(of_one, boxes_B4, masks) for of_one in random]
        fresh = np.array([part[0] for part in parts]), np.array([part[1] for part in parts])
        row["random_weights_energy_in_mask"] = asdict(pooled_energy(*fresh, draws=draws))
        row["energy_over_random_weights"] = asdict(pooled_energy(inside[None], total[None], over=fresh, draws=draws))
    return row


def _random_maps(
    network: nn.Module, method: str, images_BCHW: Tensor, targets_B: Tensor, options: Mapping[str, Any], *, seed: int
) -> np.ndarray:
    fresh = with_random_weights(network, seed=seed)
    found = explain(fresh, images_BCHW, method=method, targets_B=targets_B, **options)
    return found.maps_Bhw.float().cpu().numpy()
