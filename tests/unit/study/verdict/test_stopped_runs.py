"""Runs that successive halving stopped are shown, and never assessed."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from resomap.errors import StudyError
from resomap.evaluation.store import write_predictions
from resomap.layout import StudyLayout
from resomap.records import Cell, Condition, Predictions, RunRecord
from resomap.serialize import write_json
from resomap.study.load import Study
from resomap.study.reporting.paper_figures import _results
from resomap.study.results import assessed_rows, rows_of_run
from resomap.study.runs import assessed_runs, write_run
from resomap.study.verdict import evidence
from resomap.study.verdict.verdict import study_options

SIDES, SEEDS = (32, 64, 96), (0, 1, 2)


@pytest.fixture
def study(tmp_path, write_profile):
    """tiny_cnn at three resolutions with three seeds, of which one was stopped at 64."""
    layout = StudyLayout(tmp_path)
    rng = np.random.default_rng(0)
    timed = {"mode": "eager", "protocol": "batch1", "median_ms": 1.0, "block_medians_ms": [1.0, 1.0]}
    for side in SIDES:
        write_profile(layout, "tiny_cnn", side, [timed])
        for seed in SEEDS:
            cell = Cell("tiny_cnn", side, seed)
            reason = "dominated" if (side, seed) == (64, 1) else None
            record = RunRecord(cell, "cnn", "k", {}, "finished", stopped=reason)
            write_run(layout.run_record_path(cell, "cnn"), record)
            for split in ("val", "test"):
                condition = Condition(split, side, side)
                answers = Predictions(np.array([f"{i}" for i in range(40)]), np.arange(40) % 2,
                                      rng.dirichlet([1, 1], 40).astype(np.float32), ("a", "b"))  # fmt: skip
                write_predictions(layout.predictions_path(cell, condition), answers, cell=cell, condition=condition)
    write_json(layout.results_json_path, {"study": {"class_names": ["a", "b"], "images": {"test": 40}, "notes": []}})
    return Study(layout)


def test_a_resolution_with_one_stopped_seed_is_nowhere_assessed(study):
    assert study.stopped == {("tiny_cnn", 64): "1 of 3 runs"}
    assert study.grid == {"tiny_cnn": ((32, 96), SEEDS)}
    assert [option.resolution for option in study_options(study, metric="accuracy")] == [32, 96]
    pairs = [(row["low_resolution"], row["high_resolution"]) for row in evidence.comparisons(study, "accuracy")]
    assert pairs == [(32, 96)]
    assert {run.cell.resolution for run in assessed_runs(study.runs)} == {32, 96}


def test_tables_leave_it_out(study):
    rows = assessed_rows(pd.DataFrame([row for record in study.runs for row in rows_of_run(record)]))
    assert sorted(rows["resolution"].unique()) == [32, 96]
    assert len(rows) == 6
    without = pd.DataFrame({"model": ["a"], "resolution": [32]})
    assert assessed_rows(without) is without


def test_where_all_are_stopped_they_are_named_and_nothing_is_drawn(study):
    records = [replace(record, stopped="dominated") for record in study.runs if record.cell.resolution != 96]
    for record in records:
        write_run(study.layout.run_record_path(record.cell, "cnn"), record)
    failed = [replace(record, status="failed") for record in study.runs if record.cell.resolution == 96]
    for record in failed:
        write_run(study.layout.run_record_path(record.cell, "cnn"), record)
    again = Study(study.layout)
    with pytest.raises(StudyError) as refused:
        _ = again.compared
    assert str(refused.value) == (
        "no model has a seed that is finished at two of its resolutions (stopped, not assessed: tiny_cnn @32 (3 of 3 "
        "runs), tiny_cnn @64 (3 of 3 runs)); run the study to its end"
    )
    rows = pd.DataFrame([row for record in [*records, *failed] for row in rows_of_run(record)]).assign(
        split="test", accuracy=0.5
    )
    study.layout.results_csv_path.write_text(rows.to_csv(index=False))
    assert _results(study.layout) is None
