"""resomap evaluate: one checkpoint on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resomap.cli.options import ConfigOption, DataOption, DeviceOption, SetOption, checkpoint_config
from resomap.cli.tables import print_table
from resomap.printable import counted


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A run's folder, its metadata.json or weights file.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    data: DataOption = None,
    split: Annotated[
        str | None, typer.Option(help="train, val or test; default: test, val where there is none.")
    ] = None,
    device: DeviceOption = None,
    predictions: Annotated[Path | None, typer.Option(help="Also write per-image predictions (parquet) here.")] = None,
) -> None:
    """Evaluate a checkpoint at its own resolution and preprocessing; in a study, on the study's data."""
    from resomap.serialize import check_writable
    from resomap.study.evaluate import evaluate_checkpoint

    resolved = checkpoint_config(checkpoint, config, overrides, {"data.source": data, "system.device": device})
    check_writable(predictions)
    metrics = evaluate_checkpoint(resolved, checkpoint, split=split, predictions_path=predictions)
    scalars = [[k, f"{v:.4f}"] for k, v in metrics.items() if isinstance(v, float)]
    none = " (the data has no test split)" if split is None and metrics["split"] != "test" else ""
    print_table(f"{metrics['split']}{none}: {counted(metrics['images'], 'image')}", ["metric", "value"], scalars)
    columns = ["class", "images", "precision", "recall", "f1"]
    rows = [
        [row["class"], str(row["support"]), *[f"{row[k]:.3f}" for k in columns[2:]]] for row in metrics["per_class"]
    ]
    print_table("per class", columns, rows)
