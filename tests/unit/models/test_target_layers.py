"""The last feature map of each of the 13 models, and clear errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resomap.errors import TargetLayerError
from resomap.models.modules import dry_forward
from resomap.models.registry import build_model, list_models
from resomap.models.target_layers import TargetLayer, find_target_layer, get_target_layer

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


class Transformer(nn.Module):
    """Patches of 8 px and a class token, one block with heads and tokens apart (B, heads, N, d), a head."""

    class Block(nn.Module):
        def __init__(self, *, any_size: bool) -> None:
            super().__init__()
            self.k_norm, self.weights, self.out = nn.LayerNorm(4), nn.Softmax(dim=-1), nn.Linear(8, 8)
            self.cells = None if any_size else 17

        def forward(self, tokens_BNC: torch.Tensor) -> torch.Tensor:
            assert self.cells in (None, tokens_BNC.shape[1])
            keys_BhNd = self.k_norm(tokens_BNC.unflatten(2, (2, 4)).transpose(1, 2))
            mixed = self.weights(keys_BhNd @ keys_BhNd.transpose(2, 3)) @ keys_BhNd
            return tokens_BNC + self.out(mixed.transpose(1, 2).flatten(2))

    def __init__(self, *, any_size: bool) -> None:
        super().__init__()
        self.patches, self.block = nn.Conv2d(3, 8, 8, stride=8), self.Block(any_size=any_size)
        self.head = nn.Linear(8, 2)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        tokens_BNC = self.patches(images_BCHW).flatten(2).transpose(1, 2)
        tokens_BNC = torch.cat([tokens_BNC.mean(dim=1, keepdim=True), tokens_BNC], dim=1)
        return self.head(self.block(tokens_BNC)[:, 0])


@pytest.mark.parametrize("any_size", [True, False])
def test_tokens_of_a_transformer_are_no_feature_map(any_size: bool) -> None:
    model = Transformer(any_size=any_size)
    with pytest.raises(TargetLayerError, match=r"goes on with tokens .* after its last feature map, .*convolutional"):
        get_target_layer(model, resolution=32)
    with pytest.raises(TargetLayerError, match=r"'block.k_norm' gives \(1, 2, 17, 4\), not a feature map"):
        get_target_layer(model, "block.k_norm", resolution=32)
    assert find_target_layer(model, "patches", resolution=32) == TargetLayer("patches", 1)


def test_attention_of_each_token_to_each_is_no_feature_map() -> None:
    with pytest.raises(TargetLayerError, match="not a feature map"):  # (1, 2, 17, 17): as square as the image
        get_target_layer(Transformer(any_size=True), "block.weights", resolution=32)


def test_an_attention_that_pools_a_feature_map_leaves_it_the_last_one() -> None:
    class Pooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.keys, self.head = nn.Conv2d(3, 4, 8, stride=8), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            return self.head(self.keys(self.features(images_BCHW).flatten(2).transpose(1, 2)).mean(dim=1))

    assert get_target_layer(Pooling(), resolution=32) == "features"
