"""resomap matrix and resomap probe: trained networks at other input sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from resomap.cli.options import ConfigOption, DataOption, DeviceOption, SetOption, checkpoint_config, study_config, tell
from resomap.cli.recommend_command import print_recommendation
from resomap.cli.tables import print_table
from resomap.errors import ConfigError, StudyError
from resomap.layout import VERDICT, predictions_name


def matrix(
    study: Annotated[Path, typer.Argument(help="A study's folder.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    data: DataOption = None,
    device: DeviceOption = None,
    weights: Annotated[
        str, typer.Option(help="Comma-separated: as_trained, bn_reestimated, head_finetuned.")
    ] = "as_trained,bn_reestimated",
) -> None:
    """Evaluate every run at every resolution, and on images of less detail."""
    from resomap.metrics.classification import metric_name
    from resomap.records import WEIGHTS
    from resomap.study import build
    from resomap.study.cross_resolution import run_conditions
    from resomap.study.load import load_study
    from resomap.study.status import missing_runs_first
    from resomap.study.verdict.gain import detail_rows, matrix_tables

    kinds = [kind.strip() for kind in weights.split(",")]
    unknown = [kind for kind in kinds if kind not in WEIGHTS]
    if unknown:
        raise ConfigError(f"--weights: expected some of {', '.join(WEIGHTS)}, got {', '.join(unknown)}")
    resolved = study_config(study, config, overrides, data=data, device=device)
    with missing_runs_first(study):
        opened = load_study(study)
        if not any(len(sides) > 1 for sides, _ in opened.grid.values()):
            raise StudyError("nothing to test: no model has a seed that is finished at each of two or more resolutions")
    run_conditions(
        resolved, opened, weights=kinds,
        progress=tell,
    )  # fmt: skip
    metric = build.table_metric(resolved)
    tables = {kind: matrix_tables(opened, metric=metric, weights=kind) for kind in kinds}
    if not any(tables.values()):
        raise StudyError("nothing to show: no network takes an input of another size than its own")
    for kind, of_kind in tables.items():
        for model, table in of_kind.items():
            rows = [
                [str(side), *("-" if v is None else f"{v:.3f}" for v in values)]
                for side, values in zip(table["trained"], table["values"], strict=True)
            ]
            title = f"{model}, {kind}: {metric_name(metric)} on {opened.splits[1]}; rows trained at, columns tested at"
            print_table(title, ["px", *(str(side) for side in table["tested"])], rows)
    rows = [
        [row["model"], f"{row['low_resolution']} to {row['high_resolution']}"]
        + [
            f"{row[k]['value']:+z.3f} ({row[k]['low']:+z.3f} to {row[k]['high']:+z.3f})"
            for k in ("total", "size", "detail")
        ]
        for row in detail_rows(opened, metric=metric)
    ]
    if rows:
        print_table("Gain = larger maps + more detail", ["model", "step", "gain", "larger maps", "more detail"], rows)


def probe(
    config: ConfigOption = None,
    overrides: SetOption = None,
    data: DataOption = None,
    checkpoint: Annotated[Path | None, typer.Option(help="A run's folder.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Model name, with --weights.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights file whose classes are the data's.")] = None,
    resolutions: Annotated[
        str, typer.Option(help="Comma-separated sides in pixels.")
    ] = "128,160,192,224,256,288,320,384",
    metric: Annotated[Literal["accuracy", "balanced_accuracy", "macro_f1"], typer.Option()] = "accuracy",
    delta: Annotated[float, typer.Option(help="Largest loss against the best that is accepted.")] = 0.01,
    max_latency_ms: Annotated[float | None, typer.Option(help="Median latency of one image at most.")] = None,
    device: DeviceOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for predictions and verdict.")] = None,
) -> None:
    """Evaluate and time one trained network at many sizes, and say which to use; trains nothing.

    A checkpoint in a study is shown the study's data.
    """
    from resomap.analysis.records import Budget
    from resomap.evaluation.store import write_predictions
    from resomap.records import Cell
    from resomap.serialize import check_writable, write_json
    from resomap.study.probe import probe as run_probe

    flags: dict[str, object | None] = {"data.source": data, "system.device": device, "sweep.resolutions": resolutions}
    resolved = checkpoint_config(checkpoint, config, overrides, flags)
    check_writable(None if output is None else output / VERDICT)
    found, answers, _ = run_probe(
        resolved, checkpoint=checkpoint, model=model, weights=weights, resolutions=sorted(resolved.sweep.resolutions),
        metric=metric, delta=delta, budget=Budget(max_latency_ms=max_latency_ms),
        progress=tell,
    )  # fmt: skip
    if output is not None:
        for condition, stored in answers.items():
            cell = Cell(found.options[0].model, condition.input_resolution, 0)
            write_predictions(output / predictions_name(condition.name), stored, cell=cell, condition=condition)
        write_json(output / VERDICT, found)
    print_recommendation(found)
