"""The generated data set's known answers beside what the study measured (acuity only)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from resomap.evaluation.store import read_predictions
from resomap.layout import StudyLayout
from resomap.records import Condition, Predictions, RunRecord


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """Accuracy within one band (which of its two orientations?) at one resolution; chance is 0.5."""

    band: float
    resolution: int
    ideal: float
    """The ideal observer's accuracy: nobody can do better."""
    measured: dict[str, float]
    """model -> mean over its seeds."""


def known_answers(
    layout: StudyLayout,
    records: Iterable[RunRecord],
    *,
    bands: Mapping[float, tuple[str, str]],
    ideal: Callable[[int, float], float],
) -> list[KnownAnswer]:
    """Compare each band's accuracy on the test split with the ideal observer's.

    Args:
        bands: band in cycles an image -> names of its two classes.
        ideal: (resolution, band) -> accuracy of the ideal observer.
    """
    by_resolution: dict[int, list[tuple[str, Predictions]]] = {}
    for record in records:
        if record.status == "finished":
            of_run = (record.cell.model, _test_predictions(layout, record))
            by_resolution.setdefault(record.cell.resolution, []).append(of_run)
    table = []
    for band, names in bands.items():
        for resolution, runs in sorted(by_resolution.items()):
            values: dict[str, list[float]] = {}
            for model, answers in runs:
                values.setdefault(model, []).append(band_accuracy(answers, names))
            means = {model: float(np.mean(v)) for model, v in values.items()}
            table.append(KnownAnswer(band, resolution, ideal(resolution, band), means))
    return table


def _test_predictions(layout: StudyLayout, record: RunRecord) -> Predictions:
    stored = next(found for found in record.metrics.values() if found["split"] == "test")
    condition = Condition("test", record.cell.resolution, stored["information_resolution"])
    return read_predictions(layout.predictions_path(record.cell, condition))


def band_accuracy(answers: Predictions, classes: tuple[str, str]) -> float:
    """Share of the band's images whose orientation gets the higher of the band's two probabilities."""
    columns = [answers.class_names.index(name) for name in classes]
    of_band = np.isin(answers.labels, columns)
    chosen = np.asarray(columns)[answers.probabilities[of_band][:, columns].argmax(axis=1)]
    return float((chosen == answers.labels[of_band]).mean())
