"""Networks are repaired as they were trained: images of an update and images at once are the run's own."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from resomap.errors import StudyError
from resomap.models.weights import classifier_names
from resomap.records import Preprocessing, TunedSettings
from resomap.study import build
from resomap.study.cross_resolution import repaired
from resomap.study.same_settings import check_settings, config_of_run
from resomap.study.shared_micro_batch import Limit
from resomap.training.ranks import Ranks


@pytest.mark.parametrize(
    ("training", "tuned", "limit", "expected"),
    [
        ({}, None, None, 16),
        ({}, 4, None, 4),
        ({"micro_batch": 8}, 4, None, 8),
        ({"micro_batch": 8}, None, 2, 2),
        ({}, None, 2, 2),
    ],
)
def test_images_at_once_are_the_run_s(make_context, store_run, training, tuned, limit, expected) -> None:
    choice = None if tuned is None else {"tiny_cnn": TunedSettings("no", tuned, {}, 1)}
    context = make_context(training={"batch_size": 16} | training, tuned=choice)
    context = replace(context, limit=None if limit is None else Limit(limit))
    named = {} if limit is None else {"micro_batch_limit": {"images": limit, "is_proven": True}}
    record = store_run(context, context.cells[0], provenance=named)
    assert build.micro_batch(config_of_run(context.config, record), Ranks()) == expected


def test_the_classifier_makes_as_many_steps_with_fewer_images_at_once(tmp_path, make_images, make_context) -> None:
    source = str(make_images(tmp_path / "data", splits={"train": 8, "val": 2}, size=(16, 16)))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    checkpoint = SimpleNamespace(model=network, preprocessing=Preprocessing(16, "bilinear", (0.5,) * 3, (0.25,) * 3))
    (head,) = classifier_names(network)
    found = []
    for micro in (8, 3):
        config = make_context(training={"batch_size": 8, "micro_batch": micro}, data={"source": source}).config
        trained = repaired(config, checkpoint, build.dataset(config), 8, "head_finetuned", device="cpu")
        found.append(trained.get_submodule(head).weight)
    torch.testing.assert_close(found[0], found[1])
    # Two updates of at most the rate each.
    assert 0 < (found[0] - network.get_submodule(head).weight).abs().max().item() < 2.1e-3


@pytest.mark.parametrize(
    ("training", "system", "named"),
    [
        ({"batch_size": 4}, {}, "training.batch_size: 16 -> 4; training.micro_batch: 16 -> 4"),
        ({"micro_batch": 8}, {}, "training.micro_batch: 16 -> 8"),
        ({}, {"mixed_precision": "bf16"}, 'system.mixed_precision: "no" -> "bf16"'),
    ],
)
def test_a_setting_that_the_answers_depend_on_is_named(make_context, store_run, training, system, named) -> None:
    context = make_context(training={"batch_size": 16})
    record = store_run(context, context.cells[1])
    check_settings(context.config, context.layout, [record], trains=True)
    changed = make_context(training={"batch_size": 16} | training, system=system).config
    with pytest.raises(StudyError) as refused:
        check_settings(changed, context.layout, [record], trains=True)
    assert f"(stored -> asked for, first tiny_cnn @64 seed 0): {named}. " in str(refused.value)
    if training:  # networks as trained answer alike however many images they are given at once
        check_settings(changed, context.layout, [record], trains=False)


def test_precision_left_open_is_the_run_s(make_context, store_run) -> None:
    context = make_context(precision="bf16")
    record = store_run(context, context.cells[0])
    check_settings(context.config, context.layout, [record], trains=True)
    assert build.device_and_precision(config_of_run(context.config, record)) == ("cpu", "bf16")


def test_a_micro_batch_that_memory_or_processes_made_smaller_is_no_change(make_context, store_run) -> None:
    context = make_context(training={"batch_size": 16, "micro_batch": 8})
    limited, spread = replace(context, limit=Limit(2)), replace(context, ranks=Ranks(world_size=4))
    named = {"micro_batch_limit": {"images": 2, "is_proven": True}}
    records = [
        store_run(limited, context.cells[0], provenance=named),
        store_run(spread, context.cells[1], provenance={"processes": 4}),
    ]
    assert [r.determinants["protocol"]["training"]["micro_batch"] for r in records] == [2, 4]
    check_settings(context.config, context.layout, records, trains=True)
