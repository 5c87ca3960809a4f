"""What a study will take of the disk that it lies on, and of the cache, which may lie on another."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path

from resomap.config.schema import ResoMapConfig
from resomap.study import build
from resomap.study.context import StudyContext
from resomap.study.runs import stored_runs

_MIB = 2**20
_BYTES_OF_STATE = 12
"""A parameter's: weight and two moments."""
_BYTES_OF_ANSWER = 40
"""An image's in stored predictions, besides its probabilities."""


@dataclass(frozen=True, slots=True)
class DiskForecast:
    """Room that is still needed; MiB (2^20 bytes)."""

    study: str
    """The study's folder."""
    study_mib: float
    """Weights and predictions of all runs that are not finished, and the states of those that go on at once. Tables,
    tracking and the report come on top: a few MiB."""
    study_free_mib: float
    cache: str
    """The folder of the cache (data.cache_dir)."""
    cache_mib: float
    """Decoded images that are not there yet."""
    cached_mib: float
    """Decoded images that are there."""
    cache_free_mib: float
    """0 to 2^20 times data.cache_gib is used of it, all studies together."""
    on_the_fly: tuple[str, ...]
    """Splits that data.cache_gib or the disk has no room for: their images are decoded at each access."""


def forecast_disk(context: StudyContext, parameters: Mapping[str, int]) -> DiskForecast:
    """Looks at the headers of some images and at what is there; writes nothing.

    Args:
        parameters: model -> its parameters.
    """
    config = context.config
    cache, needs = build.cache_dir(config), build.cache_needs(config, context.images)
    cache_free = free_bytes(cache)
    fitting = {split: need for split, need in needs.items() if need.is_there or need.bytes <= cache_free}
    return DiskForecast(
        study=str(context.layout.root),
        study_mib=left_to_store(context, parameters) / _MIB,
        study_free_mib=free_bytes(context.layout.root) / _MIB,
        cache=str(cache),
        cache_mib=sum(need.bytes for need in fitting.values() if not need.is_there) / _MIB,
        cached_mib=sum(need.bytes for need in fitting.values() if need.is_there) / _MIB,
        cache_free_mib=cache_free / _MIB,
        on_the_fly=tuple(split for split in context.images.splits if split not in fitting),
    )


def left_to_store(context: StudyContext, parameters: Mapping[str, int]) -> int:
    """Bytes that the study's runs will still take: study_bytes of those that are not finished.

    Args:
        parameters: model -> its parameters.
    """
    done = {record.cell for record in stored_runs(context.layout) if record.status == "finished"}
    to_do = [parameters[cell.model] for cell in context.cells if cell not in done]
    return study_bytes(
        context.config,
        to_do,
        at_once=context.runs_at_once,
        answers=sum(count for split, count in context.image_counts.items() if split != "train"),
        classes=context.images.num_classes,
    )


def study_bytes(config: ResoMapConfig, parameters: Sequence[int], *, at_once: int, answers: int, classes: int) -> int:
    """Weights and predictions of runs, and the states of those that go on at once.

    Args:
        parameters: of the model of every run.
        answers: images that each run is evaluated on.
    """
    weights = 4 * sum(parameters) * build.kept_checkpoints(config)
    # A state is written beside the one that it replaces.
    states = 2 * _BYTES_OF_STATE * sum(nlargest(at_once, parameters))
    predictions = len(parameters) * answers * (4 * classes + _BYTES_OF_ANSWER) * build.copies_of_predictions(config)
    return weights + states + predictions


def free_bytes(folder: Path) -> int:
    """Of the disk that a folder lies on, or will."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
