"""resomap explain: where the models of a finished study look, and whether that depends on resolution."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resomap.cli.options import ConfigOption, DataOption, DeviceOption, SetOption, study_config, tell
from resomap.cli.tables import print_table
from resomap.printable import counted, printable

if TYPE_CHECKING:
    from collections.abc import Mapping


def explain(
    study: Annotated[Path, typer.Argument(help="A study's folder.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    data: DataOption = None,
    methods: Annotated[str | None, typer.Option(help="Comma-separated methods, e.g. gradcam,saliency.")] = None,
    device: DeviceOption = None,
) -> None:
    """Explain every finished run of a study, compare across resolutions, and draw figures."""
    from resomap.study.explaining.explanations import explain_study
    from resomap.study.reporting.paper_figures import draw_figures

    chosen = list(overrides or [])
    if methods is not None:
        chosen.append(f"explainability.methods=[{methods}]")
    resolved = study_config(study, config, chosen, data=data, device=device)
    result = explain_study(resolved, progress=tell)
    print_explanations(result)
    drawn = draw_figures(resolved, progress=tell)
    print(f"{counted(len(drawn), 'figure')} in {printable(drawn[0].parent)}" if drawn else "no figures")


def print_explanations(result: Mapping[str, Any]) -> None:
    """Consistency across resolutions with its floor and ceiling, then where the maps lie."""
    from resomap.explainability.agreement import verdict_sentence

    rows = [
        [
            row["model"], row["method"], f"{row['low_resolution']} / {row['high_resolution']}", str(row["seeds"]),
            _figure(row["floor"]), _figure(row["cross"]), _figure(row["ceiling"]), _figure(row["consistency"], True),
        ]
        for row in result["consistency"]
        if row["similarity"] == result["similarity"] and row["subset"] == "all"
    ]  # fmt: skip
    columns = ["model", "method", "sides", "seeds", "floor", "across", "ceiling", "C (95 %)"]
    title = f"Agreement of maps ({result['similarity']}) on {counted(result['images'], result['split'] + ' image')}"
    print_table(title, columns, rows)
    told = (
        f"{r['model']}, {r['method']}: {verdict_sentence(r['verdict'])}"
        for r in result["consistency"]
        if r["similarity"] == result["similarity"] and r["subset"] == "all"
    )
    for line in dict.fromkeys(told):
        print(printable(line))
    energy = result["has_masks"]
    random = {(r["model"], r["method"], r["resolution"]): r for r in result["faithfulness"]}
    none = {"value": None}
    rows = [
        [row["model"], row["method"], str(row["resolution"]), _figure(row["entropy"]), _figure(row["gini"])]
        + ([
            _figure(row["energy_in_mask"], True),
            _figure(random.get((row["model"], row["method"], row["resolution"]), {})
                    .get("random_weights_energy_in_mask", none), True),
            _figure(row["pointing_game"]),
        ] if energy else [])
        for row in result["spread"]
    ]  # fmt: skip
    columns = ["model", "method", "side", "entropy", "gini"]
    columns += ["energy in mask / area", "random weights", "pointing"] if energy else []
    print_table("Where the maps lie", columns, rows)


def _figure(interval: Mapping[str, Any] | None, with_interval: bool = False) -> str:
    if interval is None or interval["value"] is None:
        return "-"
    if with_interval and interval.get("low") is not None and interval.get("high") is not None:
        return f"{interval['value']:.2f} ({interval['low']:.2f}-{interval['high']:.2f})"
    return f"{interval['value']:.2f}"
