"""Everything that can be checked before the first step: data, models, sizes, disk, and runs that are there already."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

from resomap.config.schema import ResoMapConfig
from resomap.errors import StorageError
from resomap.layout import StudyLayout
from resomap.printable import printable
from resomap.serialize import make_dirs, storage_errors, write_text
from resomap.study import build
from resomap.study.autotune_cache import choices_in_force
from resomap.study.budget_reference import stored_reference
from resomap.study.changed_settings import settle_changes
from resomap.study.context import StudyContext
from resomap.study.costs.disk import free_bytes, left_to_store
from resomap.study.progress import StudyProgress
from resomap.training.ranks import Ranks

T = TypeVar("T")


def checked_study(
    config: ResoMapConfig, *, progress: StudyProgress, ranks: Ranks, discard_changed: bool = False
) -> tuple[StudyContext, dict[str, int]]:
    """Check models, sizes, device, data and what the study already holds; decode the images.

    Returns:
        The study, and model -> its parameters, which check_disk takes once the number of runs at once is known.
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
    settle_changes(context, discard_changed=discard_changed)
    return context, parameters


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


def check_disk(context: StudyContext, parameters: Mapping[str, int]) -> None:
    """Room for what `resomap plan` says that the runs still to do need.

    Args:
        parameters: model -> its parameters.
    Raises:
        StorageError: there is less.
    """
    needed, free = left_to_store(context, parameters), free_bytes(context.layout.root)
    if needed > free:
        raise StorageError(
            f"{printable(context.layout.root)}: the study's checkpoints and predictions need about "
            f"{needed / 2**20:,.1f} MiB, {free / 2**20:,.1f} MiB are free; free some, choose "
            "another --output, or fewer models, resolutions or seeds"
        )
