"""How cost is measured and predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from resomap.config.schema import ResoMapConfig
from resomap.records import Cell
from resomap.study.build.data import max_pixels
from resomap.study.build.loaders import micro_batch
from resomap.study.build.models import network_identity, preprocessing
from resomap.training.ranks import Ranks

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def profiles_wanted(config: ResoMapConfig) -> bool:
    """Whether a run ends with the profiling stage."""
    return config.system.profiling.enabled


_LEAST_BUDGET_S = 10.0


def profiling_options(config: ResoMapConfig, *, training_s: float | None = None) -> dict[str, Any]:
    """Arguments of the profiler.

    Args:
        training_s: seconds that the study has trained, to which timing is held; None: profiling was asked for.
    """
    from resomap.profiling.records import Rounds

    chosen = config.system.profiling
    budget_s = chosen.budget_s
    if training_s is not None and chosen.share_of_training is not None:
        budget_s = min(budget_s, max(_LEAST_BUDGET_S, chosen.share_of_training * training_s))
    return {
        "warmup": chosen.warmup,
        "rounds": Rounds(least=chosen.blocks, precision=chosen.precision, budget_s=budget_s),
        "modes": tuple(chosen.modes),
        "max_batch": chosen.max_batch,
    }


def profile_determinants(config: ResoMapConfig, cell: Cell, *, num_classes: int) -> dict[str, Any]:
    """What a model's cost at a resolution depends on, as far as the configuration says it: not the time it may take."""
    training = config.training
    options = profiling_options(config)
    return {
        "network": network_identity(config, cell, num_classes=num_classes),
        "options": options | {"rounds": replace(options["rounds"], budget_s=None)},
        "training_step": {
            "micro_batch": micro_batch(config, Ranks()),
            "optimizer": training.optimizer,
            "momentum": training.momentum,
        },
        "preprocessing": preprocessing(config, cell),
        "max_pixels": max_pixels(config),
    }


def end_to_end_images(config: ResoMapConfig) -> int:
    """Image files timed from disk to answer."""
    return config.system.profiling.end_to_end_images


def memory_limit_mib(config: ResoMapConfig) -> float | None:
    """Memory that a run may take; None: what the device has free."""
    return None if config.system.memory_gib is None else config.system.memory_gib * 1024


def optimizer_factory(config: ResoMapConfig) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """Parameters -> the kind of optimiser that training uses: what matters for memory."""
    import torch

    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    options: dict[str, Any] = {"lr": config.training.learning_rate, "fused": True}
    if config.training.optimizer == "sgd":
        options["momentum"] = config.training.momentum
    return lambda parameters: kinds[config.training.optimizer](parameters, **options)


def training_length(config: ResoMapConfig) -> tuple[int, int]:
    """(epochs, images of an update)."""
    return config.training.epochs, config.training.batch_size
