"""Options that several commands share, and how they become configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from resomap.allocator import keep_freed_memory
from resomap.config.load import load_config
from resomap.config.schema import ResoMapConfig
from resomap.layout import study_of
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
