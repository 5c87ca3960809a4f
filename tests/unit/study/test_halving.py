"""Successive halving on planted answers."""

import numpy as np
import pytest

from resomap.records import Cell, EpochRecord, Predictions
from resomap.study.halving import DominatedStopping, Rung, read_rung, rung_epochs, write_rung


class OneRank:
    stopped = False

    def on_main(self, work):
        return work()

    def stop_early(self):
        self.stopped = True


def answers(right, images=200):
    labels = np.zeros(images, np.int64)
    probabilities = np.tile(np.array([[0.9, 0.1]], np.float32), (images, 1))
    probabilities[right:] = [0.1, 0.9]
    return Predictions(np.array([f"{i}.png" for i in range(images)]), labels, probabilities, ("a", "b"))


@pytest.fixture
def study(tmp_path):
    """look(side, right, ...) of 200 at one epoch: did the run stop, and why."""
    cells = [Cell("net", side, 0) for side in (32, 64, 96)]

    def look(side, right, *, epoch=2, images=200, epochs=8, comparisons=6):
        cell, trainer = Cell("net", side, 0), OneRank()
        halving = DominatedStopping(
            cell, epochs=epochs, key=f"key{side}", protected=side == 96, comparisons=comparisons, delta=0.05,
            answer=lambda: answers(right, images), path_of=lambda c, rung: tmp_path / f"{c.resolution}-{rung}.json",
            others=lambda: [(c, f"key{c.resolution}") for c in cells if c != cell],
        )  # fmt: skip
        record = EpochRecord(epoch, 1.0, 0.5, 1e-3, 1.0, 1.0, None)
        halving.on_epoch_end(trainer, record)
        assert trainer.stopped == (halving.reason is not None)
        return halving.reason

    return look


@pytest.mark.parametrize(("epochs", "expected"), [(8, {2: 4, 4: 2}), (4, {1: 4, 2: 2}), (3, {1: 2}), (1, {})])
def test_rungs_are_a_quarter_and_half_of_the_training(epochs, expected):
    assert rung_epochs(epochs) == expected


def test_a_dominated_run_stops_and_says_by_whom(study):
    assert study(96, 190) is None
    reason = study(32, 110)
    assert reason.startswith("dominated after epoch 2: validation accuracy 0.550, net @96 seed 0 had 0.950 there")


def test_runs_go_on_without_proof(study):
    assert study(32, 110) is None, "nothing to compare with yet"
    assert study(96, 190) is None
    assert study(64, 178) is None, "6 points lower: not shown to be more than 5"
    assert study(32, 110, epoch=3) is None, "not a rung"
    assert study(32, 110, epoch=4) is None, "nobody was there at half of the training"
    assert study(32, 110, images=100) is None, "other images"


def test_the_largest_resolution_never_stops(study):
    study(64, 198)
    assert study(96, 20) is None


def test_answers_of_a_run_with_other_settings_do_not_count(tmp_path):
    path, cell = tmp_path / "r.json", Cell("net", 32, 0)
    write_rung(path, Rung(cell, "now", "ids", np.array([True, False])))
    assert read_rung(path, cell, "now").right_N.tolist() == [True, False]
    assert read_rung(path, cell, "before") is None
    assert read_rung(tmp_path / "none.json", cell, "now") is None
