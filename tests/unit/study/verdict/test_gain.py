"""The gain of a larger input stands in two tables: with one interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resomap.records import Cell, Condition
from resomap.study.verdict.evidence import comparisons
from resomap.study.verdict.gain import detail_rows


class _Study:
    """What both tables ask of a study of one model, 32 and 64 px, two seeds: who is right on which of 200 images."""

    splits, class_names = ("val", "test"), ("a", "b")
    labels = np.arange(200) % 2

    def __init__(self) -> None:
        self.grid = {"a": ((32, 64), (0, 1))}
        # (input, information) -> right answers of each seed
        self.right = {(32, 32): (100, 130), (64, 32): (40, 160), (64, 64): (150, 170)}

    def information(self, resolution: int) -> int:
        return resolution

    def answers(self, cell: Cell, condition: Condition) -> tuple[np.ndarray, np.ndarray]:
        count = self.right[condition.input_resolution, condition.information_resolution][cell.seed]
        return self.labels, np.where(np.arange(200) < count, self.labels, 1 - self.labels)

    def stack(self, model: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        rows = [[self.answers(Cell(model, side, seed), Condition(split, side, side))[1] for seed in (0, 1)]
                for side in (32, 64)]  # fmt: skip
        return self.labels, np.array(rows)

    def values(self, model: str, split: str, metric: str) -> np.ndarray:
        assert metric == "accuracy"
        return (self.stack(model, split)[1] == self.labels).astype(np.float64)

    def heaviest(self, model: str, split: str, metric: str) -> float:
        return 1.0  # as many images of either class


def test_a_whole_gain_has_the_interval_that_it_has_among_the_differences() -> None:
    """Seeds that take blurred images very differently say nothing of how much their own resolutions vary."""
    study: Any = _Study()
    (row,) = detail_rows(study, metric="accuracy")
    (compared,) = comparisons(study, "accuracy")
    assert row["total"] == compared["difference"]
    assert row["total"]["value"] == (150 + 170 - 100 - 130) / 400
    assert row["size"]["value"] + row["detail"]["value"] == pytest.approx(row["total"]["value"])
