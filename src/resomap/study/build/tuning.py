"""Settings of speed that may be tuned, and the configuration with a choice put in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resomap.config.schema import ResoMapConfig
from resomap.records import TunedSettings
from resomap.study.build.loaders import micro_batch
from resomap.study.build.models import model_specs
from resomap.study.build.training import device_and_precision, processes_per_run
from resomap.training.ranks import Ranks

if TYPE_CHECKING:
    from resomap.training.autotune import Options


def tuning_options(config: ResoMapConfig, ranks: Ranks) -> Options | None:
    """What autotune may choose from, one of a kind where it was given; None where nothing is to be tuned."""
    from resomap.training.autotune import Options, micro_batches
    from resomap.training.device import computes_bf16

    system = config.system
    # Processes would have to agree while they time; results that must repeat bit by bit shall not hang on a clock.
    if not system.autotune or system.deterministic or ranks.world_size > 1 or processes_per_run(config) > 1:
        return None
    device, precision = device_and_precision(config)
    precisions: tuple[str, ...] = (precision,)
    if system.mixed_precision == "auto":
        other = "bf16" if precision == "no" else "no"
        precisions += (other,) if other == "no" or computes_bf16(device) else ()
    largest = micro_batch(config, ranks)
    return Options(
        precisions=precisions,
        formats=(True, False) if system.channels_last is None else (system.channels_last,),
        micro_batches=micro_batches(largest) if config.training.micro_batch is None else (largest,),
    )


def applies_choices(config: ResoMapConfig) -> bool:
    """Whether runs may take what was tuned by the clock: not where they must repeat bit by bit."""
    return not config.system.deterministic


def tuned_subject(config: ResoMapConfig, model: str, *, num_classes: int) -> dict[str, Any]:
    """What a choice holds for, besides the machine."""
    return {
        "model": model,
        "description": model_specs(config).get(model),
        "classes": num_classes,
        "resolutions": sorted(config.sweep.resolutions),
        "batch": config.training.batch_size,
    }


def training_images(config: ResoMapConfig, counts: dict[str, int]) -> float:
    """Images that one run's training is worth, validation included: a forward pass is a third of a step."""
    epochs = config.training.epochs
    return counts["train"] * epochs + (counts["val"] * (epochs + 1) + counts.get("test", 0)) / 3


def with_choice(config: ResoMapConfig, choice: TunedSettings | None, resolution: int) -> ResoMapConfig:
    """The configuration of a run: what was left open is as chosen; what was given stays."""
    if choice is None:
        return config
    system, training = config.system, config.training
    found: dict[str, Any] = {}
    if system.mixed_precision == "auto":
        found["mixed_precision"] = choice.precision
    if system.channels_last is None:
        found["channels_last"] = choice.channels_last.get(resolution, True)
    micro = choice.micro_batch if training.micro_batch is None else training.micro_batch
    return config.model_copy(
        update={
            "system": system.model_copy(update=found),
            "training": training.model_copy(update={"micro_batch": micro}),
        }
    )


def precision_of(config: ResoMapConfig, default: str) -> str:
    """The precision asked for; `default` where it is left open."""
    asked = config.system.mixed_precision
    return default if asked == "auto" else asked
