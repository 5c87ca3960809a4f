"""The command that opens MLflow's page on a study."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

from resomap.errors import StudyError
from resomap.layout import StudyLayout
from resomap.printable import printable

LOOPBACK = "127.0.0.1"
_SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""Jobs are for evaluating language models: they cost eight more processes, a GiB of memory and most of the start."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def ui_command(study: str | Path, *, host: str = LOOPBACK, port: int = 5000) -> list[str]:
    """Arguments that start MLflow's server on the study's database, for this machine only unless `host` is another.

    Raises:
        StudyError: the study has no database of its own.
    """
    layout = StudyLayout(Path(study))
    if not layout.mlflow_db_path.is_file():
        raise StudyError(
            f"{printable(study)} holds no {layout.mlflow_db_path.name}; "
            "give a study's directory (one that logs to its own file, not to another tracking_uri)"
        )
    return [
        "env",
        *(f"{name}={value}" for name, value in _SETTINGS.items()),
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        f"sqlite:///{layout.mlflow_db_path.resolve()}",
        "--host",
        host,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
