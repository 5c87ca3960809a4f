from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from resomap.config.load import load_config
from resomap.errors import ConfigError, ResolutionError, TargetLayerError, UnknownModelError
from resomap.models.modules import dry_forward, in_eval_mode
from resomap.models.registry import assert_same_parameters, build_model, check_resolution, list_models, model_stride
from resomap.models.resolutions import least_training_batch, takes, takes_here
from resomap.models.target_layers import get_target_layer
from resomap.study import build

HERE = "test_resolutions_nets"


@pytest.mark.parametrize(
    ("name", "resolution", "message"),
    [
        ("resnet18", 225, "225 is not a multiple of 32 that resnet18 accepts; nearest: 224, 256"),
        ("resnet18", 1, "1 is not a multiple of 32 that resnet18 accepts; nearest: 32"),
        ("resnet18", 0, "0 is not a size that resnet18 accepts; nearest: 32"),
        ("resnet18", -1, "-1 is not a multiple of 32 that resnet18 accepts; nearest: 32"),
        ("tiny_cnn", 100, "100 is not a multiple of 8 that tiny_cnn accepts; nearest: 96, 104"),
        ("simple_cnn", 40, "40 is not a multiple of 16 that simple_cnn accepts; nearest: 32, 48"),
        ("vgg11", 10**12, "1000000000000 is not a size that vgg11 accepts; nearest: 16384"),
        # Token mixing over a fixed grid: one size only.
        ("mixer_s32_224", 256, "256 is not a size that mixer_s32_224 accepts; nearest: 224"),
        # Small inputs leave inception's unpadded convolutions nothing to work on.
        ("inception_v3", 32, "32 is not a size that inception_v3 accepts; nearest: 96"),
        # Only with values does its table of positions turn out too short.
        ("mvitv2_tiny", 256, "256 is not a size that mvitv2_tiny accepts; nearest: 224"),
        ("resnet18", "big", "a resolution is a whole number of pixels, not 'big'"),
        ("resnet18", 224.0, "whole number of pixels, not 224.0"),
        ("resnet18", True, "whole number of pixels, not True"),
    ],
)
def test_check_resolution_names_the_nearest(name: str, resolution: object, message: str) -> None:
    with pytest.raises(ResolutionError, match=re.escape(message)):
        check_resolution(name, resolution)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "resolution"),
    [
        ("tiny_cnn", 8),
        ("VGG11", 32),
        ("mobilenet_v3_small", 96),
        ("inception_v3", 299),
        ("tiny_cnn", np.int64(48)),
    ],
)
def test_check_resolution_accepts_what_works(name: str, resolution: int) -> None:
    check_resolution(name, resolution)
    side = int(resolution)
    network = build_model(name, num_classes=3, pretrained=False, resolution=side).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, side, side)).shape == (1, 3)


def test_numpys_whole_numbers_are_sides_and_class_counts() -> None:
    # Of no default network: each size is tried by itself, and what is found is kept.
    model = build_model("resnet10t", num_classes=np.int64(2), resolution=np.int64(160))
    check_resolution("resnet10t", 160)
    assert dry_forward(model, np.int64(96)).shape == (2, 2)  # type: ignore[attr-defined]
    assert get_target_layer(model, resolution=np.int64(96)) == get_target_layer(model, resolution=96)


@pytest.mark.parametrize("resolution", ["96", 96.0, 0, True, (96,), (96, 32.0), None])
def test_what_is_no_size_is_no_layers_fault(resolution: object) -> None:
    with pytest.raises(
        ConfigError, match=r"resolution: expected a whole number of pixels from 1, or \(height, width\)"
    ):
        get_target_layer(build_model("tiny_cnn", num_classes=2), resolution=resolution)  # type: ignore[arg-type]


def test_model_stride_follows_the_description() -> None:
    assert model_stride("tiny_cnn") == 8
    assert model_stride("tiny_cnn", specs={"tiny_cnn": {"channels": [4, 4]}}) == 4
    assert {model_stride(name) for name in list_models() if name not in ("tiny_cnn", "simple_cnn")} == {32}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_transformers_keep_their_parameters_at_other_sizes(name: str) -> None:
    assert assert_same_parameters(name, (224, 320), num_classes=4) > 5_000_000


class Plain(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 3, padding=1)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.conv(images_BCHW).mean((2, 3))


class AsksForValues(Plain):
    """Works only where tensors have values, and only for sides of 32 and more."""

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        if float(images_BCHW.mean()) > 1e9 or images_BCHW.shape[-1] < 32:
            raise ValueError("no")
        return super().forward(images_BCHW)


class FeatureMap(Plain):
    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.conv(images_BCHW)


class Misspelt(Plain):
    """Raises what no size explains."""

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.convolution(images_BCHW)


class Misshapen(Plain):
    """Raises at every size what a wrong size would raise."""

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return images_BCHW.reshape(len(images_BCHW), 7)


class Lazy(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.layers(images_BCHW)


@pytest.fixture
def nets(monkeypatch: pytest.MonkeyPatch) -> str:
    """This module under a name that can be imported, as the user's own would be."""
    import sys

    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])
    return HERE


def test_check_resolution_tries_the_users_own_model(nets: str) -> None:
    check_resolution(f"{nets}:Plain", 33)
    check_resolution(f"{nets}:AsksForValues", 32)
    with pytest.raises(ResolutionError, match=r"20 is not a size .* nearest: 32"):
        check_resolution(f"{nets}:AsksForValues", 20)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "Misspelt",
            "raised AttributeError in forward, given images (2, 3, 64, 64): 'Misspelt' object has no attribute",
        ),
        ("Misshapen", "raised RuntimeError in forward, given images (2, 3, 64, 64): shape '[2, 7]' is invalid"),
    ],
)
def test_what_the_users_forward_raises_is_said_once_for_all_sizes(nets: str, name: str, said: str) -> None:
    named = ["models.allow_callables=true", f"sweep.models=['{nets}:{name}']", "sweep.resolutions=[64,96,128]"]
    with pytest.raises(UnknownModelError, match=re.escape(said)) as found:
        check_resolution(f"{nets}:{name}", 64)
    assert isinstance(found.value.__cause__, (AttributeError, RuntimeError))
    with pytest.raises(ConfigError, match=re.escape(said)) as listed:
        build.check_models(load_config(overrides=named))
    assert len(listed.value.problems) == 1


@pytest.mark.parametrize("name", ["no_such_module_here:Net", f"{HERE}:Lazy"])
def test_a_model_that_is_wrong_at_every_size_is_said_to_be_so_once(nets: str, name: str) -> None:
    named = ["models.allow_callables=true", f"sweep.models=['{name}']", "sweep.resolutions=[64,96,128]"]
    with pytest.raises(ConfigError) as listed:
        build.check_models(load_config(overrides=named))
    assert len(listed.value.problems) == 1


def test_check_resolution_refuses_what_is_no_classifier(nets: str) -> None:
    with pytest.raises(UnknownModelError, match=r"no classifier: two images gave \(2, 2, 64, 64\)"):
        check_resolution(f"{nets}:FeatureMap", 64)


def test_lazy_layers_are_refused(nets: str) -> None:
    with pytest.raises(ResolutionError, match="lazy layers, whose size would depend on the resolution"):
        assert_same_parameters(f"{nets}:Lazy", (32, 64), num_classes=2)


def test_dry_forward_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(2))
    model(torch.ones(2, 3, 8, 8))
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert dry_forward(model, 8).shape == (2, 2)
    assert [m.training for m in model] == [True, False, True, True]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(RuntimeError):
        dry_forward(model, 16)
    assert [m.training for m in model] == [True, False, True, True]


def test_in_eval_mode_restores_each_submodule() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with in_eval_mode(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == [True, True, False]


@pytest.mark.parametrize(("side", "expected"), [(64, True), (8, False)])
def test_a_real_pass_says_which_sizes_are_taken_and_leaves_the_mode(side: int, expected: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 9), nn.MaxPool2d(8)).train()
    assert takes_here(network, side) is expected
    assert network.training


def test_a_size_is_not_refused_for_lack_of_memory() -> None:
    class Full(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("no memory left")

    with pytest.raises(torch.OutOfMemoryError):
        takes_here(Full(), 32)


@pytest.mark.parametrize(
    ("name", "resolution", "expected"),
    # Strides of 32: one cell at 32 px, of which a batch of one has a single value a channel.
    [("resnet18", 32, 2), ("resnet18", 64, 1), ("mobilenet_v2", 32, 2), ("tiny_cnn", 32, 1), ("vgg11", 32, 1)],
)
def test_one_image_cannot_be_normalised_where_maps_have_one_cell(name: str, resolution: int, expected: int) -> None:
    model = build_model(name, num_classes=2, seed=0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert least_training_batch(model, resolution) == expected
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    images = torch.randn(expected, 3, resolution, resolution)
    assert model(images).shape == (expected, 2)


class Asks(nn.Sequential):
    """A network that looks at its images' values before it answers."""

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return super().forward(images_BCHW if images_BCHW.mean() < 1e9 else images_BCHW / 2)


@pytest.mark.parametrize(("resolution", "expected"), [(8, 2), (32, 1)])
def test_code_that_asks_for_values_is_run_and_left_as_it_was(resolution: int, expected: int) -> None:
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 2))
    model = Asks(nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), *pooled).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    assert least_training_batch(model, resolution) == expected
    assert takes(model, resolution)
    assert get_target_layer(model, resolution=32) == "1"
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_size_is_still_refused_where_code_asks_for_values() -> None:
    model = Asks(nn.Conv2d(3, 2, 5), nn.Flatten(), nn.Linear(8, 2))
    assert takes(model, 6)
    assert not takes(model, 7)
    with pytest.raises(TargetLayerError, match=r"Asks cannot be run at 7 px \(mat1 and mat2 shapes"):
        get_target_layer(model, resolution=7)
