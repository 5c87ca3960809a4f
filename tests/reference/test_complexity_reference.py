"""MACs and parameters of all 13 models beside a closed-form count, layer by layer.

The independent count: hooks note each layer's output shape, and the textbook formulas do the rest. The resnet18 and
mobilenet figures at 224 and 512 with 2 classes were also given by torchinfo and calflops.
"""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import timm
import torch
from torch import nn

from resomap.models.registry import build_model, list_models
from resomap.profiling.complexity import get_model_complexity


def closed_form(model: nn.Module, resolution: int) -> tuple[int, int]:
    """(MACs, parameters) from every layer's own shapes."""
    counted: list[int] = []

    def note(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            kernel = math.prod(layer.kernel_size) * layer.in_channels // layer.groups
            counted.append(output.numel() * kernel)
        else:
            counted.append(output.numel() * layer.in_features)

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model.eval()(torch.empty(1, 3, resolution, resolution, device="meta"))
    for handle in handles:
        handle.remove()
    return sum(counted), sum(p.numel() for p in model.parameters())


@lru_cache
def without_weights(name: str) -> nn.Module:
    """Shapes alone: the thirteen together take no memory."""
    return build_model(name, num_classes=2, seed=None).to("meta")


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("resolution", [224, 256, 320, 384, 512])
def test_all_models_equal_the_closed_form(name: str, resolution: int) -> None:
    model = without_weights(name)
    macs, parameters = closed_form(model, resolution)
    found = get_model_complexity(model, (1, 3, resolution, resolution))
    assert (found.macs, found.parameters) == (macs, parameters)
    assert sum(stage.macs for stage in found.stages) == macs


@pytest.mark.parametrize(
    ("name", "resolution", "macs_m"),
    [
        ("resnet18", 224, 1813.6), ("resnet18", 512, 9474.9), ("mobilenet_v3_small", 224, 55.5),
        ("mobilenet_v3_small", 512, 285.5), ("mobilenet_v2", 224, 299.5), ("mobilenet_v2", 512, 1564.7),
    ],
)  # fmt: skip
def test_figures_of_other_counters(name: str, resolution: int, macs_m: float) -> None:
    model = build_model(name, num_classes=2, seed=0)
    assert get_model_complexity(model, (1, 3, resolution, resolution)).macs / 1e6 == pytest.approx(macs_m, abs=0.06)


def test_attention_is_counted() -> None:
    # 12 blocks, 197 tokens of 192: the two attention products add 2 N^2 192 MACs a block to the layers' own.
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2)
    layers, _ = closed_form(timm.create_model("vit_tiny_patch16_224", num_classes=2).to("meta"), 224)
    assert get_model_complexity(model).macs == layers + 12 * 2 * 197**2 * 192
