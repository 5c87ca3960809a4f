"""resomap export: the chosen run as files for deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resomap.cli.options import ConfigOption, DataOption, SetOption, study_config, tell
from resomap.errors import ConfigError
from resomap.printable import counted, printable


def export(
    study: Annotated[Path, typer.Argument(help="A study's folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path("exported"),
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the recommended one.")] = None,
    resolution: Annotated[int | None, typer.Option("--resolution", "-r", help="Default: the recommended one.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: the best on val.")] = None,
    run: Annotated[Path | None, typer.Option(help="A run's folder under checkpoints/, instead of the three.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data: DataOption = None,
) -> None:
    """Write weights, ONNX and preprocessing.json of a run; checked by answering real images with both."""
    from resomap.models.checkpoints import read_metadata
    from resomap.study import build
    from resomap.study.export import chosen_run, export_run
    from resomap.study.load import load_study
    from resomap.study.status import missing_runs_first

    if run is not None:
        if (model, resolution, seed) != (None, None, None):
            raise ConfigError("--run names the run already; leave out --model, --resolution and --seed")
        if study.resolve() not in run.resolve().parents:
            raise ConfigError(f"--run: expected a run's folder in {printable(study)}, got {printable(run)}")
        told = read_metadata(run.parent if run.is_file() else run)
        model, resolution, seed = told.model, told.resolution, told.seed
    resolved = study_config(study, config, overrides, data=data, device="cpu")
    with missing_runs_first(study):
        opened = load_study(study)
        chosen = chosen_run(opened, model=model, resolution=resolution, seed=seed, metric=build.table_metric(resolved))
    found = export_run(resolved, opened, chosen, output, progress=tell)
    print(f"{found.run}: {', '.join(found.files)} in {printable(found.folder)}")
    print(f"same answers to {counted(found.images, 'image')}; logits differ by {found.largest_difference:.1g} at most")
