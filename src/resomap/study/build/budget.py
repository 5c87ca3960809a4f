"""How long each resolution trains."""

from __future__ import annotations

import json
from functools import lru_cache

from resomap.config.schema import ResoMapConfig
from resomap.errors import ConfigError
from resomap.models.names import NOT_ALLOWED
from resomap.printable import printable
from resomap.study.build.models import model_specs


def is_compute_matched(config: ResoMapConfig) -> bool:
    """Whether resolutions are given the same computation instead of the same updates."""
    return config.training.budget == "compute_matched"


def stops_dominated_runs(config: ResoMapConfig) -> bool:
    """Whether runs that are clearly worse than the best are stopped."""
    return config.training.successive_halving


def may_stop_early(config: ResoMapConfig) -> bool:
    """Whether a run ends once its validation metric no longer improves."""
    return config.training.early_stopping_patience is not None


def budget_reference(config: ResoMapConfig) -> int | None:
    """The resolution that a new study's computation is measured by, its largest; None where nothing is matched."""
    return max(config.sweep.resolutions) if is_compute_matched(config) else None


def epochs_at(config: ResoMapConfig, model: str, resolution: int, *, reference: int | None) -> int:
    """Epochs of a model's runs at a resolution; `model` is a canonical name.

    Compute-matched, the study's reference resolution trains `training.epochs`, another as many more as it has fewer
    multiply-accumulates an image, rounded to whole epochs.

    Args:
        reference: the study's, since two processes may have other resolutions; None: nothing is matched.
    Raises:
        ConfigError: the model would run code of the user's, which is not allowed.
    """
    return max(1, round(_exact_epochs(config, model, resolution, reference=reference)))


def computation_at(config: ResoMapConfig, model: str, resolution: int, *, reference: int | None) -> float:
    """Computation of a model's runs at a resolution over what it is to be: 1, but that epochs are whole.

    Args, Raises: as epochs_at.
    """
    exact = _exact_epochs(config, model, resolution, reference=reference)
    return max(1, round(exact)) / exact


def _exact_epochs(config: ResoMapConfig, model: str, resolution: int, *, reference: int | None) -> float:
    if reference is None:
        return config.training.epochs
    if ":" in model and not config.models.allow_callables:
        raise ConfigError(f"{printable(model)} {NOT_ALLOWED}")
    specs = json.dumps(model_specs(config), sort_keys=True)
    full, own = (_macs(model, side, specs) for side in (reference, resolution))
    return config.training.epochs * full / own


def with_budget(config: ResoMapConfig, model: str, resolution: int, *, reference: int | None) -> ResoMapConfig:
    """The configuration with the epochs of this resolution, and a schedule that is stretched with them."""
    training = config.training
    epochs = epochs_at(config, model, resolution, reference=reference)
    if epochs == training.epochs:
        return config
    stretch = epochs / training.epochs
    patience = training.early_stopping_patience
    own: dict[str, float | None] = {
        "epochs": epochs,
        "warmup_epochs": training.warmup_epochs * stretch,
        "step_epochs": max(1, round(training.step_epochs * stretch)),
        "plateau_patience": max(1, round(training.plateau_patience * stretch)),
    }
    if patience is not None:
        own["early_stopping_patience"] = max(1, round(patience * stretch))
    if training.schedule == "exponential":
        own["gamma"] = training.gamma ** (1 / stretch)
    return config.model_copy(update={"training": training.model_copy(update=own)})


def stretched(config: ResoMapConfig) -> dict[str, float | None]:
    """The settings that with_budget() changes, as they are in this configuration."""
    training = config.training
    return {
        "epochs": training.epochs,
        "warmup_epochs": training.warmup_epochs,
        "step_epochs": training.step_epochs,
        "plateau_patience": training.plateau_patience,
        "early_stopping_patience": training.early_stopping_patience,
        "gamma": training.gamma,
    }


@lru_cache(maxsize=1024)
def _macs(model: str, resolution: int, specs: str) -> int:
    """Of one image's forward pass; the class count hardly matters and is taken as 2."""
    from resomap.models.architectures import construct_on_meta
    from resomap.profiling.complexity import get_model_complexity

    network = construct_on_meta(model, num_classes=2, specs=json.loads(specs))
    return get_model_complexity(network, (1, 3, resolution, resolution)).macs
