"""resomap config: what would run."""

from __future__ import annotations

from resomap.cli.options import (
    BatchOption,
    ConfigOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    ModelsOption,
    OutputOption,
    PretrainedOption,
    ResolutionsOption,
    SeedsOption,
    SetOption,
)
from resomap.cli.run_commands import sweep_config
from resomap.config.load import dump_config


def config(
    config: ConfigOption = None,
    overrides: SetOption = None,
    data: DataOption = None,
    models: ModelsOption = None,
    resolutions: ResolutionsOption = None,
    seeds: SeedsOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    device: DeviceOption = None,
    pretrained: PretrainedOption = None,
    output: OutputOption = None,
) -> None:
    """Print the resolved configuration; `--config` takes it back."""
    resolved = sweep_config(
        config, overrides, data=data, models=models, resolutions=resolutions, seeds=seeds,
        epochs=epochs, batch_size=batch_size, device=device, pretrained=pretrained, output=output,
    )  # fmt: skip
    print(dump_config(resolved), end="")
