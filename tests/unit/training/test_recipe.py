from __future__ import annotations

from typing import Any

import pytest

from resomap.errors import ConfigError
from resomap.training.recipe import Recipe

FINE: dict[str, Any] = {
    "epochs": 3, "optimizer": "adamw", "learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.9,
    "schedule": "cosine", "warmup_epochs": 1.0, "step_epochs": 1, "gamma": 0.1, "plateau_patience": 1,
    "label_smoothing": 0.0, "class_weights": (1.0, 0.0), "clip_grad_norm": None, "seed": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("optimizer", "lamb"),
        ("schedule", "linear"),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -0.1),
        ("momentum", 1.0),
        ("warmup_epochs", -1.0),
        ("warmup_epochs", 3.5),
        ("step_epochs", 0),
        ("gamma", 1.0),
        ("plateau_patience", 0),
        ("label_smoothing", 1.0),
        ("class_weights", (1.0, -1.0)),
        ("clip_grad_norm", 0.0),
    ],
)
def test_recipe_names_the_setting_out_of_range(name, value):
    with pytest.raises(ConfigError, match=rf"training\.{name}: expected"):
        Recipe(**FINE | {name: value})


def test_recipe_warms_up_for_all_epochs_at_most():
    assert Recipe(**FINE | {"warmup_epochs": 3.0}).curve(4).warmup_updates == 11
    with pytest.raises(ConfigError, match=r"warmup_epochs: expected from 0 to the 3 epochs, got 10"):
        Recipe(**FINE | {"warmup_epochs": 10})


def test_recipe_names_all_problems_together():
    with pytest.raises(ConfigError) as caught:
        Recipe(**FINE | {"epochs": 0, "gamma": 2.0})
    assert len(caught.value.problems) == 2


def test_recipe_curve_warms_up_in_updates():
    curve = Recipe(**FINE).curve(updates_per_epoch=4)
    assert (curve.total_updates, curve.warmup_updates) == (12, 4)
