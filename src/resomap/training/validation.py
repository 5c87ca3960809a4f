"""Metrics of the validation images during training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from resomap.evaluation.predict import predict
from resomap.metrics.classification import classification_metrics
from resomap.models.generators import isolated_generators
from resomap.records import Predictions
from resomap.training.engine import Engine
from resomap.training.losses import check_labels


def validation_metrics(
    model: nn.Module,
    loader: Any,
    *,
    engine: Engine,
    precision: str,
    channels_last: bool,
    class_names: Sequence[str] | None,
) -> dict[str, float] | None:
    """Scalar metrics over all ranks' images, the same on every rank; None where the answers are not finite.

    'loss' is the plain cross-entropy, without class weights and smoothing: comparable between runs.

    Raises:
        ConfigError: labels or class_names that are not the model's.
    """
    with isolated_generators(engine.device):
        answers = predict(
            model,
            loader,
            device=engine.device,
            class_names=class_names,
            mixed_precision=precision,
            channels_last=channels_last,
            world_size=engine.world_size,
            gather=engine.ranks.gather,
        )
    if not math.isfinite(float(answers.probabilities.sum())):
        return None
    labels, classes = answers.labels, answers.probabilities.shape[1]
    check_labels(int(labels.min()), int(labels.max()), classes=classes, name="val_loader")
    return _scalars(answers)


def validation_names() -> tuple[str, ...]:
    """Names of the metrics that validation_metrics() gives."""
    return tuple(_scalars(Predictions(np.array(["0"]), np.array([0]), np.ones((1, 1)), ("0",))))


def _scalars(answers: Predictions) -> dict[str, float]:
    metrics = classification_metrics(answers.labels, answers.probabilities, class_names=answers.class_names)
    scalars = {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
    return {"loss": scalars["log_loss"], **scalars}
