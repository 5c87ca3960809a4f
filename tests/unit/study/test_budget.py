"""Compute-matched: one reference resolution for a study, whoever trains what."""

import json
import os
import subprocess
import sys

import pytest

from resomap.errors import ConfigError
from resomap.lease import _start_of, this_process
from resomap.serialize import write_json
from resomap.study import build
from resomap.study.budget_reference import settle_reference, stored_reference
from resomap.study.changed_settings import changed_runs, discard

MATCHED = {"epochs": 2, "budget": "compute_matched"}


def sweep(*sides):
    return {"models": ["tiny_cnn"], "resolutions": list(sides), "seeds": [0]}


def test_a_process_with_other_resolutions_trains_as_long(make_context, store_run):
    first = make_context(training=MATCHED)
    assert settle_reference(first) == 64
    smaller, larger = make_context(training=MATCHED, sweep=sweep(32)), make_context(training=MATCHED, sweep=sweep(128))
    for joined in (smaller, larger):
        assert settle_reference(joined) == joined.budget_reference == 64
    assert smaller.epochs(smaller.cells[0]) == first.epochs(first.cells[0]) == 8
    assert smaller.key(smaller.cells[0]) == first.key(first.cells[0])
    assert larger.epochs(larger.cells[0]) == 1
    store_run(first, first.cells[1])
    assert changed_runs(smaller) == changed_runs(larger) == []


@pytest.mark.parametrize("text", [None, "", "[]", '{"resolution": "64"}', '{"resolution": -1}'])
def test_a_lost_or_damaged_file_is_made_up_for(make_context, store_run, text):
    first = make_context(training=MATCHED)
    settle_reference(first)
    store_run(first, first.cells[0])
    path = first.layout.budget_path
    path.unlink() if text is None else path.write_text(text)
    assert stored_reference(first.layout) == 64
    assert settle_reference(make_context(training=MATCHED, sweep=sweep(32))) == 64
    assert json.loads(path.read_text()) == {"resolution": 64}


def test_a_study_whose_runs_are_discarded_begins_anew(make_context, store_run):
    first = make_context(training=MATCHED)
    settle_reference(first)
    discard(first, [store_run(first, first.cells[0])])
    assert settle_reference(make_context(training=MATCHED, sweep=sweep(32))) == 32


def test_what_a_start_chose_that_ended_before_its_first_run_is_nobody_s(make_context, store_run):
    child = subprocess.Popen([sys.executable, "-c", ""])
    ended = this_process() | {"pid": child.pid, "start": 1}
    child.wait()
    alive, elsewhere = this_process() | {"pid": os.getppid(), "start": _start_of(os.getppid())}, {"machine": "another"}
    first = make_context(training=MATCHED, sweep=sweep(96))
    for users, expected in (([ended], 32), ([ended, alive], 96), ([elsewhere], 96), ([], 32)):
        write_json(first.layout.budget_path, {"resolution": 96, "users": users})
        later = make_context(training=MATCHED, sweep=sweep(24, 32))
        assert settle_reference(later) == later.budget_reference == expected
        kept = json.loads(first.layout.budget_path.read_text())["users"]
        assert kept == [user for user in users if user is not ended] + [this_process()]
    store_run(first, first.cells[0], status="running")
    write_json(first.layout.budget_path, {"resolution": 96, "users": [ended]})
    assert settle_reference(make_context(training=MATCHED, sweep=sweep(24, 32))) == 96
    assert json.loads(first.layout.budget_path.read_text()) == {"resolution": 96}


def test_equal_updates_have_no_reference(make_context):
    context = make_context(training={"epochs": 2})
    assert settle_reference(context) is None
    assert not context.layout.budget_path.exists()


def test_the_schedule_is_stretched_with_the_epochs(make_context):
    more = {"warmup_epochs": 0.5, "step_epochs": 3, "early_stopping_patience": 2, "schedule": "exponential"}
    context = make_context(training=MATCHED | more)
    small, large = (context.config_of(cell).training for cell in context.cells)
    assert (large.epochs, large.warmup_epochs, large.step_epochs, large.gamma) == (2, 0.5, 3, 0.1)
    assert (small.epochs, small.warmup_epochs, small.step_epochs, small.early_stopping_patience) == (8, 2.0, 12, 8)
    assert small.gamma**small.epochs == pytest.approx(large.gamma**large.epochs)


def test_successive_halving_is_refused_where_workers_see_no_others(make_context):
    config = make_context(training={"successive_halving": True}, system={"executor": "ray"}).config
    with pytest.raises(ConfigError, match=r"successive_halving .*system\.executor ray"):
        build.check_processes(config, launched=1)
