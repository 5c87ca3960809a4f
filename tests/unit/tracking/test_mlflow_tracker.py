from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from resomap.errors import StudyError
from resomap.tracking.mlflow_tracker import MLflowTracker, without_secrets
from resomap.tracking.ui import ui_command

# mlflow's own dependencies warn about their future; that is theirs to mend.
pytestmark = pytest.mark.filterwarnings("default")


def tracker(folder: Path) -> MLflowTracker:
    return MLflowTracker(f"sqlite:///{folder}/mlflow.db", "birds", artifact_location=(folder / "files").as_uri())


def one_run(folder: Path, *, steps: range, status: str = "FINISHED") -> None:
    tracked = tracker(folder)
    tracked.start_study("birds", {"training.epochs": 3})
    tracked.start_run("tiny_cnn @32 seed 0", {"model": "tiny_cnn"}, key="k1")
    for step in steps:
        tracked.log_metrics({"val_accuracy": step / 10}, step=step)
    file = folder / "note.txt"
    file.write_text("x")
    tracked.log_artifact(file)
    tracked.end_run(status)
    tracked.end_study()


def stored(folder: Path) -> tuple[Any, dict[str, Any]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("birds")
    return client, {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


@pytest.mark.slow
def test_mlflow_what_was_told_can_be_read_back_and_a_continued_run_stays_one(tmp_path: Path) -> None:
    one_run(tmp_path, steps=range(1, 3), status="KILLED")
    one_run(tmp_path, steps=range(3, 4))
    client, runs = stored(tmp_path)
    assert set(runs) == {"birds", "tiny_cnn @32 seed 0"}
    run, parent = runs["tiny_cnn @32 seed 0"], runs["birds"]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (run.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert parent.data.params == {"training.epochs": "3"}
    history = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "val_accuracy")]
    assert sorted(history) == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["note.txt"]


def test_mlflow_unreachable_server_warns_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        tracked = MLflowTracker("http://user:secret@127.0.0.1:9", "birds", artifact_location=None)
        tracked.start_study("birds", {})
        tracked.start_run("r", {}, key="k")
        tracked.log_metrics({"x": 1.0}, step=1)
        tracked.end_run("FINISHED")
        tracked.end_study()
    assert time.monotonic() - started < 60
    ours = [record for record in caplog.records if record.name.startswith("resomap")]
    assert len(ours) == 1
    assert "training goes on" in ours[0].getMessage()
    assert "secret" not in caplog.text


def test_mlflow_damaged_database_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is not a database" * 100)
    with caplog.at_level(logging.WARNING):
        one_run(tmp_path, steps=range(1, 2))
    assert len([record for record in caplog.records if record.name.startswith("resomap")]) == 1


def test_without_secrets() -> None:
    assert without_secrets("postgresql://me:pw@host/db") == "postgresql://***@host/db"
    assert without_secrets("sqlite:///a/b.db") == "sqlite:///a/b.db"


def test_ui_command_stays_on_this_machine(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"holds no mlflow\.db"):
        ui_command(tmp_path)
    (tmp_path / "mlflow.db").touch()
    command = ui_command(tmp_path, port=5055)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5055"
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{tmp_path}/mlflow.db"
