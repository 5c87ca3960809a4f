"""resomap plan: what a study will cost, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resomap.cli.live import duration
from resomap.cli.options import GridFlags, grid_flags, tell
from resomap.cli.tables import print_table
from resomap.printable import counted, precision_name, printable

if TYPE_CHECKING:
    from resomap.study.costs.disk import DiskForecast
    from resomap.study.costs.forecast import StudyForecast


DISCORDANT = (0.05, 0.1, 0.2)
"""Shares of images on which just one of two resolutions is right."""
SEED_DEVIATIONS = (0.005, 0.01)
"""Standard deviations of a difference between seeds, as shares."""


@grid_flags
def plan(
    flags: GridFlags,
    json: Annotated[Path | None, typer.Option(help="Also write the plan to this file.")] = None,
) -> None:
    """Predict memory, micro-batch, operations, time and disk of a study; takes the options of `run`."""
    from resomap.serialize import check_writable, write_json
    from resomap.study.costs.forecast import forecast_study

    resolved = flags.resolved()
    check_writable(json)
    forecast = forecast_study(resolved, progress=lambda model: tell(f"timing {model}"))
    print_forecast(forecast)
    if json is not None:
        write_json(json, forecast)


def print_forecast(forecast: StudyForecast) -> None:
    """One row for each model and resolution, then the totals."""
    rows = [
        [
            cell.model,
            str(cell.resolution),
            precision_name(cell.precision),
            f"{cell.macs / 1e9:.3f}",
            f"{cell.parameters / 1e6:.2f}",
            f"{cell.inference_mib:.0f}",
            f"{cell.training_mib:.0f}",
            str(cell.micro_batch) if cell.micro_batch else "does not fit",
            duration(cell.seconds_per_run) if cell.seconds_per_run else "-",
        ]
        for cell in forecast.cells
    ]
    columns = ["model", "side", "precision", "GMACs", "M params", "infer MiB", "train MiB", "micro-batch", "one run"]
    print_table(f"Plan: {forecast.device}, batch {forecast.batch_size}", columns, rows)
    if forecast.limit_mib is None:
        print("this device does not tell what memory is free: no micro-batch is lowered; give system.memory_gib")
    for cell in forecast.too_big:
        least = "one image" if cell.fewest_images == 1 else f"{cell.fewest_images} images, the fewest it trains on"
        print(
            f"does not fit: {cell.model} @{cell.resolution} needs {cell.training_mib:.0f} MiB for {least}, "
            f"{forecast.limit_mib:.0f} MiB may be taken"
        )
    runs = sum(cell.micro_batch is not None for cell in forecast.cells) * forecast.seeds
    grid = f"{counted(runs, 'run')} ({counted(forecast.seeds, 'seed')})"
    print(f"{grid}, {forecast.runs_at_once} at once: {duration(forecast.hours * 3600)}, {forecast.peak_mib:.0f} MiB of "
          "memory on a device")  # fmt: skip
    _print_disk(forecast.disk)
    if forecast.untuned:
        print(f"not tuned on this machine yet: {', '.join(forecast.untuned)}; a run searches faster settings first "
              "(system.autotune), the plan assumes the untuned")  # fmt: skip
    print(f"memory: peak of live tensors; not counted: {forecast.leaves_out}")
    _print_power(forecast)


def _print_disk(disk: DiskForecast) -> None:
    """What goes where, and what is free there."""
    print(f"disk: {disk.study_mib:.0f} MiB in {printable(disk.study)} ({_gib(disk.study_free_mib)} free), "
          f"{disk.cache_mib:.0f} MiB of decoded images in {printable(disk.cache)} ({_gib(disk.cache_free_mib)} free)"
          + (f", where {disk.cached_mib:.0f} MiB are already" if disk.cached_mib else ""))  # fmt: skip
    if disk.on_the_fly:
        print(f"decoded at each access, which is slower, since data.cache_gib or the disk has no room: "
              f"{', '.join(disk.on_the_fly)}")  # fmt: skip


def _gib(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB"


def _print_power(forecast: StudyForecast) -> None:
    """What differences of accuracy the study's images and seeds can tell apart."""
    from resomap.analysis.statistics.power import detectable, images_needed, seeds_needed

    rows = [
        [counted(points, 'point'), *(f"{images_needed(points / 100, discordant=share):,}" for share in DISCORDANT),
         *(str(seeds_needed(points / 100, seed_sd=deviation)) for deviation in SEED_DEVIATIONS)]
        for points in (1, 2, 3)
    ]  # fmt: skip
    columns = ["to tell", *(f"images, {share:.0%} differ" for share in DISCORDANT),
               *(f"seeds, sd {100 * deviation:g}" for deviation in SEED_DEVIATIONS)]  # fmt: skip
    print_table("Needed to tell two resolutions apart (power 80 %, two-sided 5 %)", columns, rows)
    deciding = forecast.images["val"]
    least = {share: detectable(deciding, discordant=share) for share in DISCORDANT}
    told = ", ".join(f"{'no difference' if points is None else f'{100 * points:.1f} points'} where {share:.0%} differ"
                     for share, points in least.items())  # fmt: skip
    print(f"the {deciding} validation images that decide tell apart: {told}; images: Connor 1987, seeds: paired t-test")
