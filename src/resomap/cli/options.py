"""Options that several commands share, and how they become configuration."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from resomap.allocator import keep_freed_memory
from resomap.config.load import load_config
from resomap.config.schema import ResoMapConfig
from resomap.errors import ConfigError
from resomap.layout import StudyLayout, study_of
from resomap.printable import printable

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Folder of YAML files, or one file. Default: ./configs, else built in."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Any setting: --set training.learning_rate=3e-4 (repeatable)."),
]
DataOption = Annotated[str | None, typer.Option("--data", "-d", help="Folder of images, torchvision:NAME, or acuity.")]
ModelsOption = Annotated[str | None, typer.Option(help="Comma-separated model names.")]
ResolutionsOption = Annotated[str | None, typer.Option(help="Comma-separated sides in pixels.")]
SeedsOption = Annotated[str | None, typer.Option(help="Comma-separated seeds.")]
EpochsOption = Annotated[int | None, typer.Option(help="Passes over the training images.")]
BatchOption = Annotated[int | None, typer.Option(help="Images per update.")]
OutputOption = Annotated[
    str | None, typer.Option("--output", "-o", help="The study's directory ({data}: the data set's name).")
]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]
PretrainedOption = Annotated[
    str | None, typer.Option(help="true: the library's weights; or the path of a weights file.")
]
ExecutorOption = Annotated[str | None, typer.Option(help="local, or ray: each run is a task of a Ray cluster.")]
RayAddressOption = Annotated[
    str | None, typer.Option(help="Address of the Ray cluster; auto: the one that this machine is a node of.")
]
DiscardOption = Annotated[bool, typer.Option("--discard-changed", help="Delete stored runs made with other settings.")]


def configure(config: Path | None, overrides: list[str] | None, flags: dict[str, object | None]) -> ResoMapConfig:
    """The resolved configuration: files, then --set, then the flags that were given."""
    given = {key: value for key, value in flags.items() if value is not None}
    resolved = load_config(config, overrides or [], flags=given)
    if resolved.system.keep_memory:
        keep_freed_memory()  # before a command imports torch: some of it is read at the first allocation
    return resolved


def study_config(
    study: Path, config: Path | None, overrides: list[str] | None, *, data: str | None, device: str | None
) -> ResoMapConfig:
    """The configuration that a study was made with, and whatever is given on top.

    Raises:
        ConfigError: the folder is no study.
    """
    stored = StudyLayout(study).config_path
    if not stored.is_file():
        raise ConfigError(f"{printable(study)} is no study (it has no {stored.name}); give the folder that `run` wrote")
    flags: dict[str, object | None] = {"study.output": str(study), "data.source": data, "system.device": device}
    return configure(config or stored, overrides, flags)


def checkpoint_config(
    checkpoint: Path | None, config: Path | None, overrides: list[str] | None, flags: dict[str, object | None]
) -> ResoMapConfig:
    """The configuration of the study that a checkpoint lies in, with what is given on top; else as `configure`."""
    study = study_of(checkpoint) if checkpoint is not None and config is None else None
    if study is None:
        return configure(config, overrides, flags)
    resolved = configure(study.config_path, overrides, flags)
    print(f"settings of {printable(study.config_path)}; data: {printable(resolved.data.source)}", file=sys.stderr)
    return resolved


def pretrained_value(text: str | None) -> bool | str | None:
    """'true' and 'false' as bool, anything else as a path."""
    if text is None:
        return None
    return {"true": True, "false": False}.get(text.lower(), text)


def tell(what: str) -> None:
    """A line on standard error: what a command does now."""
    print(f"{what} ...", file=sys.stderr)


_GRID = {
    "data": ("data.source", DataOption),
    "models": ("sweep.models", ModelsOption),
    "resolutions": ("sweep.resolutions", ResolutionsOption),
    "seeds": ("sweep.seeds", SeedsOption),
    "epochs": ("training.epochs", EpochsOption),
    "batch_size": ("training.batch_size", BatchOption),
    "device": ("system.device", DeviceOption),
    "pretrained": ("models.pretrained", PretrainedOption),
    "output": ("study.output", OutputOption),
}
"""Flag -> (the setting that it stands for, its option)."""


@dataclass(frozen=True, slots=True)
class GridFlags:
    """What --config, --set and the flags of the grid were given as."""

    config: Path | None
    overrides: list[str] | None
    settings: dict[str, object | None]
    """Dotted setting -> value; None: not given."""

    def resolved(self, more: Mapping[str, object | None] | None = None) -> ResoMapConfig:
        """The configuration that they describe, and `more` settings."""
        return configure(self.config, self.overrides, self.settings | dict(more or {}))


def grid_flags(command: Callable[..., None], *, without: Collection[str] = ()) -> Callable[..., None]:
    """The command with --config, --set and the flags of the grid in the place of its first parameter.

    Args:
        without: flags that it does not have.
    """
    shared = {"config": ConfigOption, "overrides": SetOption}
    shared |= {name: option for name, (_, option) in _GRID.items() if name not in without}
    _, *own = inspect.signature(command, eval_str=True).parameters.values()

    def with_flags(**given: Any) -> None:
        config, overrides = given.pop("config"), given.pop("overrides")
        settings = {setting: given.pop(name) for name, (setting, _) in _GRID.items() if name in given}
        settings["models.pretrained"] = pretrained_value(settings["models.pretrained"])
        command(GridFlags(config, overrides, settings), **given)

    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in shared.items()
    ]
    own = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    needed = [one for one in own if one.default is one.empty]
    parameters = [*needed, *options, *(one for one in own if one not in needed)]
    with_flags.__name__, with_flags.__doc__ = command.__name__, command.__doc__
    with_flags.__annotations__ = {one.name: one.annotation for one in parameters}
    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return with_flags
