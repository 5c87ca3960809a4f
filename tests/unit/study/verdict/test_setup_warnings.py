"""What a reader of the results must know is about the study, not about the last command."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from resomap.records import Cell, EpochRecord
from resomap.serialize import read_json
from resomap.study.budget_reference import settle_reference
from resomap.study.plan import held_cells
from resomap.study.sweep import _collect
from resomap.study.verdict.setup_warnings import study_notes


@pytest.fixture
def stores():
    """Ten images of 100 px."""
    return {"test": SimpleNamespace(images=range(10), bad_files=(), sizes=np.full((10, 2), 100))}


def sweep(resolutions, seeds):
    return {"models": ["tiny_cnn"], "resolutions": resolutions, "seeds": seeds}


@pytest.fixture
def extended(make_context, store_run, stores):
    """A study of 64 and 512 px with three seeds, started again for one more seed at 64 px."""
    first = make_context(sweep=sweep([64, 512], [0, 1, 2]), stores=stores)
    for cell in first.cells:
        store_run(first, cell)
    return make_context(sweep=sweep([64], [3]), stores=stores)


def test_notes_are_about_the_study_not_the_last_command(extended):
    (note,) = study_notes(extended, held_cells(extended))
    assert note == "100% of the images are smaller than 512 px and were enlarged"
    _collect(extended)
    stored = read_json(extended.layout.results_json_path, error=ValueError)["study"]
    assert stored["notes"] == [note]
    assert stored["upsampled_share"] == {"64": 0.0, "512": 1.0}


def test_a_resolution_with_few_seeds_is_named(make_context, store_run, stores):
    first = make_context(sweep=sweep([32, 64], [0, 1, 2]), stores=stores)
    for cell in first.cells:
        store_run(first, cell, status="failed" if cell == Cell("tiny_cnn", 64, 1) else "finished")
    (note,) = study_notes(again := make_context(sweep=sweep([32], [0]), stores=stores), held_cells(again))
    assert note == "fewer than 3 seeds of tiny_cnn @64: differences between resolutions may be chance"
    (note,) = study_notes(again, {Cell("tiny_cnn", side, 0): 2 for side in (32, 64)})
    assert note == "fewer than 3 seeds: differences between resolutions may be chance"


def test_runs_that_are_not_planned_are_named_with_the_epochs_they_had(make_context, store_run, stores):
    matched = {"epochs": 1, "budget": "compute_matched"}
    first = make_context(sweep=sweep([32, 64], [0, 1, 2]), training=matched, stores=stores)
    epochs = [EpochRecord(number, 1.0, 0.5, 1e-3, 1.0, 1.0, None) for number in range(4)]
    for cell in first.cells:
        store_run(first, cell, epochs=tuple(epochs[: first.epochs(cell)]))
    again = make_context(sweep=sweep([64], [0]), training=matched, stores=stores)
    assert "(tiny_cnn epochs @32: 4, @64: 1)" in "".join(study_notes(again, held_cells(again)))


def test_computation_that_whole_epochs_leave_uneven_is_named(make_context, store_run, stores):
    """tiny_cnn's operations go with its pixels: two epochs at 16 px are an eighth of one at 64 px."""
    matched = {"epochs": 2, "budget": "compute_matched"}
    first = make_context(sweep=sweep([16], [0, 1, 2]), training=matched, stores=stores)
    for cell in first.cells:
        store_run(first, cell)
    settle_reference(first)
    later = make_context(sweep=sweep([64], [0, 1, 2]), training=matched, stores=stores)
    (note,) = study_notes(later, {Cell("tiny_cnn", side, seed): 2 for side in (16, 64) for seed in range(3)})
    assert note.endswith(
        ": training length differs too; epochs are whole, so it is not the same: tiny_cnn @64 has 8 times the "
        "computation of @16"
    )
    # 9/4 of four epochs is nine, of one it is 2.25: 2 is 0.89 of that, which is named, 9 is not.
    for epochs, told in ((4, False), (1, True)):
        even = make_context(sweep=sweep([16, 24], [0, 1, 2]), training=matched | {"epochs": epochs}, stores=stores)
        even = replace(even, budget_reference=24)
        (note,) = study_notes(even, dict.fromkeys(even.cells, 1))
        assert note.endswith(": tiny_cnn @16 has 0.89 times the computation of @24") == told
        assert note.endswith("training length differs too") != told
