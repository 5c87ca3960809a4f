"""The tables that the commands print on standard output."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from resomap.printable import counted, printable
from resomap.records import splits_used

if TYPE_CHECKING:
    import pandas as pd

    from resomap.records import RunRecord
    from resomap.study.status import StudyStatus
    from resomap.study.sweep import StudyResult
    from resomap.study.verdict.known_answers import KnownAnswer


def table_text(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, wide: bool = False) -> str:
    """A table; the first column to the left, the others to the right.

    Args:
        wide: takes what it needs, without a terminal's width and colours; so does one that goes to a file.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*[printable(cell) for cell in row])
    console = Console(highlight=False, markup=False, emoji=False)
    if wide or not console.is_terminal:
        console = Console(
            file=io.StringIO(), force_terminal=False, highlight=False, markup=False, emoji=False, width=10_000
        )
    with console.capture() as captured:
        console.print(f"\n{printable(title)}", table)
    return captured.get()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """table_text on standard output."""
    print(table_text(title, columns, rows), end="")


def results_text(result: StudyResult, records: Sequence[RunRecord], *, metric: str, wide: bool = False) -> str:
    """One row for each model and resolution: the metric on test (val where there is none), and the cost.

    Args:
        records: of the result's cells.
        wide: as table_text's.
    """
    from resomap.study.results import assessed_rows
    from resomap.study.runs import stopped_options

    parts: list[str] = []
    finished = assessed_rows(result.frame[result.frame["status"] == "finished"])
    if not finished.empty:
        _, split = splits_used(set(finished["split"]))
        reported = finished[finished["split"] == split]
        shown = list(dict.fromkeys([metric, "accuracy"]))
        rows = [
            _result_row(model, resolution, runs, shown)
            for (model, resolution), runs in reported.groupby(["model", "resolution"], sort=False)
        ]
        title = f"{metric} on {split}: mean over seeds (lowest to highest)"
        columns = ["model", "side", "seeds", *shown, "log loss", "train s", "img/s"]
        parts.append(table_text(title, columns, rows, wide=wide))
    for (model, side), runs in stopped_options(records).items():
        parts.append(f"stopped, not assessed: {printable(model)} @{side} ({runs})\n")
    for record in result.failed:
        first = (record.error or "unknown error").strip().splitlines()[0]
        parts.append(f"failed: {printable(record.cell)}: {printable(first)}\n")
    if result.elsewhere:
        parts.append(f"{counted(len(result.elsewhere), 'run')} left to another process; see `resomap status`\n")
    parts.append(f"study: {printable(result.layout.root)}  (results.csv, results.json, predictions/, checkpoints/)\n")
    return "".join(parts)


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


def known_answers_text(answers: Sequence[KnownAnswer], *, wide: bool = False) -> str:
    """Measured accuracy within each band beside the ideal observer's.

    Args:
        wide: as table_text's.
    """
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
    return table_text(title, ["band", "side", "ideal", *models], rows, wide=wide)


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
