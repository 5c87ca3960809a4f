"""Random generators: seeded inside, as they were outside, and no other device's touched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resomap.explainability.attribution import Attribution
from resomap.explainability.faithfulness import max_sensitivity, with_random_weights
from resomap.explainability.methods import explain
from resomap.models.generators import isolated_generators, seed_generators, seeded
from resomap.models.registry import build_model

CPU = torch.device("cpu")


def test_seed_generators_equals_manual_seed():
    torch.manual_seed(11)
    expected = torch.rand(4)
    seed_generators(11, CPU)
    assert torch.equal(torch.rand(4), expected)


def test_isolated_generators_restores_after_an_error():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)

    def draw_and_fail() -> None:
        with isolated_generators(CPU):
            torch.rand(100)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        draw_and_fail()
    assert torch.equal(torch.rand(3), expected)


def test_seeded_draws_the_seed_s_numbers() -> None:
    torch.manual_seed(11)
    expected = torch.rand(4)
    before = torch.get_rng_state()
    with seeded(CPU, 11):
        assert torch.equal(torch.rand(4), expected)
    assert torch.equal(torch.get_rng_state(), before)


def _first_channel(images: Tensor, _targets: Tensor) -> Attribution:
    return Attribution(images[:, 0], torch.zeros(len(images)), torch.zeros(len(images), 2))


DRAWING: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "build_model": lambda _model, _images: build_model("tiny_cnn", num_classes=2, seed=0),
    "with_random_weights": lambda model, _images: with_random_weights(model, seed=0),
    "max_sensitivity": lambda _model, images: max_sensitivity(_first_channel, images, torch.tensor([0])),
    "gradient_shap": lambda model, images: explain(model, images, method="gradient_shap"),
}


@pytest.mark.parametrize("name", DRAWING)
def test_the_caller_s_generators_go_on_as_if_nothing_was_drawn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _seed: pytest.fail("the GPUs' generators were seeded"))
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), torch.ones(1, 3, 8, 8)
    before = torch.get_rng_state(), str(np.random.get_state())
    DRAWING[name](model, images)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]
