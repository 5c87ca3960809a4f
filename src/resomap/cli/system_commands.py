"""resomap status, doctor and ui."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from resomap.cli.tables import print_status, print_table
from resomap.printable import printable
from resomap.tracking.ui import LOOPBACK, is_loopback, ui_command


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
    host: Annotated[str, typer.Option(help="Address to listen on; any other lets others in.")] = LOOPBACK,
) -> None:
    """Open MLflow's page on a study, for this machine only."""
    command = ui_command(study, host=host, port=port)
    if not is_loopback(host):
        who = (
            f"warning: everybody who reaches {printable(host)}:{port} can read, change and delete this study's records"
        )
        print(f"{who}: MLflow asks for no password", file=sys.stderr, flush=True)
    print(f"MLflow on http://{printable(host)}:{port} (Ctrl-C ends it)", flush=True)
    raise typer.Exit(subprocess.run(command, check=False).returncode)
