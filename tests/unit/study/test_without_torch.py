"""Reading a finished study takes no torch, which loads for seconds."""

import subprocess
import sys

import numpy as np
import pytest

from resomap.evaluation.store import write_predictions
from resomap.layout import StudyLayout
from resomap.records import Cell, Condition, Predictions, RunRecord
from resomap.serialize import write_json
from resomap.study.runs import write_run

READER = """
import sys
import resomap
study = resomap.load_study(sys.argv[1])
assert study.values("tiny_cnn", "test", "accuracy").shape == (2, 1, 4)
assert study.latency["median_ms"].tolist() == [1.0, 1.0]
from resomap.study.verdict.verdict import study_options
print(*[option.resolution for option in study_options(study, metric="accuracy")])
print(*sorted({"torch", "torchvision", "timm"} & set(sys.modules)))
"""


@pytest.fixture
def study(tmp_path, write_profile):
    """tiny_cnn at 32 and 64 with one seed."""
    layout = StudyLayout(tmp_path)
    timed = {"mode": "eager", "protocol": "batch1", "median_ms": 1.0, "block_medians_ms": [1.0, 1.0]}
    for side in (32, 64):
        cell = Cell("tiny_cnn", side, 0)
        write_profile(layout, "tiny_cnn", side, [timed])
        write_run(layout.run_record_path(cell, "cnn"), RunRecord(cell, "cnn", "k", {}, "finished"))
        for split in ("val", "test"):
            condition = Condition(split, side, side)
            halves = np.full((4, 2), 0.5, dtype=np.float32)
            answers = Predictions(np.array(list("abcd")), np.arange(4) % 2, halves, ("a", "b"))
            write_predictions(layout.predictions_path(cell, condition), answers, cell=cell, condition=condition)
    write_json(layout.results_json_path, {"study": {"class_names": ["a", "b"], "images": {"test": 4}, "notes": []}})
    return tmp_path


def test_a_stored_study_is_read_without_torch(study):
    done = subprocess.run([sys.executable, "-c", READER, study], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout) == ("", "32 64\n\n")
