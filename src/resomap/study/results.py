"""results.csv and results.json: one row for each run and split, at its own size, made from what the runs stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from resomap.layout import StudyLayout
from resomap.records import RunRecord
from resomap.serialize import plain, to_json, write_text

if TYPE_CHECKING:
    import pandas as pd

_LISTS = ("per_class", "confusion_matrix")
_MOST_CLASSES = 100
"""Lists of more are left to each run's own files: with K x K entries a run, the table of all would be gigabytes."""

_ROWS_AT_ONCE = 100
"""Of results.csv as text: pandas would hold each value of 2,500 rows as a string of its own."""


def rows_of_run(record: RunRecord) -> list[dict[str, Any]]:
    """One flat row for each split of a finished run; a failed or unfinished run is one row."""
    base = _run_columns(record)
    if not record.metrics:
        return [base]
    return [base | {k: v for k, v in condition.items() if k not in _LISTS} for condition in record.metrics.values()]


def _run_columns(record: RunRecord) -> dict[str, Any]:
    epochs = record.epochs
    seconds = sum(e.seconds for e in epochs)
    return {
        "model": record.cell.model,
        "family": record.family,
        "resolution": record.cell.resolution,
        "seed": record.cell.seed,
        "status": record.status,
        "error": record.error,
        "parameters": record.parameters,
        "best_epoch": record.best_epoch,
        "epochs": len(epochs),
        "still_improving": record.still_improving,
        "stopped": record.stopped,
        "train_seconds": seconds or None,
        "train_images_per_s": _mean([e.images_per_s for e in epochs]),
        "key": record.key,
    }


def _conditions(record: RunRecord) -> Any:
    return {
        name: plain({k: v for k, v in condition.items() if k not in _LISTS or len(v) <= _MOST_CLASSES})
        for name, condition in record.metrics.items()
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def write_results(layout: StudyLayout, records: Iterable[RunRecord], *, study: Mapping[str, Any]) -> pd.DataFrame:
    """Write both files and return the rows as a frame.

    Each record is let go before the next: of a run, its rows and its part of results.json are kept.

    Args:
        study: what results.json says about the study as a whole.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    runs: list[str] = []
    for record in records:
        rows += rows_of_run(record)
        columns = _run_columns(record) | {"conditions": _conditions(record), "history": record.epochs}
        runs.append(to_json(columns))
    frame = pd.DataFrame(rows)
    write_text(layout.results_csv_path, frame.to_csv(index=False, lineterminator="\n", chunksize=_ROWS_AT_ONCE))
    write_text(layout.results_json_path, _as_json(study, runs))
    return frame


def _as_json(study: Mapping[str, Any], runs: list[str]) -> str:
    """What to_json makes of {"study": study, "runs": [...]}, from the text of each run."""
    without = to_json({"study": study, "runs": []})
    if not runs:
        return f"{without}\n"
    head = without.removesuffix("[]\n}")
    listed = ",\n".join(runs).replace("\n", "\n    ")
    return f"{head}[\n    {listed}\n  ]\n}}\n"


def assessed_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of such a frame without those of models at resolutions of which a run was stopped (runs.stopped_options)."""
    if "stopped" not in frame:
        return frame
    options = [frame["model"], frame["resolution"]]
    return frame[frame["stopped"].isna().groupby(options).transform("all")]
