"""ResoMap measures what input resolution does to an image classifier.

    import resomap
    model = resomap.build_model("resnet18", num_classes=2)

Names are loaded at first use: `import resomap` is fast and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "AugmentationSettings": "resomap.data.augmentation",
    "ResolutionAwareAugmentation": "resomap.data.augmentation",
    "audit_dataset": "resomap.data.audit",
    "make_acuity": "resomap.data.acuity",
    "ideal_accuracy": "resomap.data.acuity",
    "open_dataset": "resomap.data.sources",
    "build_model": "resomap.models.registry",
    "list_models": "resomap.models.registry",
    "load_checkpoint": "resomap.models.checkpoints",
    "classification_metrics": "resomap.metrics.classification",
    "predict": "resomap.evaluation.predict",
    "read_predictions": "resomap.evaluation.store",
    "EarlyStopping": "resomap.training.callbacks",
    "ModelCheckpoint": "resomap.training.callbacks",
    "Trainer": "resomap.training.trainer",
    "GradCAM": "resomap.explainability.gradcam",
    "IntegratedGradients": "resomap.explainability.integrated_gradients",
    "Saliency": "resomap.explainability.saliency",
    "ModelExplainer": "resomap.explainability.explainer",
    "to_common_frame": "resomap.explainability.frame",
    "get_target_layer": "resomap.models.target_layers",
    "profile_model": "resomap.profiling.profiler",
    "print_profiling_report": "resomap.profiling.report",
    "profile_gpu_memory": "resomap.profiling.memory",
    "get_model_complexity": "resomap.profiling.complexity",
    "ResolutionExplainabilityAnalyzer": "resomap.study.resolution",
    "keep_freed_memory": "resomap.allocator",
    "release_freed_memory": "resomap.allocator",
    "load_config": "resomap.config.load",
    "load_study": "resomap.study.load",
    "run_study": "resomap.study.sweep",
    "study_status": "resomap.study.status",
    "ResoMapError": "resomap.errors",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'resomap' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
