"""Methods that sample or perturb: each image for itself, and attributions that count once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from resomap.explainability.methods import BY_CAPTUM, explain


class SquaredSum(nn.Module):
    """y_0 = (sum of all values)^2, y_1 = -y_0: its gradient 2 s moves with the noise."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        squared_B1 = images_BCHW.flatten(1).sum(dim=1, keepdim=True) ** 2
        return torch.cat([squared_B1, -squared_B1], dim=1)


class Sum(nn.Module):
    """y_0 = sum of all values."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        total_B1 = images_BCHW.flatten(1).sum(dim=1, keepdim=True)
        return torch.cat([total_B1, -total_B1], dim=1)


@pytest.mark.parametrize("method", BY_CAPTUM)
def test_the_map_of_an_image_is_the_same_in_every_batch(method: str) -> None:
    quiet, loud = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [0.05, 5.0]
    ).reshape(2, 1, 1, 1, 1)
    alone = explain(SquaredSum(), quiet, method=method, targets_B=0).maps_Bhw[0]
    for position, batch in ((0, (quiet, loud)), (1, (loud, quiet)), (2, (loud, loud, quiet))):
        beside = explain(SquaredSum(), torch.cat(batch), method=method, targets_B=0).maps_Bhw[position]
        torch.testing.assert_close(beside, alone)


def test_noise_of_smoothgrad_is_a_share_of_the_images_own_range() -> None:
    """The mean gradient of s^2 is 2 (s + mean noise): its distance from 2 s grows with the noise, so with the range."""
    ramp_1CHW = torch.linspace(0, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)

    def off(scale: float) -> float:
        found = explain(SquaredSum(), ramp_1CHW * scale, method="smoothgrad", targets_B=0)
        assert found.signed_BCHW is not None
        return float(found.signed_BCHW[0, 0, 0, 0] - 2 * scale * ramp_1CHW.sum())

    assert off(1.0) != 0
    assert off(10.0) == pytest.approx(10 * off(1.0), rel=1e-3)


@pytest.mark.parametrize("method", ["occlusion", "kernel_shap"])
def test_a_region_counts_once_whatever_the_channels(method: str) -> None:
    """On 7 x 7 px a window and a region are one pixel of 3 channels of 1: without it the sum is 3 less."""
    found = explain(Sum(), torch.ones(1, 3, 7, 7), method=method, targets_B=0)
    torch.testing.assert_close(found.maps_Bhw, torch.full((1, 7, 7), 3.0), rtol=1e-3, atol=1e-3)
    assert found.signed_BCHW is not None
    torch.testing.assert_close(found.signed_BCHW, torch.ones(1, 3, 7, 7), rtol=1e-3, atol=1e-3)
