"""From the configuration to objects. Besides the command line, the only room that reads config objects."""

from resomap.study.builders.data import (
    acuity_options,
    augmentation,
    cache_dir,
    class_weights,
    dataset,
    fingerprint,
    is_resolution_aware,
    known_answers,
    max_pixels,
    stores,
)
from resomap.study.builders.identity import determinants
from resomap.study.builders.loaders import checkpoint_loader, eval_loader, micro_batch, train_loader
from resomap.study.builders.models import (
    allows_callables,
    cells,
    check_models,
    check_parameters,
    family,
    model,
    model_specs,
    preprocessing,
)
from resomap.study.builders.study import layout, metric_options, study_name, study_params, table_metric, tracker
from resomap.study.builders.training import (
    device_and_precision,
    device_name,
    keep_best,
    kept_checkpoints,
    set_threads,
    trainer,
)

__all__ = [
    "acuity_options",
    "allows_callables",
    "augmentation",
    "cache_dir",
    "cells",
    "check_models",
    "check_parameters",
    "checkpoint_loader",
    "class_weights",
    "dataset",
    "determinants",
    "device_and_precision",
    "device_name",
    "eval_loader",
    "family",
    "fingerprint",
    "is_resolution_aware",
    "keep_best",
    "kept_checkpoints",
    "known_answers",
    "layout",
    "max_pixels",
    "metric_options",
    "micro_batch",
    "model",
    "model_specs",
    "preprocessing",
    "set_threads",
    "stores",
    "study_name",
    "study_params",
    "table_metric",
    "tracker",
    "train_loader",
    "trainer",
]
