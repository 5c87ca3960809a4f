"""Everything that can be checked before the first step, and the context that the runs share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from resomap.config.schema import ResoMapConfig
from resomap.errors import StorageError, StudyError
from resomap.layout import StudyLayout
from resomap.printable import counted, printable
from resomap.records import Cell, RunRecord
from resomap.serialize import make_dirs, storage_errors, write_text
from resomap.study import build
from resomap.study.autotune_cache import choices_in_force, forget_choices, settle_tuning
from resomap.study.budget_reference import forget_reference, settle_reference, stored_reference
from resomap.study.context import StudyContext
from resomap.study.progress import StudyProgress
from resomap.study.ranks import Ranks
from resomap.study.runs import some_of, stored_runs
from resomap.study.runs_at_once import settle_runs_at_once
from resomap.study.same_images import changes_in_words
from resomap.study.shared_micro_batch import comparable_runs, is_outgrown, limit_of, mend_limits

if TYPE_CHECKING:
    from resomap.data.pyramid import ImageStore

T = TypeVar("T")


def plan_study(
    config: ResoMapConfig, *, progress: StudyProgress, ranks: Ranks, discard_changed: bool = False
) -> StudyContext:
    """Check models, sizes, device, data, disk and what the study already holds; decode the images.

    Raises:
        ResoMapError: the first kind of problem found, with all problems of that kind.
    """
    build.check_models(config)
    build.settle_process(config)
    device, precision = build.device_and_precision(config)
    images = _on_main_first(ranks, lambda: build.dataset(config))
    layout = build.layout(config, images)
    _check_writable(layout)
    parameters = build.check_parameters(config, num_classes=images.num_classes)
    stores = _on_main_first(ranks, lambda: build.stores(config, images, on_progress=progress.preparing))
    build.check_micro_batch(config, ranks, images=len(stores["train"]), num_classes=images.num_classes)
    context = StudyContext(
        config=config,
        name=build.study_name(config, images),
        layout=layout,
        images=images,
        stores=stores,
        fingerprint=build.fingerprint(config, images),
        cells=tuple(build.cells(config)),
        device_type=device.partition(":")[0],
        precision=precision,
        ranks=ranks,
        leases=build.leases(config, layout),
        progress=progress,
        tuned=choices_in_force(config, layout, ranks),
        budget_reference=_reference(config, layout),
    )
    _settle_changes(context, discard_changed=discard_changed)
    _check_disk(context, parameters)
    context = replace(context, budget_reference=settle_reference(context))
    notes = tuple(study_notes(context, held_cells(context)))
    context = replace(context, notes=notes, runs_at_once=settle_runs_at_once(context))
    if (runs := context.runs_at_once) > 1:
        threads = build.threads_of_a_run(config, runs)
        progress.tuned(f"{runs} runs at once, threads of each: {threads} (system.runs_at_once)")
    with build.threads_of_runs(config, runs):
        context = replace(context, tuned=settle_tuning(context))
    for note in context.notes:
        progress.note(note)
    return context


def _reference(config: ResoMapConfig, layout: StudyLayout) -> int | None:
    own = build.budget_reference(config)
    return None if own is None else stored_reference(layout) or own


def _on_main_first(ranks: Ranks, make: Callable[[], T]) -> T:
    """Let the first rank fill the caches, then the others read them."""
    if ranks.is_main:
        value = make()
        ranks.barrier()
        return value
    ranks.barrier()
    return make()


def _check_writable(layout: StudyLayout) -> None:
    """The study's directory exists and takes files; found out now, not after the first epoch."""
    make_dirs(layout.root)
    probe = layout.locks_dir / f"write-test-{os.getpid()}"
    write_text(probe, "")
    with storage_errors(probe):
        probe.unlink()


def _settle_changes(context: StudyContext, *, discard_changed: bool) -> None:
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
    shown = "; ".join(lines[:6]) + (f"; and {len(lines) - 6} more" if len(lines) > 6 else "")
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


def _check_disk(context: StudyContext, parameters: Mapping[str, int]) -> None:
    """Room for the best weights of all runs still to do, and for one run's full state.

    Raises:
        StorageError: there is less.
    """
    done = {r.cell for r in stored_runs(context.layout) if r.status == "finished"}
    to_do = [cell for cell in context.cells if cell not in done]
    if not to_do:
        return
    kept = build.kept_checkpoints(context.config)
    weights = sum(4 * parameters[cell.model] * kept for cell in to_do)
    state = max(12 * parameters[cell.model] for cell in to_do)
    free = shutil.disk_usage(context.layout.root).free
    if weights + state > free:
        raise StorageError(
            f"{printable(context.layout.root)}: the study's checkpoints need about "
            f"{(weights + state) / 2**20:,.1f} MiB, {free / 2**20:,.1f} MiB are free; free some, choose "
            "another --output, or fewer models, resolutions or seeds"
        )


def upsampled_share(stores: Mapping[str, ImageStore], resolutions: Iterable[int]) -> dict[str, float]:
    """resolution -> share of all images whose short side is below it: more pixels, no more information."""
    short_sides = np.concatenate([store.sizes.min(axis=1) for store in stores.values()])
    return {str(r): float((short_sides < r).mean()) for r in resolutions}


def held_cells(context: StudyContext) -> dict[Cell, int]:
    """Cell -> epochs of all that is planned now or was finished before: what the study's tables hold."""
    finished = (record for record in comparable_runs(context.layout) if record.status == "finished")
    before = {record.cell: len(record.epochs) for record in finished}
    return dict(sorted((before | {cell: context.epochs(cell) for cell in context.cells}).items()))


def study_notes(context: StudyContext, cells: Mapping[Cell, int]) -> Iterator[str]:
    """What weakens the results and is known without them.

    Args:
        cells: of held_cells().
    """
    yield from context.images.notes
    yield from _few_seeds(cells)
    for split, store in context.stores.items():
        if store.bad_files:
            yield f"{split}: {counted(len(store.bad_files), 'unreadable file')} left out"
    sides = sorted({cell.resolution for cell in cells})
    for side, share in upsampled_share(context.stores, sides).items():
        if share >= 0.05:
            yield f"{share:.0%} of the images are smaller than {side} px and were enlarged"
    limit = build.information_resolution(context.config)
    if limit is not None and limit < sides[-1]:
        yield (
            f"every image was reduced to {limit} px before it was brought to its input resolution "
            "(data.information_resolution): above that, inputs have larger maps and no more detail"
        )
    if build.kernel(context.config) == "box":
        yield "the box kernel lets detail finer than a pixel through as false patterns (aliases)"
    if context.budget_reference is not None:
        yield f"the same computation at every resolution ({_epochs(cells)}): training length differs too"
    if build.is_resolution_aware(context.config):
        yield "augmentation differs by resolution (resolution_aware): resolution is not all that changes"


def _few_seeds(cells: Iterable[Cell]) -> Iterator[str]:
    seeds: dict[str, int] = {}
    for cell in cells:
        option = f"{cell.model} @{cell.resolution}"
        seeds[option] = seeds.get(option, 0) + 1
    few = [option for option, count in seeds.items() if count < 3]
    if few:
        where = f" of {some_of(few)}" if len(few) < len(seeds) else ""
        yield f"fewer than 3 seeds{where}: differences between resolutions may be chance"


def _epochs(cells: Mapping[Cell, int]) -> str:
    """'resnet18 epochs @224: 20, @320: 10'"""
    models: dict[str, dict[int, int]] = {}
    for cell, epochs in cells.items():
        of_model = models.setdefault(cell.model, {})
        of_model[cell.resolution] = max(epochs, of_model.get(cell.resolution, 0))
    return "; ".join(
        f"{model} epochs " + ", ".join(f"@{side}: {epochs}" for side, epochs in of_model.items())
        for model, of_model in models.items()
    )
