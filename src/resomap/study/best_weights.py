"""A trained run's answers are those of its best epoch's weights: evaluated on every split, stored, measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resomap.evaluation.predict import predict
from resomap.evaluation.store import read_predictions, write_predictions
from resomap.metrics.classification import classification_metrics
from resomap.models.checkpoints import load_checkpoint
from resomap.models.folding import for_inference
from resomap.records import Cell, Condition, FitRecord, Predictions, RunRecord
from resomap.serialize import plain, storage_errors
from resomap.study import build
from resomap.study.context import StudyContext
from resomap.study.observer import LeaseGuard
from resomap.study.runs import write_run

if TYPE_CHECKING:
    from torch import nn

_MOST_CONFUSIONS = 100
"""Classes up to which a run's record holds its confusion matrix: 1,000 of them would be 13 MB of text a condition, and
the stored predictions give it as well (metrics.classification.confusion_matrix)."""


def evaluated(context: StudyContext, cell: Cell, record: RunRecord, fit: FitRecord, *, guard: LeaseGuard) -> RunRecord:
    """The record of a trained run: its best epoch's weights evaluated on every split, predictions stored."""
    context.ranks.barrier()
    metrics: dict[str, Mapping[str, Any]] = {}
    checkpoint = load_checkpoint(context.run_dir(cell), allow_callables=":" in cell.model)
    guard.check()
    network = for_inference(checkpoint.model, cell.resolution, precision=context.precision)
    if context.ranks.is_main:
        # Other conditions of earlier weights must not stand beside these.
        for stale in context.layout.stored_predictions(cell):
            with storage_errors(stale):
                stale.unlink(missing_ok=True)
    for split in ("val", "test"):
        if split in context.stores:
            condition = Condition(split, cell.resolution, build.preprocessing(context.config, cell).information)
            answers = answers_on(context, cell, network, split)
            metrics[condition.name] = _condition_metrics(context, condition, answers)
            guard.check()
            if context.ranks.is_main:
                write_predictions(
                    context.layout.predictions_path(cell, condition), answers, cell=cell, condition=condition
                )
    return dataclasses.replace(
        record,
        epochs=fit.epochs,
        best_epoch=fit.best_epoch,
        metrics=metrics,
        still_improving=fit.still_improving,
        provenance=dict(record.provenance) | {"metric_options": build.metric_options(context.config)},
    )


def answers_on(
    context: StudyContext, cell: Cell, network: nn.Module, split: str, *, channels_last: bool = True
) -> Predictions:
    """What a network of the cell's answers to the images of a split.

    Args:
        channels_last: how the network's weights lie afterwards; one that is trained on must stay as it is.
    """
    loader = build.eval_loader(
        context.config_of(cell), context.stores[split], cell, device_type=context.device_type, ranks=context.ranks
    )
    return predict(
        network,
        loader,
        device=build.device_and_precision(context.config)[0],
        class_names=context.images.class_names,
        mixed_precision=context.precision,
        channels_last=channels_last,
        world_size=context.ranks.world_size,
        gather=context.ranks.gather,
    )


def _condition_metrics(context: StudyContext, condition: Condition, answers: Predictions) -> dict[str, Any]:
    values = classification_metrics(
        answers.labels,
        answers.probabilities,
        class_names=answers.class_names,
        **build.metric_options(context.config),
    )
    if len(answers.class_names) > _MOST_CONFUSIONS:
        del values["confusion_matrix"]
    return {**dataclasses.asdict(condition), "images": len(answers.labels), **values}


def refresh_metrics(context: StudyContext, record: RunRecord) -> RunRecord:
    """Metrics of a finished run as analysis.yaml now asks for them, from its stored predictions.

    Raises:
        StudyError: its predictions are gone or damaged.
    """
    options = build.metric_options(context.config)
    if record.provenance.get("metric_options") == plain(options):
        return record
    metrics = {}
    for name, stored in record.metrics.items():
        condition = Condition(
            stored["split"], stored["input_resolution"], stored["information_resolution"], stored["weights"]
        )
        answers = read_predictions(context.layout.predictions_path(record.cell, condition))
        metrics[name] = _condition_metrics(context, condition, answers)
    record = dataclasses.replace(
        record, metrics=metrics, provenance=dict(record.provenance) | {"metric_options": options}
    )
    write_run(context.record_path(record.cell), record)
    return record
