"""A folder that is named for files must not be a study's or a run's: its own files would be written over."""

from __future__ import annotations

from pathlib import Path

from resomap.errors import StudyError
from resomap.layout import RUN_RECORD, StudyLayout, study_of
from resomap.printable import printable


def check_output_folder(folder: Path, *, name: str, holds_run: bool = False) -> None:
    """Refuse a folder whose files are a study's.

    Args:
        name: of the argument.
        holds_run: what is in it is known to be a run's.
    Raises:
        StudyError: it is a study, holds a run, or lies among the runs of a study.
    """
    layout = StudyLayout(folder)
    if layout.config_path.exists() or layout.results_json_path.exists():
        what = "is a study"
    elif holds_run or (folder / RUN_RECORD).exists() or study_of(folder) is not None:
        what = "holds a run or lies among the runs of a study"
    else:
        return
    raise StudyError(f"{name}: expected a folder for the files, got {printable(folder)}, which {what}; choose another")
