"""Runs of a study that were made with other settings: named, never mixed in."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence

from resomap.errors import StudyError
from resomap.layout import StudyLayout
from resomap.printable import counted, listed, printable
from resomap.records import ImageDataset, RunRecord
from resomap.study.autotune_cache import forget_choices
from resomap.study.budget_reference import forget_reference
from resomap.study.context import StudyContext
from resomap.study.runs import stored_runs
from resomap.study.same_images import images_in_words
from resomap.study.shared_micro_batch import is_outgrown, limit_of, mend_limits


def settle_changes(context: StudyContext, *, discard_changed: bool) -> None:
    """Runs of one study share one protocol; a changed setting is named, never mixed in.

    Raises:
        StudyError: the study holds runs that were made with other settings.
    """
    if context.ranks.is_main:
        mend_limits(context.layout, context.leases)
    context.ranks.barrier()
    changed = changed_runs(context)
    if discard_changed and context.ranks.is_main:
        discard(context, [record for record, _ in changed])
    context.ranks.barrier()
    if not changed or discard_changed:
        return
    record, lines = changed[0]
    lines = changes_in_words(lines, context.layout, context.images)
    shown = listed(lines, most=6, separator="; ")
    raise StudyError(
        f"{printable(context.layout.root)} holds {counted(len(changed), 'run')} made with other settings "
        f"(stored -> asked for, first {record.cell}): {shown}. Undo the change, choose another --output, "
        "or give --discard-changed to delete those runs and train them anew"
    )


def changed_runs(context: StudyContext) -> list[tuple[RunRecord, list[str]]]:
    """Stored runs that this configuration would not have made, with what differs."""
    changed = []
    for record in stored_runs(context.layout):
        if is_outgrown(context.layout, record) or not limit_of(record).is_proven:
            continue  # made again without being asked: nobody changed a setting
        lines = context.changes(record)
        if lines:
            changed.append((record, lines))
    return changed


def discard(context: StudyContext, records: Iterable[RunRecord]) -> None:
    """Delete the checkpoints and predictions of these runs, and what was tuned for models that have no others."""
    records = list(records)
    for record in records:
        shutil.rmtree(context.layout.run_dir(record.cell, record.family), ignore_errors=True)
        shutil.rmtree(context.layout.predictions_dir(record.cell), ignore_errors=True)
    forget_choices(context, {record.cell.model for record in records})
    forget_reference(context.layout)


def changes_in_words(lines: Sequence[str], layout: StudyLayout, images: ImageDataset) -> list[str]:
    """Lines of StudyContext.changes for people: other images by what differs, other code so named, not by hashes."""
    return [_in_words(line, layout, images) for line in lines]


def _in_words(line: str, layout: StudyLayout, images: ImageDataset) -> str:
    if line.startswith("images: "):
        return f"images: {images_in_words(layout, images)}"
    return "the code of the model's module is another" if line.startswith("code: ") else line
