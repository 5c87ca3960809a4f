"""What a study will cost, before anything runs: what `resomap plan` does.

Memory and operations are computed on shapes alone; only time is measured, from a few updates of each model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from heapq import nlargest
from typing import Any

import torch

from resomap.config.schema import ResoMapConfig
from resomap.models.devices import free_memory_mib
from resomap.models.registry import count_parameters
from resomap.models.resolutions import least_training_batch
from resomap.profiling.complexity import get_model_complexity
from resomap.profiling.memory import largest_micro_batch, left_out, predict_memory
from resomap.records import Cell
from resomap.serialize import provenance, write_json
from resomap.study import build
from resomap.study.autotune_cache import foreseen_choices
from resomap.study.budget_reference import stored_reference
from resomap.study.context import StudyContext
from resomap.study.costs.calibrate import calibrate
from resomap.study.costs.circumstances import circumstances
from resomap.study.costs.disk import DiskForecast, forecast_disk
from resomap.study.costs.schedule import makespan, seed_by_seed
from resomap.study.progress import StudyProgress
from resomap.study.runs_at_once import settle_runs_at_once
from resomap.study.shared_micro_batch import Limit
from resomap.training.ranks import Ranks

SHARE_OF_FREE = 0.9
"""Of the free memory that a plan counts on: the rest is the allocator's, the libraries' and other programs'."""
EVALUATION_SHARE = 1 / 3
"""A forward pass against a training step: the backward pass costs twice the forward pass (FLOPs)."""


@dataclass(frozen=True, slots=True)
class CellForecast:
    """What one model at one resolution will take; the same for each seed."""

    model: str
    resolution: int
    precision: str
    """Of training."""
    parameters: int
    macs: int
    """Multiply-accumulates of one image's forward pass."""
    micro_batch: int | None
    """Images of a forward pass in training, the same at all resolutions of the model; None: not even the fewest fit."""
    fewest_images: int
    """That it can be trained on at once: 2 where BatchNorm cannot normalise one (maps of 1 x 1), else 1."""
    training_mib: float
    """Peak of live tensor bytes in training, with that micro-batch (with the fewest images where that does not fit)."""
    inference_mib: float
    """The same for one image without gradients."""
    circumstances: Mapping[str, Any]
    """Settings, images and machine that the time is for, see study.circumstances."""
    seconds_per_run: float | None
    """Training and evaluation of one seed, with the threads that one of several runs at once has; None where it does
    not fit."""


@dataclass(frozen=True, slots=True)
class StudyForecast:
    """The whole grid."""

    device: str
    untuned: tuple[str, ...]
    """Models for which a run would first search faster settings: these are not known yet, the untuned are assumed."""
    seeds: int
    batch_size: int
    images: dict[str, int]
    """split -> images."""
    limit_mib: float | None
    """Memory that a run may take: where it is not given, its part of what is free; None: the device does not tell."""
    leaves_out: str
    """What the predicted memory does not count."""
    cells: tuple[CellForecast, ...]
    runs_at_once: int
    peak_mib: float
    """Training memory of the largest runs that are side by side on one device; 0 where none fits."""
    hours: float
    """All runs that fit, `runs_at_once` side by side."""
    disk: DiskForecast

    @property
    def too_big(self) -> tuple[CellForecast, ...]:
        """Cells that do not fit even with the fewest images at a time."""
        return tuple(cell for cell in self.cells if cell.micro_batch is None)


def forecast_study(
    config: ResoMapConfig, *, progress: Callable[[str], None] = lambda _: None, ranks: Ranks | None = None
) -> StudyForecast:
    """Predict memory, micro-batch, operations, time and disk of every cell; trains nothing but a few updates.

    Settings of speed are those that the study was tuned to or that are remembered for this machine, if they are: a
    search takes longer than a forecast may.
    Stored as analysis/plan.json of the study, whose report shows what was predicted beside what was measured.

    Args:
        progress: told what is being looked at.
    Raises:
        ResoMapError: models, sizes, device or data that a run would refuse as well.
    """
    build.check_models(config)
    build.settle_process(config)
    ranks = ranks or Ranks()
    context = _context(config, ranks)
    num_classes, counts = context.images.num_classes, context.image_counts
    build.check_micro_batch(config, ranks, images=counts["train"], num_classes=num_classes)
    context = replace(context, runs_at_once=settle_runs_at_once(context))
    runs = context.runs_at_once
    device, _ = build.device_and_precision(config)
    shared = build.runs_on_a_device(config, runs)
    limit, free = build.memory_limit_mib(config), free_memory_mib(device)
    if limit is None and free is not None:
        limit = free * SHARE_OF_FREE / shared
    cells: list[CellForecast] = []
    with build.threads_of_runs(config, runs):
        choices, untuned = foreseen_choices(context)
        context = replace(context, tuned=choices)
        for model in dict.fromkeys(cell.model for cell in context.cells):
            progress(model)
            cells += _forecast_model(context, model, limit_mib=math.inf if limit is None else limit)
    seeds = len({cell.seed for cell in context.cells})
    forecast = StudyForecast(
        device=device,
        untuned=untuned,
        seeds=seeds,
        batch_size=build.training_length(config)[1],
        images=counts,
        limit_mib=limit,
        leaves_out=left_out(torch.device(device)),
        cells=tuple(cells),
        runs_at_once=runs,
        peak_mib=sum(nlargest(shared, [cell.training_mib for cell in cells if cell.micro_batch] * seeds)),
        hours=_wall_seconds(context, cells) / 3600,
        disk=forecast_disk(context, {cell.model: cell.parameters for cell in cells}),
    )
    write_json(context.layout.plan_path, forecast)
    return forecast


def _context(config: ResoMapConfig, ranks: Ranks) -> StudyContext:
    """The study's, before an image is looked at."""
    device, precision = build.device_and_precision(config)
    images = build.dataset(config)
    layout = build.layout(config, images)
    own = build.budget_reference(config)
    return StudyContext(
        config=config,
        name=build.study_name(config, images),
        layout=layout,
        images=images,
        stores={},
        fingerprint="",
        cells=tuple(build.cells(config)),
        device_type=device.partition(":")[0],
        precision=precision,
        ranks=ranks,
        leases=build.leases(config, layout),
        progress=StudyProgress(),
        budget_reference=None if own is None else stored_reference(layout) or own,
    )


def _forecast_model(context: StudyContext, model: str, *, limit_mib: float) -> list[CellForecast]:
    """Every resolution of a model; the largest decides the micro-batch, which is common to all."""
    ranks, num_classes = context.ranks, context.images.num_classes
    cells = {cell.resolution: cell for cell in reversed(context.cells) if cell.model == model}
    sides = sorted(cells)
    config = context.config_of(cells[sides[-1]])
    device, precision = build.device_and_precision(config)
    network = build.model(config, cells[sides[-1]], num_classes=num_classes)

    @cache
    def peak_mib(side: int, batch: int, training: bool) -> float:
        return predict_memory(
            network,
            input_shape=(batch, 3, side, side),
            precision=precision,
            training=training,
            optimizer=build.optimizer_factory(config),
            gradients_stay=training and build.gradients_stay(config, model, batch, ranks),
            device=device,
        ).peak_mib

    wanted = build.micro_batch(config, ranks)
    fewest = {side: least_training_batch(network, side) for side in sides}
    fits = [side for side in sides if min(peak_mib(side, n, True) for n in (fewest[side], wanted)) <= limit_mib]
    micro, time = None, None
    if fits:
        micro = largest_micro_batch(
            lambda batch: peak_mib(fits[-1], batch, True),
            limit_mib=limit_mib,
            largest=wanted,
            least=max(fewest[side] for side in fits),
        )
        time = calibrate(config, model, fits, num_classes=num_classes, micro_batch=micro or 1)

    def seconds(side: int) -> float | None:
        return run_seconds(context.config_of(cells[side]), context.image_counts, time.at(side)) if time else None

    def circumstances_at(side: int) -> dict[str, Any]:
        limited = replace(context, limit=Limit(micro))
        processes = max(ranks.world_size, build.processes_per_run(config))
        here = provenance(device=context.device_type, processes=processes, runs_at_once=context.runs_at_once)
        return circumstances(limited.determinants(cells[side]), images=context.image_counts, provenance=here)

    return [
        CellForecast(
            model=model,
            resolution=side,
            precision=precision,
            parameters=count_parameters(network),
            macs=get_model_complexity(network, (1, 3, side, side)).macs,
            micro_batch=micro if side in fits else None,
            fewest_images=fewest[side],
            training_mib=peak_mib(side, micro if micro and side in fits else fewest[side], True),
            inference_mib=peak_mib(side, 1, False),
            circumstances=circumstances_at(side),
            seconds_per_run=seconds(side) if side in fits else None,
        )
        for side in sides
    ]


def _wall_seconds(context: StudyContext, cells: Sequence[CellForecast]) -> float:
    """Of all runs that fit, as many at once as the study has, in its order."""
    of_option = {(cell.model, cell.resolution): cell.seconds_per_run or 0.0 for cell in cells}

    def cost(cell: Cell) -> float:
        return of_option[cell.model, cell.resolution]

    return makespan([cost(cell) for cell in seed_by_seed(context.cells, cost)], context.runs_at_once)


def run_seconds(config: ResoMapConfig, counts: Mapping[str, int], seconds_per_image: float) -> float:
    """Every epoch trains and validates; the best weights are evaluated on val and test at the end.

    Args:
        counts: split -> images.
        seconds_per_image: of a training step.
    """
    epochs, _ = build.training_length(config)
    evaluated = counts["val"] * (epochs + 1) + counts.get("test", 0)
    return seconds_per_image * (counts["train"] * epochs + evaluated * EVALUATION_SHARE)
