"""A study's tuned settings are chosen once: whoever joins, and whatever is lost, never mixes two."""

import json
import shutil
from types import SimpleNamespace

import pytest

from resomap.errors import StudyError
from resomap.records import Cell, TunedSettings
from resomap.study.autotune_cache import choices_in_force, foreseen_choices, settle_tuning
from resomap.study.changed_settings import changed_runs, discard
from resomap.study.claimed_cells import settled
from resomap.training import autotune
from resomap.training.ranks import Ranks

BF16 = TunedSettings("bf16", 4, {32: True, 64: False}, effort=5, gain=2.0, seconds=0.1)
FP32 = TunedSettings("no", 32, {32: True, 64: True}, effort=5)
TUNED = {"tiny_cnn": BF16}


@pytest.fixture
def search(monkeypatch):
    """What the next search finds, and how many there were."""
    state = SimpleNamespace(found=BF16, effort=5, count=0)

    def tune(*_, **__):
        state.count += 1
        return state.found

    monkeypatch.setattr(autotune, "tune", tune)
    monkeypatch.setattr(autotune, "affordable", lambda *_, **__: state.effort)
    return state


@pytest.fixture
def context(make_context):
    stores = {split: SimpleNamespace(images=[None] * 8) for split in ("train", "val")}
    return lambda **more: make_context(stores=stores, **more)


def force(context):
    return choices_in_force(context.config, context.layout, Ranks())


def test_the_precision_of_evaluation_determines_a_run(make_context, store_run):
    on_cpu = make_context(tuned=TUNED)
    record = store_run(on_cpu, on_cpu.cells[0])
    assert record.determinants["protocol"]["system"]["evaluation_precision"] == "no"
    line = ['system.evaluation_precision: "no" -> (not set)']
    asked = make_context(tuned=TUNED, precision="bf16", system={"mixed_precision": "bf16"})
    on_gpu = make_context(tuned=TUNED, precision="bf16")
    for other in (asked, on_gpu):
        assert [lines for _, lines in changed_runs(other)] == [line]
        assert other.key(on_cpu.cells[0]) != record.key
    assert changed_runs(make_context(tuned=TUNED)) == []
    untuned = make_context()
    assert "evaluation_precision" not in untuned.determinants(untuned.cells[0])["protocol"]["system"]


def test_a_stored_choice_is_never_replaced(context, search):
    assert settle_tuning(context()) == TUNED
    search.found = FP32
    others = (
        context(sweep={"models": ["tiny_cnn"], "resolutions": [32, 96], "seeds": [0]}),
        context(system={"mixed_precision": "no"}),
        context(training={"batch_size": 16}),
    )
    for other in others:
        assert settle_tuning(other) == TUNED
    assert search.count == 1


def test_a_choice_without_a_search_is_kept_too(context, search):
    search.effort = 0
    short = settle_tuning(context())
    assert short["tiny_cnn"].effort == 0
    search.effort = 5
    assert settle_tuning(context()) == short
    assert search.count == 0


def test_a_plan_foresees_what_is_remembered_for_this_machine_and_searches_nothing(context, search):
    assert foreseen_choices(context()) == ({}, ("tiny_cnn",))
    search.effort = 0  # too short for a search: a run is not tuned
    assert foreseen_choices(context()) == ({}, ())
    search.effort = 5
    assert search.count == 0
    settle_tuning(context())
    context().layout.tuning_path.unlink()  # another study
    assert foreseen_choices(context()) == (TUNED, ())
    assert foreseen_choices(context(system={"autotune": False})) == ({}, ())
    search.effort = 6  # a longer training pays for a better search
    assert foreseen_choices(context()) == ({}, ("tiny_cnn",))
    assert search.count == 1
    assert not context().layout.tuning_path.exists()


def test_runs_of_another_process_with_other_settings_are_refused(make_context, store_run):
    ours, theirs = make_context(tuned=TUNED), make_context(tuned={"tiny_cnn": FP32})
    cell = ours.cells[0]
    store_run(theirs, cell)
    with pytest.raises(StudyError, match=r'process has run tiny_cnn @32 seed 0.*mixed_precision: "no" -> "bf16'):
        settled(ours, cell, None)


def test_what_is_not_tuned_takes_only_what_runs_were_begun_with(context, store_run, search):
    settle_tuning(context())
    off = context(system={"autotune": False})
    assert force(off) == {}
    tuned = context(tuned=TUNED)
    store_run(tuned, tuned.cells[0])
    assert force(off) == TUNED
    assert force(context(system={"deterministic": True})) == {}


def test_a_choice_goes_with_the_last_run_of_its_model(tmp_path, context, store_run, search):
    settle_tuning(context())
    tuned = context(tuned=TUNED)
    records = [store_run(tuned, cell) for cell in tuned.cells]
    discard(tuned, records[:1])
    assert force(tuned) == TUNED
    discard(tuned, records[1:])
    assert force(tuned) == {}
    shutil.rmtree(tmp_path / "cache")
    search.found = FP32
    assert settle_tuning(tuned) == {"tiny_cnn": FP32}


@pytest.mark.parametrize(
    "text", [None, "", "[]", '{"models": []}', '{"models": {"tiny_cnn": 3}}',
             '{"models": {"tiny_cnn": {"choice": {}}}}',
             '{"models": {"tiny_cnn": {"choice": {"precision": "odd", "micro_batch": 4, "channels_last": {}}}}}'],
)  # fmt: skip
def test_a_lost_or_damaged_file_is_rebuilt_from_the_runs(context, store_run, search, text):
    tuned = context(tuned=TUNED)
    store_run(tuned, tuned.cells[0])
    if text is not None:
        tuned.layout.tuning_path.write_text(text)
    assert force(tuned) == TUNED
    search.found = FP32
    assert settle_tuning(context()) == TUNED
    assert search.count == 0
    assert json.loads(tuned.layout.tuning_path.read_text())["models"]["tiny_cnn"]["choice"]["precision"] == "bf16"


def test_a_search_that_fails_costs_nobody_the_study(context, monkeypatch, search, caplog):
    def fails(*_, **__):
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(autotune, "tune", fails)
    assert settle_tuning(context())["tiny_cnn"].effort == 0
    assert "tiny_cnn is not tuned: RuntimeError('no kernel for this')" in caplog.text


def test_only_models_without_runs_are_searched_for(context, store_run, search):
    two = {"models": ["tiny_cnn", "simple_cnn"], "resolutions": [32, 64], "seeds": [0]}
    both = context(sweep=two)
    store_run(both, Cell("tiny_cnn", 32, 0))
    assert settle_tuning(both) == {"simple_cnn": BF16}
