"""How long each resolution trains."""

from __future__ import annotations

import json
from functools import lru_cache

from resomap.config.schema import ResoMapConfig
from resomap.study.builders.models import model_specs


def is_compute_matched(config: ResoMapConfig) -> bool:
    """Whether resolutions are given the same computation instead of the same updates."""
    return config.training.budget == "compute_matched"


def stops_dominated_runs(config: ResoMapConfig) -> bool:
    """Whether runs that are clearly worse than the best are stopped."""
    return config.training.successive_halving


def epochs_at(config: ResoMapConfig, model: str, resolution: int) -> int:
    """Epochs of a model's runs at a resolution; `model` is a canonical name.

    Compute-matched, the largest resolution trains `training.epochs`, another as many more as it has fewer
    multiply-accumulates an image, rounded to whole epochs.
    """
    if not is_compute_matched(config):
        return config.training.epochs
    specs = json.dumps(model_specs(config), sort_keys=True)
    largest, own = (_macs(model, side, specs) for side in (max(config.sweep.resolutions), resolution))
    return max(1, round(config.training.epochs * largest / own))


def with_budget(config: ResoMapConfig, model: str, resolution: int) -> ResoMapConfig:
    """The configuration with the epochs of this resolution."""
    epochs = epochs_at(config, model, resolution)
    if epochs == config.training.epochs:
        return config
    return config.model_copy(update={"training": config.training.model_copy(update={"epochs": epochs})})


@lru_cache(maxsize=1024)
def _macs(model: str, resolution: int, specs: str) -> int:
    """Of one image's forward pass; the class count hardly matters and is taken as 2."""
    from resomap.models.construct import construct_on_meta
    from resomap.profiling.complexity import get_model_complexity

    network = construct_on_meta(model, num_classes=2, specs=json.loads(specs))
    return get_model_complexity(network, (1, 3, resolution, resolution)).macs
