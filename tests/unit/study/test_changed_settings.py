"""Stored runs beside what a configuration asks for."""

import sys
from dataclasses import replace

import pytest

from resomap.errors import ConfigError
from resomap.models.user_callable import code_of
from resomap.records import Cell
from resomap.study import build
from resomap.study.changed_settings import changed_runs, changes_in_words
from resomap.study.runs import write_run

MATCHED = {"epochs": 2, "budget": "compute_matched"}


def test_a_model_named_by_a_stored_run_is_never_built(tmp_path, make_context, store_run, monkeypatch):
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\ndef make(num_classes): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    context = make_context(training=MATCHED)
    record = store_run(context, context.cells[0])
    for model in ("planted:make", "no_such_model"):
        foreign = replace(record, cell=Cell(model, 32, 0))
        write_run(context.layout.run_record_path(foreign.cell, "custom"), foreign)
    assert changed_runs(context) == []
    assert not (tmp_path / "sprung").exists()
    assert "planted" not in sys.modules

    # Nor for the budget of a planned one, where it is not allowed.
    with pytest.raises(ConfigError, match="planted:make runs code of yours; allow it with"):
        build.epochs_at(context.config, "planted:make", 32, reference=64)
    assert not (tmp_path / "sprung").exists()


def test_other_epochs_are_seen_in_runs_that_are_no_longer_planned(make_context, store_run):
    before = make_context(training=MATCHED)
    store_run(before, before.cells[0])
    longer = make_context(training=MATCHED | {"epochs": 3})
    assert changed_runs(longer)[0][1] == ["training.epochs: 2 -> 3", "epochs: 8 -> 12"]
    other = make_context(training=MATCHED | {"epochs": 3},
                         sweep={"models": ["tiny_cnn"], "resolutions": [64], "seeds": [0]})  # fmt: skip
    assert changed_runs(other)[0][1] == ["training.epochs: 2 -> 3"]


NETWORK = """
from torch import nn


def make(num_classes):
    {doc}
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(nn.Conv2d(3, {width}, 3), *pooled, nn.Linear({width}, num_classes))
"""


def test_a_models_own_code_is_part_of_what_made_a_run(tmp_path, make_context, store_run, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    sweep = {"models": ["grown:make"], "resolutions": [32], "seeds": [0]}

    def context(width, doc):
        """As a new process has it."""
        (tmp_path / "grown.py").write_text(NETWORK.format(width=width, doc=doc))
        sys.modules.pop("grown", None)
        code_of.cache_clear()
        return make_context(sweep=sweep, models={"allow_callables": True})

    before = context(8, "# small")
    store_run(before, before.cells[0])
    assert changed_runs(context(8, '"""Small."""')) == []  # words are no change
    wider = context(16, "# wider")
    ((_, lines),) = changed_runs(wider)
    assert changes_in_words(lines, wider.layout, wider.images) == ["the code of the model's module is another"]


def test_the_loss_by_which_runs_are_stopped_is_a_setting_of_theirs(make_context, store_run):
    for stops, expected in ((True, ["analysis.delta: 0.02 -> 0.1"]), (False, [])):
        training = {"epochs": 8, "successive_halving": stops}
        before = make_context(training=training, analysis={"delta": 0.02})
        record = store_run(before, before.cells[0])
        assert make_context(training=training, analysis={"delta": 0.02}).changes(record) == []
        assert make_context(training=training, analysis={"delta": 0.1}).changes(record) == expected
