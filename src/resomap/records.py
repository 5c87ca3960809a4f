"""What one stage hands to the next: frozen records, no behaviour beyond naming and counting.

Shapes: N images, K classes. Resolutions are sides in pixels of a square tensor.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image file of a data set.

    image_id is the path relative to the data set's root, with forward slashes: stable across
    machines, and what all randomness about the image is derived from.
    """

    image_id: str
    path: Path
    label: int


@dataclass(frozen=True, slots=True)
class ImageDataset:
    """Images with labels, already split; the same at every resolution."""

    name: str
    root: Path
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[ImageRecord, ...]]
    """'train', 'val', 'test' -> images, sorted by image_id. Never empty; 'test' may be absent."""
    notes: tuple[str, ...] = ()
    """What a reader of the results should know: how the split was made, what was left out."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def splits_used(self) -> tuple[str, str]:
        """(split that decides, split that is reported)."""
        return splits_used(self.splits)


def splits_used(names: Container[str]) -> tuple[str, str]:
    """Of a data set's splits (the one that decides, the one that is reported): val for both where there is no test."""
    return "val", "test" if "test" in names else "val"


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class CropBox:
    """A region of an image in fractions of its height and width (0..1)."""

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image file becomes a model's input; stored with every checkpoint.

    The short side is resized (antialiased, `kernel`) to the resolution, then the centre square is cut;
    values are scaled to 0..1, then (x - mean) / std by channel (RGB).
    """

    resolution: int
    kernel: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    information_resolution: int | None = None
    """Side to which the image is reduced in the same way before; None: it is not."""

    @property
    def information(self) -> int:
        """The information resolution of the input: at most its own."""
        return information_at(self.resolution, self.information_resolution)


def information_at(resolution: int, limit: int | None) -> int:
    """Information resolution of an input whose image was reduced to `limit` before; None: it was not."""
    return resolution if limit is None else min(limit, resolution)


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One cell of the sweep's grid."""

    model: str
    resolution: int
    seed: int

    def __str__(self) -> str:
        return f"{self.model} @{self.resolution} seed {self.seed}"


AS_TRAINED, BATCH_NORM, HEAD = "as_trained", "bn_reestimated", "head_finetuned"
WEIGHTS = (AS_TRAINED, BATCH_NORM, HEAD)
"""Weights under which a run is evaluated: its own, with BatchNorm's statistics of the test size, and with the head
trained on at it too."""


@dataclass(frozen=True, slots=True)
class Condition:
    """How a run is evaluated (DESIGN: condition)."""

    split: str
    input_resolution: int
    information_resolution: int
    weights: str = AS_TRAINED
    """One of WEIGHTS."""

    @property
    def name(self) -> str:
        """File name of the condition's predictions, e.g. 'test-in224-info224-as_trained'."""
        return f"{self.split}-in{self.input_resolution}-info{self.information_resolution}-{self.weights}"


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """A classifier's answer for N images.

    image_ids (N,) str; labels (N,) int64; probabilities (N, K) float32, rows sum to 1.
    """

    image_ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]

    @property
    def predicted(self) -> np.ndarray:
        """(N,) int64: the class with the highest probability (the lowest index among equals)."""
        return self.probabilities.argmax(axis=1).astype(np.int64)


@dataclass(frozen=True, slots=True)
class TunedSettings:
    """How a model is computed in training, chosen for speed. Precision and micro-batch hold at all resolutions."""

    precision: str
    micro_batch: int
    channels_last: Mapping[int, bool]
    """resolution -> memory format NHWC"""
    effort: int
    """How thorough the search was, see training.autotune.plans(); 0: there was none."""
    gain: float = 1.0
    """Time of the untuned settings over that of these, where both were timed."""
    seconds: float = 0.0
    """What the search took."""


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch of one run. Losses are means over samples; epochs count from 1."""

    epoch: int
    train_loss: float
    train_accuracy: float
    learning_rate: float
    """At the epoch's last update."""
    seconds: float
    images_per_s: float
    """Training images per second of wall time, validation excluded."""
    peak_memory_mib: float | None
    """Peak of device memory; None on CPU, where the allocator keeps no peak."""
    val: Mapping[str, float] = field(default_factory=dict)
    """Metrics on the validation split: loss, accuracy, macro_f1, ..."""


@dataclass(frozen=True, slots=True)
class FitRecord:
    """What fit() did."""

    epochs: tuple[EpochRecord, ...]
    best_epoch: int
    best_value: float
    monitor: str
    updates: int
    stopped_early: bool
    still_improving: bool
    """The best epoch is among the last tenth: more epochs might have helped."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run as stored in run.json: identity, state, and either results or an error."""

    cell: Cell
    family: str
    key: str
    """Hash of `determinants`: equal keys, equal weights."""
    determinants: Mapping[str, Any]
    status: str
    """'running' (also: interrupted), 'finished' or 'failed'."""
    error: str | None = None
    epochs: tuple[EpochRecord, ...] = ()
    best_epoch: int | None = None
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """condition name -> scalar metrics, per-class metrics and confusion matrix."""
    parameters: int | None = None
    seconds: float | None = None
    """Wall time of training and evaluation; of earlier starts that it went on from, that of their epochs."""
    still_improving: bool | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    stopped: str | None = None
    """Why training ended before its last epoch, where another run dominated this one. Such runs are not assessed."""
