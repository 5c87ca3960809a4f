"""An explainer is made once for many batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resomap.explainability import gradcam
from resomap.explainability.methods import OWN, explain, make_explainer
from resomap.explainability.receptive_field import effective_receptive_field
from resomap.models.registry import build_model
from resomap.models.target_layers import TargetLayer


@pytest.mark.parametrize("method", OWN)
def test_an_explainer_of_many_batches_explains_each_as_a_fresh_one(method: str) -> None:
    network = build_model("tiny_cnn", num_classes=3, seed=0).eval()
    batches = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    explainer = make_explainer(network, method=method)
    for images_BCHW in batches:
        fresh = explain(network, images_BCHW, method=method)
        assert torch.equal(explainer(images_BCHW, None).maps_Bhw, fresh.maps_Bhw)


def test_the_layer_is_looked_for_once_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[tuple[int, int]] = []

    def looking(model: torch.nn.Module, name: str | None = None, *, resolution: tuple[int, int]) -> TargetLayer:
        looked.append(resolution)
        return search(model, name, resolution=resolution)

    search = gradcam.find_target_layer
    monkeypatch.setattr(gradcam, "find_target_layer", looking)
    explainer = make_explainer(build_model("tiny_cnn", num_classes=3, seed=0).eval())
    for size in ((32, 32), (32, 32), (48, 32), (32, 32)):
        explainer(torch.zeros(1, 3, *size), None)
    assert looked == [(32, 32), (48, 32)]


def test_an_oblong_image_is_explained_by_a_layer_that_has_cells_for_it() -> None:
    """Strides of 8, then of 32: 64 x 32 px leave the last layer 2 x 1 cells, 32 x 64 px 1 x 2, and 32 x 32 px one."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 8, stride=8), nn.Conv2d(4, 4, 4, stride=4), nn.Flatten(2), MeanOfCells(), nn.Linear(4, 2)
    )
    for size, layer, cells in (((64, 32), "1", (2, 1)), ((32, 64), "1", (1, 2)), ((32, 32), "0", (4, 4))):
        found = explain(network, torch.randn(1, 3, *size))
        assert found.notes["layer"] == [layer]
        assert found.maps_Bhw.shape[1:] == cells


class MeanOfCells(nn.Module):
    def forward(self, features_BCN: torch.Tensor) -> torch.Tensor:
        return features_BCN.mean(dim=2)


class ChannelsLast(nn.Module):
    """Patches as (B, h, w, C), a normalisation of each, their mean, a head: Swin without its attention."""

    def __init__(self, *, width: int = 5) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, width, 8, stride=8), nn.LayerNorm(width)
        self.head = nn.Linear(width, 2, bias=False)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.patches(images_BCHW).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


@pytest.mark.parametrize("asked", [None, "norm"])
@pytest.mark.parametrize("size", [(32, 32), (32, 16)])
def test_gradcam_reads_features_whose_channels_come_last(asked: str | None, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network, images_BCHW = ChannelsLast(width=4), torch.randn(2, 3, *size)  # 4 channels, as many as rows of cells
    found = gradcam.GradCAM(network, asked)(images_BCHW, 1)
    assert found.notes["layer"] == ["norm"] * 2
    # y = head . mean over cells of A, so that the weight of a channel is its weight in the head over the cells.
    features_BhwC = network.norm(network.patches(images_BCHW).permute(0, 2, 3, 1))
    by_hand = (features_BhwC @ network.head.weight[1]).relu() * 64 / (size[0] * size[1])
    torch.testing.assert_close(found.maps_Bhw, by_hand.detach())


def test_the_receptive_field_of_a_cell_whose_channels_come_last() -> None:
    # A cell is a patch of 8 x 8 pixels of equal weight, and of nothing else.
    network = ChannelsLast()
    nn.init.constant_(network.patches.weight, 0.1)
    network.norm = nn.Identity()
    field = effective_receptive_field(network, 32)
    assert (field.layer, field.side_px) == ("norm", 8.0)
