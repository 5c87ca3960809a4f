"""The tables that the commands print on standard output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from resomap.printable import counted, printable

if TYPE_CHECKING:
    import pandas as pd

    from resomap.study.status import StudyStatus
    from resomap.study.sweep import StudyResult
    from resomap.study.verdict.known_answers import KnownAnswer


def console() -> Console:
    """Standard output; a file has no width, so a table in it takes what it needs."""
    plain = Console(highlight=False, markup=False, emoji=False)
    return plain if plain.is_terminal else Console(highlight=False, markup=False, emoji=False, width=10_000)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; the first column to the left, the others to the right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*[printable(cell) for cell in row])
    console().print(f"\n{printable(title)}", table)


def print_results(result: StudyResult, *, metric: str) -> None:
    """One row for each model and resolution: the metric on test (val where there is none), and the cost."""
    from resomap.study.results import assessed_rows
    from resomap.study.runs import stopped_options

    finished = assessed_rows(result.frame[result.frame["status"] == "finished"])
    if not finished.empty:
        split = "test" if (finished["split"] == "test").any() else "val"
        reported = finished[finished["split"] == split]
        shown = list(dict.fromkeys([metric, "accuracy"]))
        rows = [
            _result_row(model, resolution, runs, shown)
            for (model, resolution), runs in reported.groupby(["model", "resolution"], sort=False)
        ]
        title = f"{metric} on {split}: mean over seeds (lowest to highest)"
        print_table(title, ["model", "side", "seeds", *shown, "log loss", "train s", "img/s"], rows)
    for (model, side), runs in stopped_options(result.records).items():
        print(f"stopped, not assessed: {printable(model)} @{side} ({runs})")
    for record in result.failed:
        first = (record.error or "unknown error").strip().splitlines()[0]
        print(f"failed: {printable(record.cell)}: {printable(first)}")
    if result.elsewhere:
        print(f"{counted(len(result.elsewhere), 'run')} left to another process; see `resomap status`")
    print(f"study: {printable(result.layout.root)}  (results.csv, results.json, predictions/, checkpoints/)")


def _result_row(model: object, resolution: object, runs: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    def spread(column: str) -> str:
        values = runs[column]
        if len(values) == 1:
            return f"{values.iloc[0]:.3f}"
        return f"{values.mean():.3f} ({values.min():.3f}-{values.max():.3f})"

    return [
        str(model),
        str(resolution),
        str(len(runs)),
        *map(spread, metrics),
        f"{runs['log_loss'].mean():.3f}",
        f"{runs['train_seconds'].mean():.1f}",
        f"{runs['train_images_per_s'].mean():.0f}",
    ]


def print_known_answers(answers: Sequence[KnownAnswer]) -> None:
    """Measured accuracy within each band beside the ideal observer's."""
    models = list(dict.fromkeys(name for answer in answers for name in answer.measured))
    rows = [
        [
            f"{answer.band:g} cycles",
            str(answer.resolution),
            f"{answer.ideal:.3f}",
            *[f"{answer.measured[m]:.3f}" if m in answer.measured else "" for m in models],
        ]
        for answer in answers
    ]
    title = "Known answers: accuracy within a band (chance 0.5) beside the ideal observer's"
    print_table(title, ["band", "side", "ideal", *models], rows)


def print_status(status: StudyStatus) -> None:
    """State of each planned run."""
    errors = {record.cell: record.error for record in status.records}
    rows = []
    for cell, state in status.cells:
        error = (errors.get(cell) or "").strip().splitlines()
        rows.append([cell.model, str(cell.resolution), str(cell.seed), state, error[0] if error else ""])
    print_table(
        f"{printable(status.layout.root)}: {status.count('finished')} of {counted(len(status.cells), 'run')} finished",
        ["model", "side", "seed", "state", "error"],
        rows,
    )
