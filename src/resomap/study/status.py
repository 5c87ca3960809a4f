"""What a study directory holds, without touching torch or the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resomap.config.yaml_text import parse
from resomap.errors import StudyError
from resomap.layout import StudyLayout
from resomap.lease import Leases
from resomap.printable import counted, printable
from resomap.records import Cell, RunRecord
from resomap.serialize import DAMAGE, check_regular
from resomap.study.runs import grid_in_words, stored_runs
from resomap.study.stored_files import StudyFile, checked

_LARGEST_CONFIG_BYTES = 2**26


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """State of each planned cell."""

    layout: StudyLayout
    cells: tuple[tuple[Cell, str], ...]
    """(cell, 'finished' | 'failed' | 'running' | 'interrupted' | 'waiting')."""
    records: tuple[RunRecord, ...]

    def __repr__(self) -> str:
        states = Counter(state for _, state in self.cells)
        counts = ", ".join(f"{number} {state}" for state, number in states.most_common())
        grid = grid_in_words(cell for cell, _ in self.cells)
        return f"<{type(self).__name__} {printable(self.layout.root)}: {grid}; runs: {counts or 'none'}>"

    def count(self, state: str) -> int:
        return sum(1 for _, s in self.cells if s == state)


def study_status(path: str | Path) -> StudyStatus:
    """Read what the study at `path` has done so far.

    Raises:
        StudyError: `path` is not a study.
    """
    layout = StudyLayout(Path(path))
    if not layout.config_path.is_file():
        raise StudyError(
            f"{printable(path)} is not a study (no {layout.config_path.name} in it); "
            "give the directory that `resomap run` printed"
        )
    records = {record.cell: record for record in stored_runs(layout)}
    return StudyStatus(
        layout=layout,
        cells=tuple(_states(layout, {c: r.status for c, r in records.items()}, _planned_cells(layout))),
        records=tuple(records.values()),
    )


def run_states(layout: StudyLayout) -> list[tuple[Cell, str]]:
    """Each run with its state; planned ones too, where the study's file says which."""
    try:
        planned = _planned_cells(layout)
    except StudyError:
        planned = []
    return list(_states(layout, {record.cell: record.status for record in stored_runs(layout)}, planned))


def _states(layout: StudyLayout, stored: Mapping[Cell, str], planned: Sequence[Cell]) -> Iterator[tuple[Cell, str]]:
    for cell in dict.fromkeys([*planned, *stored]):
        yield cell, _state(layout, cell, stored.get(cell))


@contextmanager
def missing_runs_first(path: str | Path) -> Iterator[None]:
    """Inside, a StudyError says first that runs of the study are missing: what else is, mostly follows from that."""
    try:
        yield
    except StudyError as error:
        missing = _missing_runs(path)
        if missing is None:
            raise
        raise StudyError(f"{missing} Until then: {error}") from error


def _missing_runs(path: str | Path) -> str | None:
    """How many runs are not finished, and what finishes them; None where all are."""
    layout = StudyLayout(Path(path))
    states = [state for _, state in run_states(layout)]
    left = sum(state != "finished" for state in states)
    again = f"the same `resomap run` again finishes them (or --config {printable(layout.config_path)})"
    return f"{printable(path)}: {left} of {counted(len(states), 'run')} missing; {again}." if left else None


def _planned_cells(layout: StudyLayout) -> list[Cell]:
    try:
        check_regular(layout.config_path, most_bytes=_LARGEST_CONFIG_BYTES, error=StudyError)
        stored = parse(layout.config_path.read_text("utf-8"))
        cells = checked(stored, StudyFile)["provenance"]["cells"]
        return [Cell(str(m), int(r), int(s)) for m, r, s in cells]
    except DAMAGE as bad:
        why = str(bad) if isinstance(bad, ValueError) else repr(bad)
        raise StudyError(
            f"{printable(layout.config_path)} is damaged ({printable(why)}); start the study again to write it anew"
        ) from bad


def _state(layout: StudyLayout, cell: Cell, stored: str | None) -> str:
    if stored is None:
        return "waiting"
    if stored != "running":
        return stored
    return "running" if Leases(layout.locks_dir).is_held(layout.lease_name(cell)) else "interrupted"
