"""Operations of small layers, counted by hand."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from resomap.errors import ResolutionError
from resomap.models.registry import build_model
from resomap.profiling.complexity import get_model_complexity


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        # 8 x 8 outputs x 4 channels x (3 channels x 3 x 3) = 6,912
        (nn.Conv2d(3, 4, 3, padding=1), 6912),
        # stride 2: 4 x 4 outputs
        (nn.Conv2d(3, 4, 3, padding=1, stride=2), 1728),
        # depthwise: 8 x 8 x 3 x (1 x 3 x 3)
        (nn.Conv2d(3, 3, 3, padding=1, groups=3), 1728),
        # transposed: each of the 8 x 8 inputs x 3 x (4 x 2 x 2)
        (nn.ConvTranspose2d(3, 4, 2, stride=2), 3072),
    ],
)
def test_convolutions_by_hand(layer: nn.Module, macs: int) -> None:
    model = nn.Sequential(nn.Identity(), layer)
    found = get_model_complexity(model, (1, 3, 8, 8))
    assert (found.macs, found.flops) == (macs, 2 * macs)
    # The image needs no gradient: only that of the weights is computed, which costs as much as the forward pass.
    assert found.backward_flops == found.flops
    assert [stage.macs for stage in found.stages] == [0, macs]
    assert found.stages[1].share == 1
    assert found.parameters == sum(p.numel() for p in layer.parameters())


class _Loops(nn.Module):
    """Its children are called, the lists that hold them never are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)]), nn.Conv2d(4, 2, 1)])
        self.unused = nn.ModuleDict({"head": nn.Conv2d(2, 2, 1)})

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        maps = self.stem(images_BCHW)
        for block in (*self.blocks[0], self.blocks[1]):
            maps = block(maps)
        return maps


class _Attends(nn.Module):
    """Fused attention over pixels; `asks` looks at values, which shapes alone do not tell."""

    def __init__(self, *, asks: bool) -> None:
        super().__init__()
        self.stem, self.norm, self.asks = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), asks

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        if self.asks and images_BCHW.mean() > 1e9:
            return images_BCHW
        tokens_BNC = self.norm(self.stem(images_BCHW)).flatten(2).mT
        return nn.functional.scaled_dot_product_attention(tokens_BNC, tokens_BNC, tokens_BNC).mean(1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_code_that_asks_for_values_is_run_to_be_counted(device: str) -> None:
    expected = get_model_complexity(_Attends(asks=False), (2, 3, 8, 8))
    model = _Attends(asks=True).to(device).train()
    # 2 images of 64 pixels: 3 x 4 in the convolution, and 2 x 64 x 4 in the attention.
    assert expected.macs == 2 * 64 * (12 + 512)
    found = get_model_complexity(model, (2, 3, 8, 8))
    assert (found.macs, found.stages) == (expected.macs, expected.stages)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert int(model.norm.num_batches_tracked if device == "cpu" else 0) == 0


def test_gradients_are_counted_under_inference_mode_too() -> None:
    model = nn.Conv2d(3, 4, 1, bias=False)
    expected = get_model_complexity(model, (1, 3, 8, 8))
    with torch.inference_mode():
        assert get_model_complexity(model, (1, 3, 8, 8)) == expected
    assert expected.backward_flops == expected.flops == 2 * 3 * 4 * 64


def test_a_stage_that_is_a_list_costs_what_its_modules_cost() -> None:
    found = get_model_complexity(_Loops(), (1, 3, 8, 8))
    # 64 positions: 3 x 4; then 4 x 4 twice and 4 x 2; nothing.
    assert [(stage.name, stage.macs) for stage in found.stages] == [
        ("stem", 64 * 12), ("blocks", 64 * 40), ("unused", 0),
    ]  # fmt: skip
    assert sum(stage.macs for stage in found.stages) == found.macs
    assert [stage.share for stage in found.stages] == pytest.approx([12 / 52, 40 / 52, 0])


def test_later_layers_pay_for_both_gradients() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False))
    # 64 positions: 12 MACs each, then 36. Backward: the first once, the second twice.
    found = get_model_complexity(model, (1, 3, 8, 8))
    assert found.macs == 64 * (12 + 36)
    assert found.backward_flops == 2 * 64 * (12 + 2 * 36)


def test_batch_counts_every_image() -> None:
    model = build_model("tiny_cnn", num_classes=2, seed=0)
    one, four = get_model_complexity(model, (3, 32, 32)), get_model_complexity(model, (4, 3, 32, 32))
    assert one.input_shape == (1, 3, 32, 32)
    assert four.macs == 4 * one.macs


def test_frozen_parameters_are_not_trainable() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    model[0].requires_grad_(False)
    found = get_model_complexity(model, (1, 3, 8, 8))
    assert (found.parameters, found.trainable_parameters) == (26, 10)


def test_model_is_left_as_it_was_also_after_an_error() -> None:
    model = build_model("resnet18", num_classes=2, seed=0).train()
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    get_model_complexity(model, (1, 3, 64, 64))
    with pytest.raises(ResolutionError, match=r"ResNet cannot take an input of shape \(1, 5, 64, 64\)"):
        get_model_complexity(model, (1, 5, 64, 64))
    assert model.training
    assert all(p.grad is None and p.device == torch.device("cpu") for p in model.parameters())
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


def test_large_inputs_need_no_memory() -> None:
    # A batch of 4,096 images of 512 px would need terabytes.
    started = time.monotonic()
    found = get_model_complexity(build_model("vgg16", num_classes=2, seed=0), (4096, 3, 512, 512))
    assert found.macs == pytest.approx(4096 * 80.3e9, rel=0.01)
    assert time.monotonic() - started < 60  # a guard against running it, not a benchmark
