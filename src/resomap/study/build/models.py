"""The models of the grid: what exists, what fits, how it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resomap.config.schema import ResoMapConfig
from resomap.errors import ConfigError, ResoMapError, UnknownModelError
from resomap.models.names import NOT_ALLOWED
from resomap.printable import printable
from resomap.records import Cell, Preprocessing

if TYPE_CHECKING:
    from torch import nn


def check_models(config: ResoMapConfig) -> None:
    """Every model is known and takes every resolution; all problems in one ConfigError."""
    from resomap.models.registry import canonical_name, check_resolution

    problems: list[str] = []
    for index, name in enumerate(config.sweep.models):
        try:
            if ":" in name and not config.models.allow_callables:
                raise ConfigError(f"{printable(name)} {NOT_ALLOWED}")
            canonical_name(name)
        except ResoMapError as error:
            problems.append(f"sweep.yaml: sweep.models[{index}]: {error}")
            continue
        told: set[str] = set()
        for position, resolution in enumerate(config.sweep.resolutions):
            try:
                check_resolution(name, resolution, specs=model_specs(config), num_classes=2)
            except UnknownModelError as error:
                problems.append(f"sweep.yaml: sweep.models[{index}]: {error}")
                break
            except ResoMapError as error:
                if str(error) not in told:  # lazy layers are wrong at every size
                    problems.append(f"sweep.yaml: sweep.resolutions[{position}]: {error}")
                told.add(str(error))
    if problems:
        raise ConfigError(problems)


def check_parameters(config: ResoMapConfig, *, num_classes: int) -> dict[str, int]:
    """Parameters of each model, the same at every resolution (DESIGN: only resolution differs).

    Raises:
        ResolutionError: a model's parameters depend on the resolution, or it cannot take one.
        CheckpointError: pretrained weights cannot be had, or are another model's.
    """
    from resomap.models.registry import assert_same_parameters, canonical_name, check_pretrained

    specs = model_specs(config)
    counts = {}
    for name in config.sweep.models:
        counts[canonical_name(name)] = assert_same_parameters(
            name, config.sweep.resolutions, num_classes=num_classes, specs=specs
        )
        check_pretrained(name, config.models.pretrained, num_classes=num_classes, specs=specs)
    return counts


def model_specs(config: ResoMapConfig) -> dict[str, dict[str, Any]]:
    """Descriptions of our own networks, by name."""
    return {
        name: {"channels": list(cnn.channels), "kernel_size": cnn.kernel_size, "dropout": cnn.dropout}
        for name, cnn in (("simple_cnn", config.models.simple_cnn), ("tiny_cnn", config.models.tiny_cnn))
    }


def family(config: ResoMapConfig, model: str) -> str:
    """The family whose folder holds the model's checkpoints."""
    from resomap.models.registry import family_of

    return family_of(model, families=config.models.families)


def model(config: ResoMapConfig, cell: Cell, *, num_classes: int) -> nn.Module:
    """The cell's model, initialised from its seed (or with the pretrained weights)."""
    from resomap.models.registry import build_model

    return build_model(
        cell.model,
        num_classes=num_classes,
        pretrained=config.models.pretrained,
        resolution=cell.resolution,
        specs=model_specs(config),
        allow_callables=config.models.allow_callables,
        seed=cell.seed,
    )


def model_on_meta(config: ResoMapConfig, cell: Cell, *, num_classes: int) -> nn.Module:
    """The cell's model without weights, for counting on shapes."""
    from resomap.models.architectures import construct_on_meta

    return construct_on_meta(cell.model, num_classes=num_classes, specs=model_specs(config))


def network_identity(config: ResoMapConfig, cell: Cell, *, num_classes: int) -> dict[str, Any]:
    """What tells whether a model of that name is still the same network, its weights aside.

    Code of the user's is built, on shapes alone: its layers, its operations and the file that it is written in.
    """
    about = {"name": cell.model, "classes": num_classes, "description": model_specs(config).get(cell.model)}
    if ":" not in cell.model:
        return about
    from resomap.models.user_callable import source_of
    from resomap.profiling.complexity import get_model_complexity

    network = model_on_meta(config, cell, num_classes=num_classes)
    counted = get_model_complexity(network, (1, 3, cell.resolution, cell.resolution))
    return about | {
        "layers": str(network),
        "parameters": counted.parameters,
        "macs": counted.macs,
        "source": source_of(cell.model),
    }


def preprocessing(config: ResoMapConfig, cell: Cell) -> Preprocessing:
    """How the cell's model sees an image."""
    from resomap.models.registry import normalisation_of

    mean, std = normalisation_of(cell.model)
    return Preprocessing(
        resolution=cell.resolution,
        kernel=config.data.kernel,
        mean=config.data.mean or mean,
        std=config.data.std or std,
        information_resolution=config.data.information_resolution,
    )


def allows_callables(config: ResoMapConfig) -> bool:
    """Whether a model may be code of the user's."""
    return config.models.allow_callables
