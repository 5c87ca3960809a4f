"""Metrics of the validation images during training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from resomap.evaluation.predict import predict
from resomap.metrics.classification import classification_metrics
from resomap.training.device import isolated_generators
from resomap.training.engine import Engine


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
            gather=engine.gather,
        )
    if not math.isfinite(float(answers.probabilities.sum())):
        return None
    metrics = classification_metrics(answers.labels, answers.probabilities, class_names=answers.class_names)
    scalars = {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
    return {"loss": scalars["log_loss"], **scalars}
