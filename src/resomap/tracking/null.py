"""A tracker that keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class NullTracker:
    """See protocol.Tracker."""

    def start_study(self, name: str, params: Mapping[str, object]) -> None:
        pass

    def start_run(self, name: str, params: Mapping[str, object], *, key: str) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        pass

    def log_artifact(self, path: Path) -> None:
        pass

    def end_run(self, status: str) -> None:
        pass

    def end_study(self) -> None:
        pass
