"""How many runs of a study go on at once on this machine, where nobody says.

A helper takes some seconds to start, and each run needs its own memory. A study that was stopped goes on with as many
as before: a run keeps its number of threads, and so its last bits.
"""

from __future__ import annotations

import logging

import psutil

from resomap.models.devices import free_memory_mib
from resomap.profiling.memory import predict_memory
from resomap.records import Cell, RunRecord
from resomap.study import build
from resomap.study.context import StudyContext
from resomap.study.runs import stored_runs

log = logging.getLogger(__name__)

MOST = 4
SHORTEST_S = 20.0
"""A study that trains for less is done before a helper pays."""
_PIXELS_PER_S = 6e6
"""Of the fastest network (tiny_cnn) in training on two cores: no study is shorter than its pixels say."""
_SHARE_OF_FREE = 0.5
"""Of the free memory that runs may fill: what is freed between steps stays with a process."""


def settle_runs_at_once(context: StudyContext) -> int:
    """Runs side by side: what was asked for, else what pays and fits; never more than the grid has."""
    cells, asked = len(context.cells), build.runs_at_once(context.config)
    if asked is not None:
        return min(asked, cells)
    most = min(MOST, build.usable_cores(), cells)
    alone = context.ranks.world_size == 1 and build.may_run_side_by_side(context.config)
    if most < 2 or not alone:
        return 1
    if stopped := [run.provenance.get("runs_at_once", 1) for run in _stopped(context)]:
        return min(max(stopped), most)
    if _least_seconds(context) < SHORTEST_S:
        return 1
    try:
        peak_mib = _peak_mib(context)
    except Exception as error:
        # A network may be a user's own: whatever ails it, its runs say so.
        log.debug("memory of runs at once is not known: %r", error)
        return 1
    # A helper also holds the libraries, as this process does already.
    own_mib = _own_mib()
    fits = (_SHARE_OF_FREE * (free_memory_mib("cpu") or 0) + own_mib) / (peak_mib + own_mib)
    return max(1, min(most, int(fits)))


def _stopped(context: StudyContext) -> list[RunRecord]:
    """Runs that were begun and are nobody's now."""
    begun = [run for run in stored_runs(context.layout) if run.status == "running"]
    return [run for run in begun if not context.leases.is_held(context.layout.lease_name(run.cell))]


def _own_mib() -> float:
    """Memory that is this process's alone."""
    return float(psutil.Process().memory_full_info().uss) / 2**20


def _least_seconds(context: StudyContext) -> float:
    counts = context.image_counts
    pixels = sum(build.training_images(context.config_of(cell), counts) * cell.resolution**2 for cell in context.cells)
    return pixels / _PIXELS_PER_S


def _peak_mib(context: StudyContext) -> float:
    """Of training the model that needs most, at the grid's largest side."""
    config, side = context.config, max(cell.resolution for cell in context.cells)
    peaks = []
    for model in dict.fromkeys(cell.model for cell in context.cells):
        network = build.model(config, Cell(model, side, 0), num_classes=context.images.num_classes)
        micro = build.micro_batch(config, context.ranks)
        peaks.append(
            predict_memory(
                network,
                input_shape=(micro, 3, side, side),
                training=True,
                optimizer=build.optimizer_factory(config),
                gradients_stay=build.gradients_stay(config, model, micro, context.ranks),
            ).peak_mib
        )
    return max(peaks)
