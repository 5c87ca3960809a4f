"""Tracking with MLflow: one experiment a study, one MLflow run a run, under a parent run for the study.

MLflow's client takes seconds to import and to set a database up, and a server may be slow or away. So one thread owns
the client and works through a queue: training never waits for it, and the first failure turns tracking off with one
warning. end_study() waits until everything told is stored.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_RUN_KEY, _STUDY_KEY = "resomap.key", "resomap.study"
_LONGEST_PARAM = 500
_HTTP_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


class MLflowTracker:
    """See protocol.Tracker.

    Args:
        tracking_uri: any that MLflow knows, such as sqlite:///study/mlflow.db or http://server:5000.
        experiment: made where it is not there.
        artifact_location: of a new experiment; None: the store's default.
        log_artifacts: False keeps files out of the store.
    """

    def __init__(
        self, tracking_uri: str, experiment: str, *, artifact_location: str | None, log_artifacts: bool = True
    ) -> None:
        self._uri, self._experiment = tracking_uri, experiment
        self._artifact_location, self._log_artifacts = artifact_location, log_artifacts
        self._work: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._off = False
        self._client: Any = None
        self._experiment_id = self._parent_id = ""
        self._run_id: str | None = None
        self._thread = threading.Thread(target=self._drain, name="mlflow", daemon=True)
        self._thread.start()

    def start_study(self, name: str, params: Mapping[str, object]) -> None:
        self._tell(lambda: self._start_study(name, dict(params)))

    def start_run(self, name: str, params: Mapping[str, object], *, key: str) -> None:
        self._tell(lambda: self._start_run(name, dict(params), key))

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        now = int(time.time() * 1000)
        self._tell(lambda: self._write_metrics(dict(metrics), step, now))

    def log_artifact(self, path: Path) -> None:
        if self._log_artifacts:
            self._tell(lambda: self._client.log_artifact(self._run_id, str(path)) if self._run_id else None)

    def end_run(self, status: str) -> None:
        self._tell(lambda: self._end_run(status))

    def end_study(self) -> None:
        self._tell(self._end_study)
        self._work.put(None)
        self._thread.join()

    def _tell(self, action: Callable[[], None]) -> None:
        if not self._off:
            self._work.put(action)

    def _drain(self) -> None:
        """The thread: work until told to end; after a failure only empty the queue."""
        while (action := self._work.get()) is not None:
            if self._off:
                continue
            try:
                action()
            except _tracking_errors() as error:
                self._off = True
                log.warning(
                    "MLflow at %s does not work (%s); training goes on without it",
                    without_secrets(self._uri),
                    without_secrets(_first_line(error)),
                )

    def _start_study(self, name: str, params: dict[str, object]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for variable, value in _HTTP_LIMITS.items():
            os.environ.setdefault(variable, value)
        from mlflow.tracking import MlflowClient

        # They tell of each step of setting up a database; after the import, which sets levels of its own.
        for chatty in ("alembic", "mlflow", "mlflow.store.db.utils"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        self._client = MlflowClient(tracking_uri=self._uri)
        self._experiment_id = self._find_experiment()
        self._parent_id = self._find_run(_STUDY_KEY, name) or self._create_run(name, {_STUDY_KEY: name})
        self._client.set_terminated(self._parent_id, "RUNNING")
        self._write_params(self._parent_id, params)

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(self._experiment, artifact_location=self._artifact_location))

    def _find_run(self, tag: str, value: str) -> str | None:
        quoted = value.replace("'", "")
        runs = self._client.search_runs([self._experiment_id], f"tags.`{tag}` = '{quoted}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _create_run(self, name: str, tags: dict[str, str]) -> str:
        clean = {key: value.replace("'", "") for key, value in tags.items()}
        return str(self._client.create_run(self._experiment_id, run_name=name, tags=clean).info.run_id)

    def _start_run(self, name: str, params: dict[str, object], key: str) -> None:
        tags = {_RUN_KEY: key, "mlflow.parentRunId": self._parent_id}
        self._run_id = self._find_run(_RUN_KEY, key) or self._create_run(name, tags)
        self._client.set_terminated(self._run_id, "RUNNING")
        self._write_params(self._run_id, params)

    def _write_params(self, run_id: str, params: dict[str, object]) -> None:
        """Parameters not stored yet: MLflow refuses to change one, and a larger grid changes the study's."""
        from mlflow.entities import Param

        stored = self._client.get_run(run_id).data.params
        new = [Param(key, str(value)[:_LONGEST_PARAM]) for key, value in params.items() if key not in stored]
        for start in range(0, len(new), 100):
            self._client.log_batch(run_id, params=new[start : start + 100])

    def _write_metrics(self, metrics: dict[str, float], step: int, timestamp_ms: int) -> None:
        from mlflow.entities import Metric

        if self._run_id is not None:
            values = [Metric(name, float(value), timestamp_ms, step) for name, value in metrics.items()]
            self._client.log_batch(self._run_id, metrics=values)

    def _end_run(self, status: str) -> None:
        if self._run_id is not None:
            self._client.set_terminated(self._run_id, status)
            self._run_id = None

    def _end_study(self) -> None:
        self._end_run("KILLED")
        self._client.set_terminated(self._parent_id, "FINISHED")


def _tracking_errors() -> tuple[type[BaseException], ...]:
    """What a store or a server can fail with."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError, ValueError)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def without_secrets(text: str) -> str:
    """`text` with the user and password of every URI in it replaced."""
    return re.sub(r"(\w+://)[^/\s@]*@", r"\1***@", text)
