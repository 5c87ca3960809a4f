"""Tracking with MLflow: one experiment a study, one MLflow run a run, under a parent run for the study.

MLflow's client takes seconds to import and to set a database up, and a server may be slow or away. So all of it happens
in a Backlog: training never waits for it. Runs are addressed by id through MlflowClient, which keeps no active run in
global state.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from filelock import FileLock

from resomap.printable import printable, without_secrets
from resomap.serialize import digest
from resomap.tracking.unreachable_server import Backlog, Failures

_RUN_KEY, _STUDY_KEY = "resomap.key", "resomap.study"
_LONGEST_NAME, _LONGEST_PARAM, _PARAMS_AT_ONCE = 250, 500, 100
_RETRIES, _TIMEOUT_S = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
_ENVIRONMENT = {_RETRIES: "0", _TIMEOUT_S: "8", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
"""At first; MLflow's own limits are 7 tries of 120 s, and trying again is the Backlog's."""
_LATER_TIMEOUT_S = "30"
_LOCK_PATIENCE_S = 60.0
_SHORTEST_SECRET = 4
"""Shorter ones are part of every other word."""
_DELAY_S = 5.0
"""The first update shall not share the processor with MLflow's import."""
_PASSING = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"}
"""Error codes of MLflow that may pass: a server away, a database locked or full."""


class MLflowTracker:
    """See protocol.Tracker.

    Args:
        tracking_uri: any that MLflow knows, such as sqlite:///study/mlflow.db or http://server:5000.
        experiment: made where it is not there.
        artifact_location: of a new experiment; None: the store's default.
        log_artifacts: False keeps files out of the store.
        study_id: tells studies of one name apart on a shared server; None: the name alone.
    Side effects: between start_study and end_study, MLflow's limits for requests (and its silence) are set in the
    environment where the user has not set them. MLflow's telemetry is turned off unless the environment says otherwise.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        *,
        artifact_location: str | None,
        log_artifacts: bool = True,
        study_id: str | None = None,
    ) -> None:
        self._uri, self._experiment = tracking_uri, printable(experiment)
        self._artifact_location, self._log_artifacts = artifact_location, log_artifacts
        self._study_id = study_id
        self._client: Any = None
        self._experiment_id = self._parent_id = ""
        self._run_id: str | None = None
        self._variables: dict[str, str] = {}
        self._backlog = Backlog(
            f"MLflow at {_shown(tracking_uri)}",
            failures=_store_failures,
            is_temporary=_may_pass,
            describe=self._describe,
            delay_s=_DELAY_S,
        )

    def start_study(self, name: str, params: Mapping[str, object]) -> None:
        now = dict(params)
        self._backlog.do(lambda: self._start_study(printable(name), now), essential=True)

    def start_run(self, name: str, params: Mapping[str, object], *, key: str) -> None:
        now = dict(params)
        self._backlog.do(lambda: self._start_run(printable(name), now, key))

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        now, timestamp_ms = dict(metrics), int(time.time() * 1000)
        self._backlog.do(lambda: self._write_metrics(now, step, timestamp_ms))

    def log_artifact(self, path: Path) -> None:
        if self._log_artifacts:
            self._backlog.do(lambda: self._write_artifact(path))

    def end_run(self, status: str) -> None:
        self._backlog.do(lambda: self._end_run(status))

    def end_study(self) -> None:
        self._backlog.do(self._end_study)
        self._backlog.finish()
        for variable in self._variables:
            os.environ.pop(variable, None)

    def _start_study(self, name: str, params: dict[str, object]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._variables = {k: v for k, v in _ENVIRONMENT.items() if k not in os.environ}
        os.environ.update(self._variables)
        _quieten()
        with _only_process_setting_up(self._uri):
            self._client = _client(self._uri)
            self._experiment_id = self._find_or_create_experiment()
            tags = {_STUDY_KEY: digest(self._study_id or name)}
            self._parent_id = self._find_run(tags) or self._create_run(name, tags)
        if _TIMEOUT_S in self._variables:
            os.environ[_TIMEOUT_S] = _LATER_TIMEOUT_S
        self._resume(self._parent_id, params)

    def _find_or_create_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return str(self._client.create_experiment(self._experiment, artifact_location=self._artifact_location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(self._experiment)
        return str(found.experiment_id)

    def _find_run(self, tags: Mapping[str, str]) -> str | None:
        """The oldest run with these tags (plain hexadecimal values): what every process finds."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        runs = self._client.search_runs([self._experiment_id], wanted, max_results=1, order_by=["start_time ASC"])
        return str(runs[0].info.run_id) if runs else None

    def _create_run(self, name: str, tags: dict[str, str]) -> str:
        return str(self._client.create_run(self._experiment_id, run_name=name, tags=tags).info.run_id)

    def _start_run(self, name: str, params: dict[str, object], key: str) -> None:
        self._run_id = None
        tags = {_RUN_KEY: digest(key), "mlflow.parentRunId": self._parent_id}
        run_id = self._find_run(tags) or self._create_run(name, tags)
        self._resume(run_id, params)
        self._run_id = run_id

    def _resume(self, run_id: str, params: dict[str, object]) -> None:
        """Running (again), with the parameters not stored yet.

        MLflow refuses to change one; a larger grid would change the study's.
        """
        from mlflow.entities import Param

        self._client.update_run(run_id, status="RUNNING")
        stored = self._client.get_run(run_id).data.params
        named = {_name(key): str(value)[:_LONGEST_PARAM] for key, value in params.items()}
        new = [Param(key, value) for key, value in named.items() if key not in stored]
        for some in _pieces(new, _PARAMS_AT_ONCE):
            self._client.log_batch(run_id, params=some)

    def _write_metrics(self, metrics: dict[str, float], step: int, timestamp_ms: int) -> None:
        from mlflow.entities import Metric

        if self._run_id is not None:
            values = [Metric(_name(name), float(value), timestamp_ms, step) for name, value in metrics.items()]
            self._client.log_batch(self._run_id, metrics=values)

    def _write_artifact(self, path: Path) -> None:
        if self._run_id is not None:
            os.stat(path)  # a missing file is told apart from a store that is away
            self._client.log_artifact(self._run_id, str(path))

    def _end_run(self, status: str) -> None:
        if self._run_id is not None:
            self._client.set_terminated(self._run_id, status)
            self._run_id = None

    def _end_study(self) -> None:
        self._end_run("KILLED")
        self._client.set_terminated(self._parent_id, "FINISHED")

    def _describe(self, error: BaseException) -> str:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        named = first.replace(self._uri, _shown(self._uri)) if self._uri else first
        for secret in _secrets(self._uri):
            named = named.replace(secret, "***")
        return printable(without_secrets(named))[:300]


def _quieten() -> None:
    """No line for each step of setting a database up."""
    for chatty in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


def _client(tracking_uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    _quieten()  # again: the import sets levels of its own
    return MlflowClient(tracking_uri=tracking_uri)


@contextlib.contextmanager
def _only_process_setting_up(tracking_uri: str) -> Iterator[None]:
    """For a sqlite file: hold its lock, and fail at once where it cannot be written.

    MLflow makes a new file's tables without a lock, and tries to open one that cannot be opened for minutes.
    """
    path = tracking_uri.removeprefix("sqlite:///").partition("?")[0]
    if not tracking_uri.startswith("sqlite:///") or path in ("", ":memory:"):
        yield
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, timeout=_LOCK_PATIENCE_S / 4)) as database:
        database.execute("PRAGMA schema_version")
        with FileLock(f"{path}.lock", timeout=_LOCK_PATIENCE_S):
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
            yield


def _store_failures() -> Failures:
    """What a store or a server can fail with."""
    from alembic.util.exc import CommandError
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    known = (MlflowException, RequestException, SQLAlchemyError, CommandError, sqlite3.Error)
    return (*known, OSError, ImportError, ValueError)


def _may_pass(error: BaseException) -> bool:
    code = getattr(error, "error_code", None)
    return code in _PASSING if code is not None else not isinstance(error, (FileNotFoundError, ImportError, ValueError))


def _name(text: str) -> str:
    """A name that MLflow takes for a parameter or metric."""
    return re.sub(r"[^\w./ -]", "_", text)[:_LONGEST_NAME]


def _pieces(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _secrets(uri: str) -> set[str]:
    """The password and the values in the query of a server's URI, as written and as decoded: errors quote either."""
    try:
        parts = urlsplit(uri)
        named = {parts.password or parts.username or "", *(value for _, value in parse_qsl(parts.query))}
    except ValueError:
        return set()
    if parts.scheme in ("sqlite", "file", ""):
        return set()
    return {text for secret in named for text in (secret, unquote(secret)) if len(text) >= _SHORTEST_SECRET}


def _shown(uri: str) -> str:
    """A URI without its secrets, also one whose password holds spaces."""
    return without_secrets(uri if uri.startswith(("sqlite:", "file:")) else re.sub("://.*@", "://***@", uri))
