"""The last feature map of each of the 13 models, and clear errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resomap.errors import TargetLayerError
from resomap.models.registry import build_model, list_models
from resomap.models.resolutions import dry_forward
from resomap.models.target_layers import get_target_layer

EXPECTED = {
    "vgg11": (512, 7, 7), "vgg13": (512, 7, 7), "vgg16": (512, 7, 7),
    "resnet18": (512, 7, 7), "resnet34": (512, 7, 7), "resnet50": (2048, 7, 7), "resnet101": (2048, 7, 7),
    "mobilenet_v2": (1280, 7, 7), "mobilenet_v2_small": (1280, 7, 7),
    "mobilenet_v3_small": (576, 7, 7), "mobilenet_v3_large": (960, 7, 7),
    "simple_cnn": (256, 14, 14), "tiny_cnn": (64, 28, 28),
}  # fmt: skip


@pytest.mark.parametrize("name", list_models())
def test_the_layer_found_gives_the_last_feature_map(name: str) -> None:
    model = build_model(name, num_classes=2).eval()
    found: list[torch.Size] = []
    layer = get_target_layer(model)
    model.get_submodule(layer).register_forward_hook(lambda _m, _i, output: found.append(output.shape[1:]))
    dry_forward(model, 224, batch=1)
    channels, height, width = found[-1]
    assert height == width > 1
    # No later convolution: its map is what the classifier pools, or (VGG) the input of its last pooling.
    assert channels == EXPECTED[name][0]
    assert height >= EXPECTED[name][1] // 2


def test_names_are_checked() -> None:
    model = build_model("tiny_cnn", num_classes=2)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert get_target_layer(model, names[0], resolution=32) == names[0]
    with pytest.raises(TargetLayerError, match=f"no layer {names[0] + 'x'!r}.*nearest: .*{names[0]}"):
        get_target_layer(model, names[0] + "x")
    with pytest.raises(TargetLayerError, match="no feature map"):
        get_target_layer(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), resolution=32)
    with pytest.raises(TargetLayerError, match="cannot be run at 16 px"):
        get_target_layer(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 30 * 30, 2)), resolution=16)


def test_a_layer_that_runs_twice_counts_where_it_ends() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.head = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.first(self.second(self.first(x))).mean(dim=(2, 3)))

    assert get_target_layer(Twice(), resolution=8) == "first"
