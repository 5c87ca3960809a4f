"""resomap profile: what the models cost at each resolution, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resomap.cli.options import (
    ConfigOption,
    DataOption,
    DeviceOption,
    ModelsOption,
    OutputOption,
    ResolutionsOption,
    SetOption,
    configure,
    tell,
)


def profile(
    config: ConfigOption = None,
    overrides: SetOption = None,
    data: DataOption = None,
    models: ModelsOption = None,
    resolutions: ResolutionsOption = None,
    device: DeviceOption = None,
    output: OutputOption = None,
    json: Annotated[Path | None, typer.Option(help="Also write all records to this file.")] = None,
) -> None:
    """Measure latency, throughput, memory and operations of models x resolutions, timed in turn; trains nothing."""
    from resomap.cli.tables import print_table
    from resomap.profiling.report import print_profiling_report
    from resomap.serialize import check_writable, write_json
    from resomap.study.costs.cost import cost_curves
    from resomap.study.costs.profile import profile_study, ratios_to_smallest, unreached

    resolved = configure(
        config, overrides,
        {"data.source": data, "sweep.models": models, "sweep.resolutions": resolutions, "system.device": device,
         "study.output": output},
    )  # fmt: skip
    check_writable(json)
    records = profile_study(resolved, progress=tell)
    print_profiling_report(records)
    ratios = ratios_to_smallest(records)
    if ratios:
        rows = [
            [r["model"], r["mode"], f"{r['resolution']} / {r['over']}", f"{r['value']:.3f}",
             f"{r['low']:.3f}-{r['high']:.3f}", f"{r['rounds']} of {r['of_rounds']}"]
            for r in ratios
        ]  # fmt: skip
        columns = ["model", "mode", "sides", "ratio", "95 % interval", "undisturbed rounds"]
        print_table("Latency ratio at batch 1 (median of paired rounds)", columns, rows)
        for line in unreached(records, ratios):
            print(line)
    curves = cost_curves(records)
    if curves:
        rows = [
            [c["model"], c["mode"], c["protocol"], f"{c['fixed']:.3f} + {c['scale']:.3g} r^{c['exponent']:.2f}",
             f"{c['exponent_low']:.2f}-{c['exponent_high']:.2f}", f"{c['worst_relative_error']:.1%}"]
            for c in curves
        ]  # fmt: skip
        columns = ["model", "mode", "protocol", "ms an image", "exponent, 95 %", "worst error"]
        print_table("Cost curves t = t0 + k r^p", columns, rows)
    if json is not None:
        write_json(json, records)
