from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from resomap.errors import StudyError
from resomap.printable import without_secrets
from resomap.tracking.mlflow_tracker import MLflowTracker
from resomap.tracking.ui import is_loopback, ui_command

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


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_mlflow_unreachable_server_warns_once_and_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.tracking  # noqa: F401  the seconds of the import are not what is measured

    for limit in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(limit, raising=False)
    before = dict(os.environ)
    started = time.monotonic()
    tracked = MLflowTracker("http://user:sec ret@127.0.0.1:9", "birds", artifact_location=None)
    tracked.start_study("birds", {})
    tracked.start_run("r", {}, key="k")
    tracked.log_metrics({"x": 1.0}, step=1)
    tracked.log_artifact(Path("nowhere"))
    tracked.end_run("FINISHED")
    told = time.monotonic() - started
    tracked.end_study()
    assert told < 1
    assert time.monotonic() - started < 10
    (warning,) = warnings_of(caplog)
    assert "http://***@127.0.0.1:9 does not work" in warning
    assert "training goes on" in warning
    assert "sec" not in caplog.text
    assert {**os.environ, "MLFLOW_DISABLE_TELEMETRY": ""} == {**before, "MLFLOW_DISABLE_TELEMETRY": ""}


def test_mlflow_server_that_never_answers_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        tracked = MLflowTracker(f"http://127.0.0.1:{deaf.getsockname()[1]}", "birds", artifact_location=None)
        tracked.start_study("birds", {})
        started = time.monotonic()
        tracked.end_study()
    assert time.monotonic() - started < 10
    assert len(warnings_of(caplog)) == 1


def test_mlflow_damaged_database_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is not a database" * 100)
    one_run(tmp_path, steps=range(1, 2))
    (warning,) = warnings_of(caplog)
    assert "file is not a database" in warning


def test_mlflow_database_that_cannot_be_opened_warns_once_and_soon(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mlflow.db").mkdir()
    started = time.monotonic()
    one_run(tmp_path, steps=range(1, 2))
    assert time.monotonic() - started < 10
    (warning,) = warnings_of(caplog)
    assert "unable to open database file" in warning


def test_mlflow_read_only_database_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, without_privileges: Callable[[], AbstractContextManager[None]]
) -> None:
    (tmp_path / "mlflow.db").touch(mode=0o444)
    tmp_path.chmod(0o777)
    (tmp_path / "note.txt").touch()
    (tmp_path / "note.txt").chmod(0o666)
    with without_privileges():
        one_run(tmp_path, steps=range(1, 2))
    assert len(warnings_of(caplog)) == 1


def test_mlflow_locked_database_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resomap.tracking.mlflow_tracker._LOCK_PATIENCE_S", 0.2)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        one_run(tmp_path, steps=range(1, 2))
    (warning,) = warnings_of(caplog)
    assert "locked" in warning


def test_mlflow_full_disk_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A database that may not grow answers as one on a full disk does."""
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TABLE filler (x)")
        database.commit()

    connect = sqlite3.connect

    def small(*arguments: object, **options: object) -> sqlite3.Connection:
        connection = connect(*arguments, **options)  # type: ignore[call-overload]
        connection.execute("PRAGMA max_page_count = 20")
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", small)
        patch.setattr(sqlite3.dbapi2, "connect", small)
        one_run(tmp_path, steps=range(1, 2))
    (warning,) = warnings_of(caplog)
    assert "full" in warning


@pytest.mark.slow
def test_mlflow_odd_names_long_values_and_missing_files_cost_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracked = tracker(tmp_path)
    tracked.start_study("it's\n鳥 `x` %", {"models[0].a@b": "x" * 9000, "empty": ""})
    tracked.start_run("my.module:Net @32 seed 0", {"µ:?": 1}, key="k'1")
    tracked.log_artifact(tmp_path / "gone.json")
    tracked.log_metrics({"val loss (mean)": math.nan, "top": math.inf}, step=1)
    tracked.end_run("FINISHED")
    tracked.end_study()
    _, runs = stored(tmp_path)
    run = runs["my.module:Net @32 seed 0"]
    assert run.info.status == "FINISHED"
    assert run.data.params == {"µ__": "1"}
    assert set(run.data.metrics) == {"val loss _mean_", "top"}
    parent = runs["it's\\n鳥 `x` %"]
    assert (parent.data.params["models_0_.a_b"], parent.data.params["empty"]) == ("x" * 500, "")
    (warning,) = warnings_of(caplog)
    assert "gone.json" in warning


TELL = """
import logging, sys
from resomap.tracking.mlflow_tracker import MLflowTracker
logging.basicConfig(level=logging.INFO)
logging.getLogger("filelock").setLevel(logging.WARNING)
tracked = MLflowTracker(f"sqlite:///{sys.argv[1]}/mlflow.db", "birds", artifact_location=None)
tracked.start_study("birds", {"a": 1})
tracked.start_run(sys.argv[2], {}, key=sys.argv[2])
tracked.log_metrics({"x": 1.0}, step=1)
tracked.end_run("FINISHED")
tracked.end_study()
"""


@pytest.mark.slow
def test_mlflow_two_processes_set_one_database_up_silently(tmp_path: Path) -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", TELL, tmp_path, name], stdout=-1, stderr=subprocess.STDOUT, text=True)
        for name in ("one", "two")
    ]
    assert [process.communicate(timeout=120)[0] for process in both] == ["", ""]
    _, runs = stored(tmp_path)
    assert set(runs) == {"birds", "one", "two"}
    parents = {runs[name].data.tags["mlflow.parentRunId"] for name in ("one", "two")}
    assert parents == {runs["birds"].info.run_id}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg2://me:pw@host/db", "postgresql+psycopg2://***@host/db"),
        ("at http://me:p@w/x@host:5000/a failed", "at http://***@host:5000/a failed"),
        ("mysql://host/db?user=me&password=pw&x=1", "mysql://host/db?user=me&password=***&x=1"),
        ("sqlite:////data/me@work/b.db", "sqlite:////data/me@work/b.db"),
        ("http://host:5000", "http://host:5000"),
        ("https://abc123@host/x?api_key=k&page=2", "https://***@host/x?api_key=***&page=2"),
        ("url: /api?token=abc (Caused by)", "url: /api?token=*** (Caused by)"),
        ("Authorization: Bearer abcdefgh.ijkl", "Authorization: Bearer ***"),
        ('{"password": "pw", "n": 1}', '{"password": "***", "n": 1}'),
        ("X-Amz-Signature=00ff&x=1", "X-Amz-Signature=***&x=1"),
        ("'aws_secret_access_key': 'k'", "'aws_secret_access_key': '***'"),
    ],
)
def test_without_secrets(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_ui_command_stays_on_this_machine(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"holds no mlflow\.db"):
        ui_command(tmp_path)
    (tmp_path / "mlflow.db").touch()
    command = ui_command(tmp_path, port=5055)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5055"
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.slow
def test_ui_command_shows_a_study(tmp_path: Path) -> None:
    one_run(tmp_path, steps=range(1, 2))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        ui_command(tmp_path, port=port), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search",
            b'{"experiment_ids": ["1"]}',
            {"Content-Type": "application/json"},
        )
        answer = answer_of(request, patience_s=90)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
    assert "tiny_cnn @32 seed 0" in answer


def answer_of(request: urllib.request.Request, *, patience_s: float) -> str:
    """What the server answers once it is up."""
    started = time.monotonic()
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return str(response.read())
        except OSError:
            if time.monotonic() - started > patience_s:
                raise
            time.sleep(0.2)


def test_errors_that_quote_a_secret_by_itself_are_cleaned() -> None:
    tracker = MLflowTracker("postgresql://me:p%40ss-word@host/db?sslkey=key-key", "e", artifact_location=None)
    error = ValueError("no login with p@ss-word (p%40ss-word) and key-key at postgresql://me:p%40ss-word@host/db")
    assert tracker._describe(error) == "no login with *** (***) and *** at postgresql://***@host/db"
    tracker._backlog.finish()


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        *(("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.1.2.3", True)),
        *(("0.0.0.0", False), ("::", False), ("192.168.1.5", False), ("box", False)),
    ],
)
def test_ui_knows_which_addresses_let_others_in(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone


def test_ui_command_listens_on_loopback_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    command = ui_command(tmp_path)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    command = ui_command(tmp_path, host="0.0.0.0")
    assert command[command.index("--host") + 1] == "0.0.0.0"
