"""resomap status, doctor and ui."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from resomap.cli.tables import print_status, print_table


def status(study: Annotated[Path, typer.Argument(help="The study's directory.")]) -> None:
    """Show which runs of a study are finished, running, interrupted, failed or waiting."""
    from resomap.study.status import study_status

    print_status(study_status(study))


def doctor(
    path: Annotated[Path, typer.Option(help="Where studies will be written.")] = Path("."),
) -> None:
    """Show versions, devices, precisions and disk, and train for two seconds on each device."""
    from resomap.study.doctor import diagnose

    checks = diagnose(path)
    print_table(
        "resomap doctor", ["check", "result"], [[c.name, c.result if c.ok else f"PROBLEM: {c.result}"] for c in checks]
    )
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def ui(
    study: Annotated[Path, typer.Argument(help="The study's directory.")],
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = 5000,
) -> None:
    """Open MLflow's page on a study, for this machine only."""
    from resomap.tracking.ui import ui_command

    command = ui_command(study, port=port)
    print(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    raise typer.Exit(subprocess.run(command, check=False).returncode)
