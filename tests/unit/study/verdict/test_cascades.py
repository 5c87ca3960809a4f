"""Cascades are of all seeds and of the study's metric, and stand in the report where they are faster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resomap.analysis.records import Option
from resomap.evaluation.store import write_predictions
from resomap.layout import StudyLayout
from resomap.metrics.classification import metric_name
from resomap.records import Cell, Condition, Predictions, RunRecord
from resomap.serialize import to_json, write_json
from resomap.study.load import Study
from resomap.study.reporting.verdict_tables import cascades_table
from resomap.study.runs import write_run
from resomap.study.verdict.evidence import cascades

LABELS = np.arange(40) % 2
SPLITS = ("val", "test")


def _probabilities(right: np.ndarray, sure: np.ndarray) -> np.ndarray:
    own = np.where(sure, 0.9, 0.6)
    own = np.where(right, own, 1 - own)
    return np.stack([np.where(k == LABELS, own, 1 - own) for k in (0, 1)], axis=1).astype(np.float32)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """The small size is unsure of 10 images with seed 0 and of 20 with seed 1, and wrong on 10; the large one is right
    on all."""
    layout = StudyLayout(tmp_path)
    everywhere = np.ones(40, bool)
    for seed, unsure in enumerate((10, 20)):
        sure, right = np.arange(40) >= unsure, np.arange(40) >= 10
        for side, answers in ((32, _probabilities(right, sure)), (64, _probabilities(everywhere, everywhere))):
            cell = Cell("a", side, seed)
            write_run(layout.run_record_path(cell, "cnn"), RunRecord(cell, "cnn", "k", {}, "finished"))
            for split in SPLITS:
                condition = Condition(split, side, side)
                stored = Predictions(np.array([f"{i}" for i in range(40)]), LABELS, answers, ("a", "b"))
                write_predictions(layout.predictions_path(cell, condition), stored, cell=cell, condition=condition)
    planned = [("a", side, seed) for side in (32, 64) for seed in (0, 1)]
    layout.config_path.write_text(f"provenance: {to_json({'cells': planned}, indent=None)}\n")
    write_json(layout.results_json_path, {"study": {"class_names": ["a", "b"], "images": {"test": 40}, "notes": []}})
    return Study(layout)


def _found(study: Study, *, small_ms: float, metric: str = "macro_f1") -> Iterator[dict[str, Any]]:
    none = np.zeros((2, 40))
    options = [Option("a", side, none, none, ms, (ms,), 1.0) for side, ms in ((32, small_ms), (64, 4.0))]
    return cascades(study, options, metric, 0.01)


def test_a_cascade_is_of_all_seeds_and_of_the_metric_by_hand(study: Study) -> None:
    """Seed 0 asks the large one for 10 of 40 images, seed 1 for 20: 37.5 %, and 1 + 0.375 x 4 ms."""
    for metric in ("accuracy", "macro_f1"):
        (found,) = _found(study, small_ms=1.0, metric=metric)
        assert found["escalated"] == 0.375
        assert found["mean_latency_ms"] == 2.5
        assert (found["metric"]["value"], found["metric"]["images"], found["metric"]["seeds"]) == (1, 40, 2)
        assert found["metric"]["low"] < 1
        assert found["large_metric"]["value"] == 1
        assert all(0.2 < threshold < 0.8 for threshold in found["thresholds"].values())


def test_the_report_shows_faster_cascades_and_says_what_of(study: Study) -> None:
    """At 3 ms the small size and 37.5 % of 4 ms are 4.5 ms: the large one alone takes 4."""
    answer = {"delta": 0.01, "select_split": "val", "report_split": "test"}
    name = metric_name("macro_f1")
    assert cascades_table({"recommendation": answer, "cascades": list(_found(study, small_ms=3.0))}, name) is None
    table = cascades_table({"recommendation": answer, "cascades": list(_found(study, small_ms=1.0))}, name)
    assert table is not None
    assert "on test (40 images, 2 seeds), 95 % intervals over images and seeds" in table.caption
    assert "loses at most 0.01 of macro F1 on val" in table.caption
    named = dict(zip(table.columns, table.rows[0], strict=True))
    assert named["cascade"] == "a: 32, then 64 px"
    assert named["escalated"]["text"] == "38 %"
    assert named["mean ms an image"]["text"] == "2.50"
    assert named["macro F1"]["text"].startswith("1.000 (0.")
