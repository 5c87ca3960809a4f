"""One run: train a cell, keep its best weights, evaluate them, store what came out."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resomap.errors import StudyError
from resomap.layout import LAST_STATE, METADATA, predictions_name
from resomap.lease import Lease
from resomap.models.registry import count_parameters
from resomap.models.summary import write_summary
from resomap.records import Cell, RunRecord
from resomap.serialize import plain, provenance, storage_errors
from resomap.study import build
from resomap.study.best_weights import answers_on, evaluated
from resomap.study.context import StudyContext
from resomap.study.halving import RUNGS, DominatedStopping
from resomap.study.interrupt import StopSignal
from resomap.study.observer import LeaseGuard, MemoryProof, RunObserver
from resomap.study.out_of_memory import memory_of_training
from resomap.study.rivals import Rivals
from resomap.study.runs import read_run, write_run
from resomap.study.shared_micro_batch import limit_of, lower_limit
from resomap.tracking.protocol import Tracker

if TYPE_CHECKING:
    from torch import nn

    from resomap.training.callbacks import Callback
    from resomap.training.trainer import Trainer

log = logging.getLogger(__name__)


def run_cell(
    context: StudyContext, cell: Cell, *, tracker: Tracker, stop: StopSignal, lease: Lease | None = None
) -> RunRecord:
    """Train, evaluate and store one cell; goes on from its last saved state.

    Args:
        lease: the claim on the cell, looked at before anything is written; None on ranks that only compute.
    Raises:
        TrainingDivergedError: the loss became NaN; the state on disk is the last good one.
        TrainingMemoryError: training ran out of memory; on one process.
        LeaseLostError: another process took the cell over while this one slept.
        KeyboardInterrupt: the user stopped; the state is saved.
    """
    started = time.monotonic()
    record = _begin(context, cell)
    run_dir = context.run_dir(cell)
    network = build.model(context.config, cell, num_classes=context.images.num_classes)
    record = dataclasses.replace(record, parameters=count_parameters(network))
    if context.ranks.is_main:
        write_run(context.record_path(cell), record)
        write_summary(context.layout.summary_dir(cell.model, cell.resolution), network, resolution=cell.resolution)
    guard = LeaseGuard(lease)
    observer = RunObserver(cell, context.progress, tracker=tracker, stop=stop, ranks=context.ranks)
    tracker.start_run(str(cell), _run_params(context, cell, record), key=record.key)
    halving = _halving(context, cell, network)
    proof = MemoryProof(lambda: _prove(context, record))
    trainer = _make_trainer(context, cell, network, guard=guard, listeners=[proof, *halving, observer])
    state_path = run_dir / LAST_STATE
    if state_path.exists():
        trainer.resume(state_path)
    earlier_s = trainer.seconds
    observer.started(trainer)
    with stop.between_updates(), memory_of_training(context):
        fit = trainer.fit()
    if context.ranks.broadcast(stop.requested):
        raise KeyboardInterrupt
    record = _proven(context, record)
    record = dataclasses.replace(record, stopped=next((each.reason for each in halving), None))
    record = evaluated(context, cell, record, fit, guard=guard)
    record = dataclasses.replace(record, seconds=earlier_s + time.monotonic() - started)
    record = _finish(context, record, guard=guard)
    _track_results(context, record, tracker)
    tracker.end_run("FINISHED")
    return record


def _track_results(context: StudyContext, record: RunRecord, tracker: Tracker) -> None:
    """The scalar metrics of each condition, the metadata and the predictions."""
    for condition in record.metrics.values():
        scalars = {f"best_{condition['split']}_{k}": v for k, v in condition.items() if isinstance(v, float)}
        tracker.log_metrics(scalars, step=record.best_epoch or 0)
    tracker.log_artifact(context.run_dir(record.cell) / METADATA)
    for name in record.metrics:
        tracker.log_artifact(context.layout.predictions_dir(record.cell) / predictions_name(name))


def _begin(context: StudyContext, cell: Cell) -> RunRecord:
    """A record that says this cell is running, with what determines it; a saved state of another run is removed."""
    determinants = context.determinants(cell)
    record = RunRecord(
        cell=cell,
        family=build.family(context.config, cell.model),
        key=context.key(cell),
        determinants=determinants,
        status="running",
        provenance=provenance(
            device=context.device_type,
            precision=context.training_precision(cell),
            processes=context.ranks.world_size,
            runs_at_once=context.runs_at_once,
            **context.limit_of(cell).named(),
            tuned=context.tuned.get(cell.model),
        ),
    )
    stored = stored_run(context, cell)
    if context.ranks.is_main and stored is not None and stored.key != record.key:
        forget_state(context, stored)
    return record


def _proven(context: StudyContext, record: RunRecord) -> RunRecord:
    """The record of a run whose micro-batch is known to fit."""
    limit = dataclasses.replace(context.limit_of(record.cell), is_proven=True)
    return dataclasses.replace(record, provenance=dict(record.provenance) | limit.named())


def _prove(context: StudyContext, record: RunRecord) -> None:
    """Training fits: where fewer images at once were tried, that holds for all runs of the model from now on."""
    limit, cell = context.limit_of(record.cell), record.cell
    if limit.is_proven or limit.images is None:
        return
    lower_limit(context.layout, context.leases, cell, limit.images)
    write_run(context.record_path(cell), _proven(context, record))
    log.warning(
        "%s: %d images at once fit: from now on for all resolutions and seeds of %s", cell, limit.images, cell.model
    )


def _make_trainer(
    context: StudyContext, cell: Cell, network: nn.Module, *, guard: LeaseGuard, listeners: Sequence[Callback]
) -> Trainer:
    config, run_dir = context.config_of(cell), context.run_dir(cell)
    options: dict[str, Any] = {"device_type": context.device_type, "ranks": context.ranks}
    loaders = (
        build.train_loader(config, context.stores["train"], cell, **options),
        build.eval_loader(config, context.stores["val"], cell, **options),
    )
    fields = {
        "model": cell.model,
        "family": build.family(config, cell.model),
        "resolution": cell.resolution,
        "seed": cell.seed,
        "class_names": list(context.images.class_names),
        "preprocessing": plain(build.preprocessing(config, cell)),
        "model_spec": build.model_specs(config).get(cell.model),
        "key": context.key(cell),
        "parameters": count_parameters(network),
    }
    return build.trainer(
        config,
        network,
        loaders,
        cell=cell,
        state_path=run_dir / LAST_STATE,
        weights=build.class_weights(config, context.stores["train"], context.images.num_classes),
        callbacks=[guard, *build.keep_best(config, run_dir, fields), *listeners],
    )


def _halving(context: StudyContext, cell: Cell, network: nn.Module) -> list[DominatedStopping]:
    """What stops the run where it is dominated, if that is asked for."""
    if not build.stops_dominated_runs(context.config):
        return []
    config = context.config_of(cell)
    rivals = Rivals(context, cell)
    return [
        DominatedStopping(
            cell,
            epochs=context.epochs(cell),
            key=context.key(cell),
            protected=rivals.is_largest,
            comparisons=len(RUNGS) * rivals.pairs,
            delta=build.accepted_loss(context.config),
            answer=lambda: answers_on(context, cell, network, "val", channels_last=build.memory_format(config)),
            path_of=lambda c, rung: context.layout.rung_path(c, rivals.family(c), rung),
            others=rivals.now,
        )
    ]


def _run_params(context: StudyContext, cell: Cell, record: RunRecord) -> dict[str, object]:
    return {
        "model": cell.model,
        "resolution": cell.resolution,
        "seed": cell.seed,
        "parameters": record.parameters,
        "family": record.family,
        "precision": context.training_precision(cell),
        "micro_batch": build.micro_batch(context.config_of(cell), context.ranks),
    }


def _finish(context: StudyContext, record: RunRecord, *, guard: LeaseGuard) -> RunRecord:
    """Store the run as finished; its training state is needed no more."""
    record = dataclasses.replace(record, status="finished")
    guard.check()
    if context.ranks.is_main:
        write_run(context.record_path(record.cell), record)
        forget_state(context, record)
    return record


def stored_run(context: StudyContext, cell: Cell) -> RunRecord | None:
    """What the study already knows about a cell.

    Raises:
        StudyError: the record is damaged.
    """
    record = read_run(context.record_path(cell))
    if record is not None and record.cell != cell:
        raise StudyError(
            f"{context.record_path(cell)} is the record of {record.cell}, not of {cell}; delete it and run again"
        )
    return record


def forget_state(context: StudyContext, record: RunRecord) -> None:
    """Remove a finished run's training state, which a kill right after the record was written leaves."""
    path = context.layout.run_dir(record.cell, record.family) / LAST_STATE
    with storage_errors(path):
        path.unlink(missing_ok=True)


def failed_record(context: StudyContext, cell: Cell, *, error: str) -> RunRecord:
    """Store and return the record of a run that failed; its saved state stays for a later start.

    What was tried with fewer images at once and in vain leaves nothing: the next start tries it as the model's others.
    """
    stored = stored_run(context, cell)
    if stored is None or not limit_of(stored).is_proven:
        stored = _begin(context, cell)
    record = dataclasses.replace(stored, status="failed", error=error)
    if context.ranks.is_main:
        write_run(context.record_path(cell), record)
    return record
