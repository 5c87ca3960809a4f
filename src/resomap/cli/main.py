"""The command line: `resomap COMMAND`. A command parses, calls one function, and prints."""

from __future__ import annotations

import logging
import sys
import warnings

import typer

from resomap import __version__
from resomap.cli import (
    conditions_commands,
    config_command,
    data_commands,
    evaluate_command,
    explain_command,
    export_command,
    plan_command,
    profile_command,
    recommend_command,
    report_command,
    run_commands,
    system_commands,
)
from resomap.errors import ResoMapError
from resomap.printable import printable, without_secrets
from resomap.study.interrupt import stop_on_signals

app = typer.Typer(
    name="resomap",
    help="Measures what input resolution does to an image classifier.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run_commands.run)
app.command("train")(run_commands.train)
app.command("plan")(plan_command.plan)
app.command("profile")(profile_command.profile)
app.command("explain")(explain_command.explain)
app.command("recommend")(recommend_command.recommend)
app.command("report")(report_command.report)
app.command("matrix")(conditions_commands.matrix)
app.command("probe")(conditions_commands.probe)
app.command("export")(export_command.export)
app.command("evaluate")(evaluate_command.evaluate)
app.command("audit")(data_commands.audit)
app.command("acuity")(data_commands.acuity)
app.command("status")(system_commands.status)
app.command("config")(config_command.config)
app.command("doctor")(system_commands.doctor)
app.command("ui")(system_commands.ui)


class _CleanFormatter(logging.Formatter):
    """No passwords, and nothing that a terminal would act on: what is logged may quote files and servers."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line) for line in without_secrets(super().format(record)).split("\n"))


def _version(value: bool) -> None:
    if value:
        print(f"resomap {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", help="Print the version and stop.", callback=_version, is_eager=True
    ),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Show what the library logs."),
) -> None:
    level = logging.INFO if verbose else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_CleanFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("resomap").setLevel(level)
    if not verbose:
        # Libraries warn about their own future; users cannot act on it.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)


def main() -> None:
    """Entry point: a ResoMapError is printed as its message alone, and the exit status is 2.

    SIGTERM, which schedulers send, ends every command as Ctrl-C does.
    """
    try:
        with stop_on_signals():
            app()
    except ResoMapError as error:
        for line in str(error).splitlines():
            print(f"error: {printable(without_secrets(line))}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
