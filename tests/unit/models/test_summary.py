from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from resomap.models.architectures import construct
from resomap.models.registry import build_model
from resomap.models.summary import summarize, write_summary


def test_summarize_lists_layers_with_shapes_and_parameters() -> None:
    model = build_model("tiny_cnn", num_classes=5, seed=0)
    summary = summarize(model, resolution=64)
    layers = {layer.name: layer for layer in summary.layers}
    # Three blocks halve 64 to 32, 16, 8.
    assert layers["features.0.0"].output_shape == (16, 64, 64)
    assert layers["features.2.3"].output_shape == (64, 8, 8)
    assert layers["features.0.0"].parameters == 3 * 16 * 9
    assert layers["classifier"].output_shape == summary.output_shape == (5,)
    assert sum(layer.parameters for layer in summary.layers) == summary.parameters
    assert list(layers)[-1] == "classifier"


def test_parameters_outside_of_layers_are_counted() -> None:
    """A vision transformer's class token and positions belong to no layer."""
    model = construct("vit_tiny_patch16_224", num_classes=2, device="meta")
    summary = summarize(model, resolution=64)
    assert sum(layer.parameters for layer in summary.layers) == summary.parameters
    own = next(layer for layer in summary.layers if layer.name == "")
    assert own.parameters == 192 + 197 * 192  # the token, and a position for it and each of 14 x 14 patches


def test_summarize_counts_calls_and_frozen_parameters() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(images_BCHW)).mean((2, 3))

    model = Twice()
    model.conv.bias.requires_grad_(False)
    summary = summarize(model, resolution=8, name="twice")
    assert [(layer.name, layer.calls, layer.parameters) for layer in summary.layers] == [("conv", 2, 12)]
    assert (summary.parameters, summary.trainable_parameters) == (12, 9)


class NeedsValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        if float(images_BCHW.sum()) > 1.0 or images_BCHW.shape[-1] > 100:
            raise ValueError("no")
        return self.norm(images_BCHW).mean((2, 3))


def test_summarize_runs_a_model_that_needs_values() -> None:
    model = NeedsValues()
    assert summarize(model, resolution=8).layers[0].output_shape == (3, 8, 8)
    assert model.norm.num_batches_tracked == 0
    assert model.training


def test_summarize_leaves_no_hook_even_after_an_error() -> None:
    model = NeedsValues()
    with pytest.raises(ValueError, match="no"):
        summarize(model, resolution=200)
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training
    assert model.norm.training


def test_write_summary_fits_80_columns_and_is_json(tmp_path: Path) -> None:
    model = construct("vgg16", num_classes=1000, device="meta")
    write_summary(tmp_path / "vgg16" / "512", model, resolution=512, name="vgg16")
    text = (tmp_path / "vgg16" / "512" / "summary.txt").read_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "138,357,544" in text
    stored = json.loads((tmp_path / "vgg16" / "512" / "summary.json").read_text())
    assert stored["parameters"] == 138_357_544
    assert stored["layers"][0]["output_shape"] == [64, 512, 512]
