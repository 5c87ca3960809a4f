from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from resomap.errors import StudyError
from resomap.evaluation.store import write_predictions
from resomap.layout import StudyLayout
from resomap.records import Cell, Condition, EpochRecord, Predictions, RunRecord
from resomap.serialize import to_json
from resomap.study import runs
from resomap.study.load import load_study
from resomap.study.results import rows_of_run, write_results
from resomap.study.runs import read_run, stored_runs, write_run
from resomap.study.status import study_status


def epoch(number: int, *, seconds: float = 2.0) -> EpochRecord:
    return EpochRecord(
        epoch=number,
        train_loss=0.5,
        train_accuracy=0.75,
        learning_rate=1e-3,
        seconds=seconds,
        images_per_s=10.0 * number,
        peak_memory_mib=None,
        val={"loss": 0.6},
    )


def run(seed: int = 0, status: str = "finished", **fields: object) -> RunRecord:
    condition = {"split": "test", "accuracy": 0.9, "per_class": [{"class": "a"}], "confusion_matrix": [[1]]}
    values: dict[str, object] = {
        "cell": Cell("tiny_cnn", 32, seed),
        "family": "cnn",
        "key": "k",
        "determinants": {"protocol": {"epochs": 2}},
        "status": status,
        "epochs": (epoch(1), epoch(2)),
        "metrics": {"test-in32-info32-as_trained": condition} if status == "finished" else {},
    }
    return RunRecord(**(values | fields))  # type: ignore[arg-type]


def test_read_run_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_run(path, run())
    assert read_run(path) == run()
    assert read_run(tmp_path / "none.json") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"status": "odd"}', '{"cell": 3}', "null"])
def test_read_run_names_a_damaged_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(StudyError, match=r"run\.json.*delete it and run again"):
        read_run(path)


def test_stored_runs_skips_a_damaged_record_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layout = StudyLayout(tmp_path)
    write_run(layout.run_record_path(run().cell, "cnn"), run())
    broken = layout.run_record_path(run(seed=1).cell, "cnn")
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    with caplog.at_level(logging.WARNING):
        assert list(stored_runs(layout)) == [run()]
    assert "seed1" in caplog.text


def test_stored_runs_are_ordered_by_model_resolution_and_seed_as_numbers(tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path)
    cells = [Cell("a_net", 224, 0), Cell("tiny_cnn", 32, 2), Cell("tiny_cnn", 32, 10), Cell("tiny_cnn", 224, 1)]
    for cell, family in zip(reversed(cells), ("cnn", "cnn", "cnn", "zeta"), strict=True):
        write_run(layout.run_record_path(cell, family), run(cell=cell))
    assert [record.cell for record in stored_runs(layout)] == cells


def test_stored_runs_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, read = StudyLayout(tmp_path), []
    for seed in range(3):
        write_run(layout.run_record_path(run(seed).cell, "cnn"), run(seed))
    monkeypatch.setattr(runs, "read_run", lambda path: read.append(path) or read_run(path))
    records = stored_runs(layout)
    assert next(records) == run(0)
    assert len(read) == 1


def test_result_rows_one_for_each_condition_and_one_for_a_failure() -> None:
    records = [run(), run(seed=1, status="failed", error="the loss became nan", epochs=())]
    rows = [row for record in records for row in rows_of_run(record)]
    assert [(r["seed"], r["status"], r.get("accuracy")) for r in rows] == [
        (0, "finished", 0.9),
        (1, "failed", None),
    ]
    # Two epochs of 2 s; mean of 10 and 20 images/s.
    assert rows[0]["train_seconds"] == 4.0
    assert rows[0]["train_images_per_s"] == 15.0
    assert "confusion_matrix" not in rows[0]


def test_write_results_csv_and_strict_json(tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path)
    bad = run(seed=1, metrics={"x": {"split": "test", "log_loss": float("inf")}})
    write_results(layout, [run(), bad], study={"name": "s", "share": float("nan")})
    frame = pd.read_csv(layout.results_csv_path)
    assert list(frame["seed"]) == [0, 1]

    def refuse(text: str) -> object:
        raise AssertionError(f"{text} is not JSON")

    stored = json.loads(layout.results_json_path.read_text(), parse_constant=refuse)
    assert stored["study"] == {"name": "s", "share": None}
    assert stored["runs"][1]["conditions"]["x"]["log_loss"] is None


def test_results_json_is_the_text_of_the_whole(tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path)
    study = {"name": "a\u2028b\n", "notes": ()}
    for seeds in (0, 1, 3):
        records = [run(seed, error="two\nlines []\n}") for seed in range(seeds)]
        write_results(layout, iter(records), study=study)
        text = layout.results_json_path.read_text("utf-8")
        assert text == to_json(json.loads(text)) + "\n"
        assert [stored["seed"] for stored in json.loads(text)["runs"]] == list(range(seeds))


def test_study_status_tells_the_states_apart(tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path)
    grid = json.dumps([["tiny_cnn", 32, seed] for seed in range(4)])
    layout.config_path.write_text(f"provenance: {{cells: {grid}}}\n")
    write_run(layout.run_record_path(run(0).cell, "cnn"), run(0))
    write_run(layout.run_record_path(run(1).cell, "cnn"), run(1, "failed"))
    write_run(layout.run_record_path(run(2).cell, "cnn"), run(2, "running"))
    states = {cell.seed: state for cell, state in study_status(tmp_path).cells}
    assert states == {0: "finished", 1: "failed", 2: "interrupted", 3: "waiting"}


def test_a_notebook_shows_a_study_in_one_line(tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path)
    grid = json.dumps([["tiny_cnn", side, seed] for side in (32, 64) for seed in range(3)])
    layout.config_path.write_text(f"provenance: {{cells: {grid}}}\n")
    for record in (run(0), run(1), run(2, "failed")):
        write_run(layout.run_record_path(record.cell, "cnn"), record)
    shown = f"<StudyStatus {tmp_path}: 1 model x 2 resolutions x 3 seeds; runs: 3 waiting, 2 finished, 1 failed>"
    assert repr(study_status(tmp_path)) == shown
    write_results(layout, [run(0), run(1)], study={"name": "photos", "class_names": ["x", "y"], "images": {"val": 2}})
    opened = f"<Study 'photos' in {tmp_path}: 1 model x 1 resolution x 2 seeds; runs: 2 finished, 1 failed>"
    assert repr(load_study(tmp_path)) == opened


def test_predictions_are_of_the_reported_split_unless_said_otherwise(tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path)
    layout.config_path.write_text(f"provenance: {{cells: {json.dumps([['tiny_cnn', 32, 0]])}}}\n")
    write_run(layout.run_record_path(run(0).cell, "cnn"), run(0))
    write_results(
        layout, [run(0)], study={"name": "photos", "class_names": ["x", "y"], "images": {"train": 4, "val": 2}}
    )
    stored = Predictions(np.array(["a", "b"]), np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), ("x", "y"))
    cell, condition = run(0).cell, Condition("val", 32, 32)
    write_predictions(layout.predictions_path(cell, condition), stored, cell=cell, condition=condition)
    study = load_study(tmp_path)
    for frame in (study.predictions("tiny_cnn", 32, 0), study.predictions("tiny_cnn", 32, 0, "val")):
        assert frame["prediction"].tolist() == [0, 1]
    for asked, said in (
        (("tiny_cnn", 32, 0, "test"), "^split: expected one of val, got 'test'"),
        (("resnet18", 32, 0), "^model: expected one of the finished runs', tiny_cnn; got 'resnet18'"),
        (("tiny_cnn", 64, 0), "^resolution: expected one of the finished runs', 32; got 64"),
        (("tiny_cnn", 32, 7), "^seed: expected one of the finished runs', 0; got 7"),
    ):
        with pytest.raises(StudyError, match=said):
            study.predictions(*asked)


def test_study_status_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="is not a study"):
        study_status(tmp_path)


def test_results_json_leaves_long_lists_to_the_runs(tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path)
    for classes, kept in ((100, True), (101, False)):
        lists = {"per_class": [{"class": str(k)} for k in range(classes)], "confusion_matrix": [[1]] * classes}
        write_results(layout, [run(metrics={"x": {"split": "test", "accuracy": 0.5, **lists}})], study={})
        (stored,) = json.loads(layout.results_json_path.read_text())["runs"]
        assert stored["conditions"]["x"]["accuracy"] == 0.5
        assert ("per_class" in stored["conditions"]["x"], "confusion_matrix" in stored["conditions"]["x"]) == (
            kept,
            kept,
        )
