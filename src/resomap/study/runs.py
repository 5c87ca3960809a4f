"""run.json: what is known about each run of a study, and whether it belongs to this configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from resomap.errors import StudyError
from resomap.layout import RUN_RECORD, StudyLayout
from resomap.printable import counted
from resomap.records import Cell, EpochRecord, RunRecord
from resomap.serialize import read_record, write_json
from resomap.study.stored_files import Run, checked

log = logging.getLogger(__name__)


def grid_in_words(cells: Iterable[Cell]) -> str:
    """'2 models x 3 resolutions x 1 seed'"""
    parts = []
    columns = zip(*((cell.model, cell.resolution, cell.seed) for cell in cells), strict=True)
    for name, values in zip(("model", "resolution", "seed"), columns, strict=False):
        count = len(set(values))
        parts.append(f"{count} {name}{'s' * (count != 1)}")
    return " x ".join(parts) or "no runs"


def write_run(path: Path, record: RunRecord) -> None:
    """Store a run's record atomically."""
    write_json(path, record)


def read_run(path: Path) -> RunRecord | None:
    """The record at `path`; None where there is none.

    Raises:
        StudyError: it is damaged.
    """
    if not path.exists():
        return None
    return read_record(path, _parse)


def _parse(raw: Any) -> RunRecord:
    fields = dict(checked(raw, Run))
    cell = fields["cell"]
    fields["cell"] = Cell(cell["model"], cell["resolution"], cell["seed"])
    if not f"{cell['model']}{fields['family']}".isprintable() or not 0 < fields["cell"].resolution < 2**16:
        raise ValueError(f"cell {fields['cell']}")
    fields["epochs"] = tuple(EpochRecord(**epoch) for epoch in fields["epochs"])
    return RunRecord(**fields)


def stored_runs(layout: StudyLayout) -> Iterator[RunRecord]:
    """Every run of the study, in the order of model, resolution, seed; damaged records are logged.

    Read one at a time, since all of a large study's records are much more than what is wanted of them.
    """
    for path in sorted(layout.checkpoints_dir.glob(f"*/*/*/*/{RUN_RECORD}"), key=_by_cell):
        try:
            record = read_run(path)
        except StudyError as error:
            log.warning("%s", error)
            continue
        if record is not None:
            yield record


def _by_cell(path: Path) -> tuple[object, ...]:
    """Orders run records as their cells, by the folders {model}/{resolution}/seed{n} that they lie in."""
    model, *numbers = path.parts[-4:-1]
    digits = ("".join(c for c in number if c in "0123456789") for number in numbers)
    return (model, *(int(number[:20] or 0) for number in digits), path)


def stopped_options(records: Iterable[RunRecord]) -> dict[tuple[str, int], str]:
    """(model, resolution) of which a run was stopped as dominated -> '1 of 3 runs'.

    Networks that were not trained to their end say nothing about what training would have reached, nor does the mean
    over the seeds that were: such an option is not assessed.
    """
    options: dict[tuple[str, int], list[bool]] = {}
    for record in records:
        if record.status == "finished":
            options.setdefault((record.cell.model, record.cell.resolution), []).append(record.stopped is not None)
    return {option: f"{sum(those)} of {counted(len(those), 'run')}" for option, those in options.items() if any(those)}


def stopped_in_words(options: Mapping[tuple[str, int], str]) -> str:
    """What stopped_options found: 'tiny_cnn @32 (1 of 3 runs), tiny_cnn @64 (3 of 3 runs)'."""
    return ", ".join(f"{model} @{side} ({count})" for (model, side), count in options.items())


def assessed_runs(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Finished runs whose model at their resolution is trained to the end with every seed."""
    records = list(records)
    stopped = stopped_options(records)
    return [r for r in records if r.status == "finished" and (r.cell.model, r.cell.resolution) not in stopped]
