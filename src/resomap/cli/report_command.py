"""resomap report: the verdict and everything it rests on, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resomap.cli.options import ConfigOption, DataOption, SetOption, study_config, tell
from resomap.printable import printable


def report(
    study: Annotated[Path, typer.Argument(help="A study's folder.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    data: DataOption = None,
) -> None:
    """Write report/index.html, summary.txt, figures and a LaTeX table; trains and computes nothing anew."""
    from resomap.layout import StudyLayout
    from resomap.study.reporting.paper_figures import draw_figures
    from resomap.study.stages import report_study
    from resomap.study.status import missing_runs_first

    resolved = study_config(study, config, overrides, data=data, device="cpu")
    layout = StudyLayout(study)
    with missing_runs_first(study):
        verdict = report_study(resolved, layout=layout, progress=tell)
    draw_figures(resolved, layout=layout, progress=tell)
    print(printable(verdict["recommendation"]["sentence"]))
    print(f"report: {printable(layout.report_path)}")
