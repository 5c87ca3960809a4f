"""BatchNorm folded into convolutions: the network's own answers, whatever it does with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from resomap.models.folding import folded, for_inference
from resomap.models.registry import build_model


def with_statistics(network: nn.Module, *, seed: int = 0) -> nn.Module:
    """BatchNorms that have seen something: fresh ones would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                tensor.data = torch.randn(tensor.shape, generator=generator) * 0.1
            for tensor in (module.running_var, module.weight):
                tensor.data = torch.rand(tensor.shape, generator=generator) + 0.5
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    "name", ["tiny_cnn", "resnet18", "mobilenet_v2", "mobilenet_v3_small", "tf_efficientnet_lite0"]
)
def test_folded_gives_the_networks_answers_at_every_size(name: str) -> None:
    network = with_statistics(build_model(name, num_classes=3, seed=0))
    small = folded(network, 64)
    assert norms(network) > 0
    assert norms(small) == 0
    for side in (64, 96):
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
        with torch.inference_mode():
            expected, got = network(images), small(images)
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_folded_by_hand() -> None:
    # One pixel: w = 2, b = 1; mean 3, var 4 - eps, gamma 6, beta 5: s = 6 / 2 = 3, so w' = 6, b' = 3 (1 - 3) + 5 = -1.
    convolution, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)
    values = {"convolution.weight": 2.0, "convolution.bias": 1.0}
    values |= {"norm.running_mean": 3.0, "norm.running_var": 4.0 - norm.eps, "norm.weight": 6.0, "norm.bias": 5.0}
    state = dict(ThreeToOne(convolution, norm).state_dict())
    for tensor, value in ((state[name], value) for name, value in values.items()):
        tensor.data.fill_(value)
    small = folded(ThreeToOne(convolution, norm).eval(), 8)
    assert small.convolution.weight.item() == pytest.approx(6.0)
    assert small.convolution.bias.item() == pytest.approx(-1.0)


class ThreeToOne(nn.Module):
    def __init__(self, convolution: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.convolution, self.norm = convolution, norm

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.norm(self.convolution(images_BCHW[:, :1])).mean(dim=(2, 3))


class UsedTwice(ThreeToOne):
    """The convolution's output goes past the BatchNorm too, where no module sees it."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        maps = self.convolution(images_BCHW[:, :1])
        return (self.norm(maps) + 3 * maps).mean(dim=(2, 3))


class CalledTwice(ThreeToOne):
    def forward(self, images_BCHW: Tensor) -> Tensor:
        maps = self.norm(self.convolution(images_BCHW[:, :1]))
        return self.norm(self.convolution(maps)).mean(dim=(2, 3))


@pytest.mark.parametrize("kind", [UsedTwice, CalledTwice])
def test_what_cannot_be_folded_stays_as_it_is(kind: type[nn.Module]) -> None:
    network = with_statistics(kind(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))
    assert folded(network, 8) is network


def test_folding_leaves_the_network_alone() -> None:
    network = with_statistics(build_model("tiny_cnn", num_classes=2, seed=0)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded(network, 32)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_for_inference_folds_in_full_precision_only() -> None:
    network = build_model("tiny_cnn", num_classes=2, seed=0).eval()
    assert for_inference(network, 32, precision="bf16") is network
    assert norms(for_inference(network, 32, precision="no")) == 0
