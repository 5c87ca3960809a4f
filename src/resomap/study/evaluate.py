"""A stored checkpoint on a data set: what `resomap evaluate` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resomap.config.schema import ResoMapConfig
from resomap.errors import CheckpointError, DatasetError
from resomap.evaluation.predict import predict
from resomap.evaluation.store import write_predictions
from resomap.metrics.classification import classification_metrics
from resomap.models.checkpoints import load_checkpoint
from resomap.models.folding import for_inference
from resomap.printable import listed
from resomap.records import Cell, Condition, ImageDataset
from resomap.study import build


def evaluate_checkpoint(
    config: ResoMapConfig, checkpoint_path: Path, *, split: str | None = None, predictions_path: Path | None = None
) -> dict[str, Any]:
    """Evaluate with the checkpoint's own resolution and preprocessing.

    Args:
        split: None: test, or val where there is no test.
    Returns:
        Metrics of the split as metrics.classification gives them, 'split' and 'images'.
    Raises:
        CheckpointError: unreadable, unsafe, or trained on other classes.
        DatasetError: the data set has no such split.
    """
    build.settle_process(config)
    device, precision = build.device_and_precision(config)
    checkpoint = load_checkpoint(checkpoint_path, allow_callables=build.allows_callables(config))
    images = build.dataset(config)
    split = split or images.splits_used[1]
    _check_fit(images, split, checkpoint.metadata.class_names)
    metadata = checkpoint.metadata
    cell = Cell(metadata.model, metadata.resolution, metadata.seed)
    condition = Condition(split, cell.resolution, checkpoint.preprocessing.information)
    loader = build.checkpoint_loader(config, images, split, preprocessing=checkpoint.preprocessing, device=device)
    network = for_inference(checkpoint.model, cell.resolution, precision=precision)
    answers = predict(network, loader, device=device, class_names=images.class_names, mixed_precision=precision)
    if predictions_path is not None:
        write_predictions(predictions_path, answers, cell=cell, condition=condition)
    values = classification_metrics(
        answers.labels, answers.probabilities, class_names=answers.class_names, **build.metric_options(config)
    )
    return {"split": split, "images": len(answers.labels), **values}


def _check_fit(images: ImageDataset, split: str, class_names: tuple[str, ...]) -> None:
    if split not in images.splits:
        raise DatasetError(
            f"{images.name} has no split {split!r}; it has {', '.join(images.splits)}: choose one with --split"
        )
    if tuple(class_names) != images.class_names:
        raise CheckpointError(
            f"the checkpoint tells {len(class_names)} classes apart ({listed(class_names)}), the data has "
            f"{images.num_classes} ({listed(images.class_names)}); give the data that it was trained for with --data"
        )
