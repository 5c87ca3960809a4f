"""What a study tells an experiment tracker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """One study with its runs, one after the other. No method raises: tracking must not cost a run."""

    def start_study(self, name: str, params: Mapping[str, object]) -> None:
        """The study begins or goes on."""

    def start_run(self, name: str, params: Mapping[str, object], *, key: str) -> None:
        """A run begins, or the one with this key goes on."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Metrics of the current run."""

    def log_artifact(self, path: Path) -> None:
        """A file of the current run."""

    def end_run(self, status: str) -> None:
        """The current run is 'FINISHED', 'FAILED' or 'KILLED'; nothing happens when there is none."""

    def end_study(self) -> None:
        """Nothing more follows; what was told is stored when this returns."""
