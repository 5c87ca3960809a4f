"""Successive halving on planted answers."""

import hashlib

import numpy as np
import pytest

from resomap.records import Cell, EpochRecord, Predictions
from resomap.serialize import digest
from resomap.study.halving import DominatedStopping, Rung, read_rung, rung_epochs, write_rung
from resomap.study.run import _halving


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


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": "key96"}', '{"key": "key96", "images": 1, "right": 3}'])
def test_a_damaged_file_of_another_run_is_passed_over(tmp_path, study, caplog, text):
    assert study(96, 190) is None
    assert study(64, 190) is None
    (tmp_path / "96-4.json").write_text(text)
    assert "net @64 seed 0 had 0.950 there" in study(32, 110)
    assert "net @96 seed 0 is not compared with: " in caplog.text


def test_answers_of_another_length_are_passed_over(tmp_path, study):
    assert study(96, 190) is None
    path = tmp_path / "96-4.json"
    path.write_text(path.read_text().replace('"right": "1', '"right": "'))
    assert study(32, 110) is None


def test_the_guard_counts_every_comparison(make_context):
    context = make_context(
        training={"successive_halving": True},
        sweep={"models": ["tiny_cnn", "simple_cnn"], "resolutions": [32, 64], "seeds": [0, 1]},
    )
    [halving] = _halving(context, context.cells[0], network=None)
    # Eight runs are looked at twice, each time beside the best of three others.
    assert halving.level == pytest.approx(1 - 0.05 / (8 * 2 * 3))


def sweep(*sides):
    return {"models": ["tiny_cnn"], "resolutions": list(sides), "seeds": [0]}


def leave_rung(context, record, right):
    """As if that run had `right` of 200 images right a quarter into its training."""
    path = context.layout.rung_path(record.cell, "cnn", 4)
    write_rung(path, Rung(record.cell, record.key, digest(answers(right).image_ids), np.arange(200) < right))


def stops(context, cell, right):
    """Why the run stops a quarter into its training, with so many of 200 images right; None: it goes on."""
    [halving] = _halving(context, cell, network=None)
    halving._answer = lambda: answers(right)
    halving.on_epoch_end(OneRank(), EpochRecord(2, 1.0, 0.5, 1e-3, 1.0, 1.0, None))
    return halving.reason


def test_runs_of_an_earlier_start_are_compared_with_and_counted(make_context, store_run):
    settings = {"training": {"successive_halving": True, "epochs": 8}}
    first = make_context(sweep=sweep(64), **settings)
    leave_rung(first, store_run(first, first.cells[0]), 190)
    later = make_context(sweep=sweep(32, 24), **settings)
    [halving] = _halving(later, later.cells[0], network=None)
    assert halving.level == pytest.approx(1 - 0.05 / (3 * 2 * 2)), "three runs of the study, each beside two others"
    assert "tiny_cnn @64 seed 0 had 0.950 there" in stops(later, later.cells[0], 110)
    largest = make_context(sweep=sweep(32, 96), **settings)
    assert stops(largest, largest.cells[0], 20) is None, "the largest of the study"
    assert stops(first, first.cells[0], 20) is None, "alone in its start, and the study's largest"


def test_a_run_that_has_failed_stops_no_other(make_context, store_run):
    context = make_context(sweep=sweep(24, 32, 64), training={"successive_halving": True, "epochs": 8})
    largest, middle, smallest = context.cells
    leave_rung(context, store_run(context, largest, status="running"), 198)
    assert "tiny_cnn @64 seed 0 had" in stops(context, middle, 110)
    store_run(context, largest, status="failed")
    assert stops(context, middle, 110) is None
    store_run(context, middle)
    assert stops(context, smallest, 100) is None, "beside 110 of 200"
    assert "tiny_cnn @32 seed 0 had" in stops(context, smallest, 20)


def test_a_damaged_record_of_another_run_is_passed_over(make_context, store_run, caplog):
    context = make_context(training={"successive_halving": True, "epochs": 8})
    largest, smallest = context.cells
    leave_rung(context, store_run(context, largest), 198)
    context.record_path(largest).write_text("{")
    assert stops(context, smallest, 110) is None
    assert "tiny_cnn @64 seed 0 is not compared with: " in caplog.text


def test_a_weights_file_is_read_once(tmp_path, make_context, monkeypatch):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"one")
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: read.append(1) or digest(*given))
    context = make_context(models={"pretrained": str(weights)})
    keys = [context.key(context.cells[0]) for _ in range(3)]
    assert len(read) == 1
    weights.write_bytes(b"other")
    assert context.key(context.cells[0]) != keys[0]
