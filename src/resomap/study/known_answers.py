"""The generated data set's known answers beside what the study measured (acuity only)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    bands: Iterable[float],
    ideal: Callable[[int, float], float],
    class_name: Callable[[float, int], str],
) -> list[KnownAnswer]:
    """Compare each band's accuracy on the test split with the ideal observer's.

    Args:
        ideal: (resolution, band) -> accuracy of the ideal observer.
        class_name: (band, 0 or 1) -> name of the band's first or second class.
    """
    finished = [r for r in records if r.status == "finished"]
    table = []
    for band in bands:
        for resolution in sorted({r.cell.resolution for r in finished}):
            values: dict[str, list[float]] = {}
            for record in finished:
                if record.cell.resolution == resolution:
                    answers = _test_predictions(layout, record)
                    names = (class_name(band, 0), class_name(band, 1))
                    values.setdefault(record.cell.model, []).append(band_accuracy(answers, names))
            means = {model: float(np.mean(v)) for model, v in values.items()}
            table.append(KnownAnswer(band, resolution, ideal(resolution, band), means))
    return table


def _test_predictions(layout: StudyLayout, record: RunRecord) -> Predictions:
    side = record.cell.resolution
    return read_predictions(layout.predictions_path(record.cell, Condition("test", side, side)))


def band_accuracy(answers: Predictions, classes: tuple[str, str]) -> float:
    """Share of the band's images whose orientation gets the higher of the band's two probabilities."""
    columns = [answers.class_names.index(name) for name in classes]
    of_band = np.isin(answers.labels, columns)
    chosen = np.asarray(columns)[answers.probabilities[of_band][:, columns].argmax(axis=1)]
    return float((chosen == answers.labels[of_band]).mean())
