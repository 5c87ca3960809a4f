"""What is told in one process is what happens in another, also through JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from resomap.records import Cell, EpochRecord
from resomap.study.executors.events import Event, TellingProgress, TellingTracker, replay_progress, replay_tracking
from resomap.study.progress import StudyProgress
from resomap.tracking.null import NullTracker

CELL = Cell("tiny_cnn", 32, 0)


class Recorder(StudyProgress, NullTracker):
    """Remembers calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def run_started(self, cell: Cell, **values: Any) -> None:
        self.calls.append(("run_started", cell, values))

    def update_ended(self, cell: Cell, **values: Any) -> None:
        self.calls.append(("update_ended", cell, values))

    def epoch_ended(self, cell: Cell, record: EpochRecord) -> None:
        self.calls.append(("epoch_ended", cell, record))

    def start_run(self, name: str, params: Any, *, key: str) -> None:
        self.calls.append(("start_run", name, params, key))

    def log_metrics(self, metrics: Any, *, step: int) -> None:
        self.calls.append(("log_metrics", metrics, step))

    def log_artifact(self, path: Path) -> None:
        self.calls.append(("log_artifact", path))

    def end_run(self, status: str) -> None:
        self.calls.append(("end_run", status))


def test_told_events_are_replayed_with_paths_of_the_study(tmp_path: Path) -> None:
    told: list[Event] = []
    progress, tracker = TellingProgress(told.append), TellingTracker(told.append, tmp_path / "scratch")
    record = EpochRecord(1, 0.5, 0.75, 1e-3, 2.0, 8.0, None, {"loss": 0.25})
    tracker.start_run("run", {"model": "tiny_cnn", "side": 32}, key="k")
    progress.run_started(CELL, epochs=2, updates=4, resumed_update=1)
    progress.update_ended(CELL, epoch=1, update=2, images=8)
    progress.epoch_ended(CELL, record)
    tracker.log_metrics({"loss": 0.5}, step=1)
    tracker.log_artifact(tmp_path / "scratch" / "a" / "metadata.json")
    tracker.end_run("FINISHED")
    heard = Recorder()
    events = [(kind, values) for kind, values in map(json.loads, map(json.dumps, told))]
    for event in events:
        replay_progress(event, CELL, heard)
    assert heard.calls == [
        ("run_started", CELL, {"epochs": 2, "updates": 4, "resumed_update": 1}),
        ("update_ended", CELL, {"epoch": 1, "update": 2, "images": 8}),
        ("epoch_ended", CELL, record),
    ]
    heard.calls.clear()
    replay_tracking(events, heard, tmp_path / "study")
    assert heard.calls == [
        ("start_run", "run", {"model": "tiny_cnn", "side": "32"}, "k"),
        ("log_metrics", {"loss": 0.5}, 1),
        ("log_artifact", tmp_path / "study" / "a" / "metadata.json"),
        ("end_run", "FINISHED"),
    ]
