"""Many runs in one process: none leaves its record in memory (benchmarks/soak.py measures what else might stay)."""

import gc

import pytest
import torch

from resomap import load_config, run_study
from resomap.errors import TrainingDivergedError
from resomap.records import RunRecord
from resomap.study import failed_runs
from resomap.study.progress import StudyProgress


class Kept(StudyProgress):
    """How many records of runs this process holds after each run."""

    def __init__(self):
        self.counts = []

    def run_ended(self, record):
        gc.collect()
        self.counts.append(sum(type(each) is RunRecord for each in gc.get_objects()))


@pytest.fixture
def config(tmp_path, make_images):
    threads = torch.get_num_threads()
    yield load_config(
        overrides=[
            f"data.source={make_images(tmp_path / 'data')}", f"data.cache_dir={tmp_path}/cache", "data.workers=0",
            f"study.output={tmp_path}/study", "mlflow.enabled=false", "system.device=cpu", "sweep.models=[tiny_cnn]",
            "sweep.resolutions=[32]", "sweep.seeds=[0,1,2,3]", "training.epochs=1", "training.batch_size=8",
        ]
    )  # fmt: skip
    torch.set_num_threads(threads)


def test_a_study_keeps_no_record_of_a_run_that_has_ended(config):
    kept = Kept()
    result = run_study(config, progress=kept)
    assert len(set(kept.counts)) == 1  # that of the run which has just ended, however many came before
    assert [record.cell for record in result.read_records()] == list(result.cells)
    assert all(record.status == "finished" and record.metrics for record in result.read_records())
    again = run_study(config)
    assert again.read_records() == result.read_records()
    assert again.failed == ()


def test_failures_stay_at_hand(config, monkeypatch):
    whole = failed_runs.run_cell

    def run_cell(context, cell, **options):
        if cell.seed == 1:
            raise TrainingDivergedError("the loss became nan")
        return whole(context, cell, **options)

    monkeypatch.setattr(failed_runs, "run_cell", run_cell)
    result = run_study(config)
    assert [record.cell.seed for record in result.failed] == [1]
    assert [record.status for record in result.read_records()] == ["finished", "failed", "finished", "finished"]
    monkeypatch.undo()
    result = run_study(config)  # the failed one is tried anew
    assert result.failed == ()
    assert {record.status for record in result.read_records()} == {"finished"}
