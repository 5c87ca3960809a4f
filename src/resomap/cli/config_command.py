"""resomap config: what would run."""

from __future__ import annotations

from resomap.cli.options import GridFlags, grid_flags
from resomap.config.load import dump_config


@grid_flags
def config(flags: GridFlags) -> None:
    """Print the resolved configuration; `--config` takes it back."""
    print(dump_config(flags.resolved()), end="")
