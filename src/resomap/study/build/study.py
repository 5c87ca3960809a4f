"""The study itself: its directory, its name, its tracker, its metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from resomap.config.load import flatten
from resomap.config.schema import ResoMapConfig
from resomap.config.yaml_text import is_unicode
from resomap.layout import StudyLayout, folder_name
from resomap.lease import Leases
from resomap.printable import without_secrets
from resomap.records import ImageDataset

if TYPE_CHECKING:
    from resomap.study.claimed_cells import Executor
    from resomap.tracking.protocol import Tracker


def layout(config: ResoMapConfig, images: ImageDataset) -> StudyLayout:
    """The study's directory."""
    output = config.study.output.replace("{data}", folder_name(images.name))
    return StudyLayout(Path(output).expanduser())


def layout_without_images(config: ResoMapConfig) -> StudyLayout | None:
    """The study's directory; None where its name follows from the images."""
    output = config.study.output
    return None if "{data}" in output else StudyLayout(Path(output).expanduser())


def leases(config: ResoMapConfig, study: StudyLayout) -> Leases:
    """Which process works on what in this study."""
    return Leases(study.locks_dir, expiry_s=config.study.lease_seconds)


def executor(config: ResoMapConfig) -> Executor:
    """Who runs the cells."""
    if config.system.executor == "ray":
        from resomap.study.executors.ray import RayExecutor

        return RayExecutor(config, address=config.system.ray_address)
    from resomap.study.executors.local import LocalExecutor  # brings torch

    return LocalExecutor()


def waits_for_others(config: ResoMapConfig) -> bool:
    """Whether a process stays until the runs of other processes are finished."""
    return config.study.wait_for_others


def study_name(config: ResoMapConfig, images: ImageDataset) -> str:
    """The study's name, for people and for MLflow."""
    return config.study.name or images.name


def metric_options(config: ResoMapConfig) -> dict[str, Any]:
    """How metrics are computed from predictions."""
    return {
        "top_k": config.analysis.top_k,
        "bins": config.analysis.calibration_bins,
        "confidence": config.analysis.confidence,
    }


def report_wanted(config: ResoMapConfig) -> bool:
    """Whether a run ends with the verdict and the report; both need measured cost."""
    return config.analysis.report and config.system.profiling.enabled


def matrix_wanted(config: ResoMapConfig) -> bool:
    """Whether a run evaluates every network at every resolution."""
    return config.analysis.matrix


def accepted_loss(config: ResoMapConfig) -> float:
    """Loss of the metric that is acceptable for a cheaper option."""
    return config.analysis.delta


def table_metric(config: ResoMapConfig) -> str:
    """The metric of the closing table."""
    return config.analysis.metric


def tracker(config: ResoMapConfig, study: StudyLayout, name: str) -> Tracker:
    """MLflow, or a tracker that does nothing."""
    from resomap.tracking.mlflow_tracker import MLflowTracker
    from resomap.tracking.null import NullTracker

    if not config.mlflow.enabled:
        return NullTracker()
    uri = config.mlflow.tracking_uri
    return MLflowTracker(
        uri or f"sqlite:///{study.mlflow_db_path.resolve()}",
        name,
        artifact_location=None if uri else study.mlflow_artifacts_dir.resolve().as_uri(),
        log_artifacts=config.mlflow.log_artifacts,
        study_id=str(study.root.resolve()) if uri else None,
    )


def copies_of_predictions(config: ResoMapConfig) -> int:
    """How often the study's folder holds a run's predictions: MLflow has its own, unless it is elsewhere."""
    mlflow = config.mlflow
    return 2 if mlflow.enabled and mlflow.log_artifacts and mlflow.tracking_uri is None else 1


def may_be_finished(config: ResoMapConfig) -> bool:
    """Whether a finished study can be known by its files alone: a model that is code of the user's may have changed."""
    return not any(":" in name for name in config.sweep.models)


def weight_files(config: ResoMapConfig) -> list[Path]:
    """Weights that every model starts from, where they are a file."""
    return [Path(config.models.pretrained)] if isinstance(config.models.pretrained, str) else []


def storable(config: ResoMapConfig) -> ResoMapConfig:
    """The configuration as study.yaml may hold it: no password of a tracking server, images found from anywhere."""
    from resomap.data.sources import found_anywhere

    source = found_anywhere(config.data.source)
    if not is_unicode(source):  # a folder above it has a name that no YAML file can hold
        source = config.data.source
    uri = config.mlflow.tracking_uri
    mlflow = config.mlflow.model_copy(update={"tracking_uri": None if uri is None else without_secrets(uri)})
    return with_source(config, source).model_copy(update={"mlflow": mlflow})


def with_source(config: ResoMapConfig, source: str) -> ResoMapConfig:
    """The configuration with other images."""
    return config.model_copy(update={"data": config.data.model_copy(update={"source": source})})


def study_params(config: ResoMapConfig) -> dict[str, object]:
    """The configuration as flat parameters for tracking."""
    return {key: value for key, value in flatten(config).items() if not key.startswith("mlflow.")}
