"""An explainer is made once for many batches."""

from __future__ import annotations

import pytest
import torch

from resomap.explainability import gradcam
from resomap.explainability.methods import OWN, explain, make_explainer
from resomap.models.registry import build_model


@pytest.mark.parametrize("method", OWN)
def test_an_explainer_of_many_batches_explains_each_as_a_fresh_one(method: str) -> None:
    network = build_model("tiny_cnn", num_classes=3, seed=0).eval()
    batches = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    explainer = make_explainer(network, method=method)
    for images_BCHW in batches:
        fresh = explain(network, images_BCHW, method=method)
        assert torch.equal(explainer(images_BCHW, None).maps_Bhw, fresh.maps_Bhw)


def test_the_layer_is_looked_for_once_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def looking(model: torch.nn.Module, name: str | None = None, *, resolution: int = 224) -> str:
        looked.append(resolution)
        return search(model, name, resolution=resolution)

    search = gradcam.get_target_layer
    monkeypatch.setattr(gradcam, "get_target_layer", looking)
    explainer = make_explainer(build_model("tiny_cnn", num_classes=3, seed=0).eval())
    for side in (32, 32, 48, 32):
        explainer(torch.zeros(1, 3, side, side), None)
    assert looked == [32, 48]
