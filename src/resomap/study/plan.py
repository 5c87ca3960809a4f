"""The plan of a study: checked (preflight.py), and what its configuration leaves open settled, before the first run."""

from __future__ import annotations

from dataclasses import replace

from resomap.config.schema import ResoMapConfig
from resomap.records import Cell
from resomap.study import build
from resomap.study.autotune_cache import settle_tuning
from resomap.study.budget_reference import settle_reference
from resomap.study.context import StudyContext
from resomap.study.preflight import check_disk, checked_study
from resomap.study.progress import StudyProgress
from resomap.study.runs_at_once import settle_runs_at_once
from resomap.study.shared_micro_batch import comparable_runs
from resomap.study.verdict.setup_warnings import study_notes
from resomap.training.ranks import Ranks


def plan_study(
    config: ResoMapConfig, *, progress: StudyProgress, ranks: Ranks, discard_changed: bool = False
) -> StudyContext:
    """Check everything that can be checked, decode the images, and settle length, runs at once and what is tuned.

    Raises:
        ResoMapError: the first kind of problem found, with all problems of that kind.
    """
    context, parameters = checked_study(config, progress=progress, ranks=ranks, discard_changed=discard_changed)
    context = replace(context, budget_reference=settle_reference(context))
    notes = tuple(study_notes(context, held_cells(context)))
    context = replace(context, notes=notes, runs_at_once=settle_runs_at_once(context))
    check_disk(context, parameters)
    if (runs := context.runs_at_once) > 1:
        threads = build.threads_of_a_run(config, runs)
        progress.tuned(f"{runs} runs at once, threads of each: {threads} (system.runs_at_once)")
    with build.threads_of_runs(config, runs):
        context = replace(context, tuned=settle_tuning(context))
    for note in context.notes:
        progress.note(note)
    return context


def held_cells(context: StudyContext) -> dict[Cell, int]:
    """Cell -> epochs of all that is planned now or was finished before: what the study's tables hold."""
    finished = (record for record in comparable_runs(context.layout) if record.status == "finished")
    before = {record.cell: len(record.epochs) for record in finished}
    return dict(sorted((before | {cell: context.epochs(cell) for cell in context.cells}).items()))
