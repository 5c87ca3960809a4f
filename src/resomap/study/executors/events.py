"""What happens to a cell in another process, as plain values, and how the study's own process replays it.

An event is (kind, values) in JSON's types. Files are named relative to the study, since the other process may write
them into a folder of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resomap.records import Cell, EpochRecord
from resomap.study.progress import StudyProgress
from resomap.tracking.protocol import Tracker

Event = tuple[str, dict[str, Any]]
Tell = Callable[[Event], None]

TRACKING = ("start_run", "log_metrics", "log_artifact", "end_run")
"""Kinds that replay_tracking replays."""


class TellingProgress(StudyProgress):
    """Tells the events of a run; the study's own (preparing, stages) stay with its process."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def note(self, message: str) -> None:
        self._tell(("note", {"message": message}))

    def run_started(self, cell: Cell, *, epochs: int, updates: int, resumed_update: int) -> None:
        self._tell(("run_started", {"epochs": epochs, "updates": updates, "resumed_update": resumed_update}))

    def update_ended(self, cell: Cell, *, epoch: int, update: int, images: int) -> None:
        self._tell(("update_ended", {"epoch": epoch, "update": update, "images": images}))

    def epoch_ended(self, cell: Cell, record: EpochRecord) -> None:
        self._tell(("epoch_ended", {"record": dataclasses.asdict(record)}))


class TellingTracker:
    """A Tracker (tracking/protocol.py) that tells; `root` is the study's directory in this process."""

    def __init__(self, tell: Tell, root: Path) -> None:
        self._tell, self._root = tell, root

    def start_study(self, name: str, params: Mapping[str, object]) -> None:
        pass  # the study's own process does

    def start_run(self, name: str, params: Mapping[str, object], *, key: str) -> None:
        self._tell(("start_run", {"name": name, "params": {k: str(v) for k, v in params.items()}, "key": key}))

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        self._tell(("log_metrics", {"metrics": {k: float(v) for k, v in metrics.items()}, "step": step}))

    def log_artifact(self, path: Path) -> None:
        self._tell(("log_artifact", {"path": path.relative_to(self._root).as_posix()}))

    def end_run(self, status: str) -> None:
        self._tell(("end_run", {"status": status}))

    def end_study(self) -> None:
        pass


def replay_progress(event: Event, cell: Cell, progress: StudyProgress) -> None:
    """Tell the listener what happened; events of tracking do nothing."""
    kind, values = event
    if kind == "note":
        progress.note(values["message"])
    elif kind == "run_started":
        progress.run_started(cell, **values)
    elif kind == "update_ended":
        progress.update_ended(cell, **values)
    elif kind == "epoch_ended":
        progress.epoch_ended(cell, EpochRecord(**values["record"]))


def replay_tracking(events: Sequence[Event], tracker: Tracker, root: Path) -> None:
    """Tell the tracker what happened, in order; events of progress do nothing.

    Args:
        root: the study's directory in this process; the files that events name must be there.
    """
    for kind, values in events:
        if kind == "start_run":
            tracker.start_run(values["name"], values["params"], key=values["key"])
        elif kind == "log_metrics":
            tracker.log_metrics(values["metrics"], step=values["step"])
        elif kind == "log_artifact":
            tracker.log_artifact(root / values["path"])
        elif kind == "end_run":
            tracker.end_run(values["status"])
