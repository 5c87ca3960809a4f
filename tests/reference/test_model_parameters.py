"""Parameter counts against the published ones."""

from __future__ import annotations

import pytest
import torchvision

from resomap.models.registry import assert_same_parameters, list_models

# torchvision publishes num_params with each of its weights and in its documentation (for vgg13, "num_params
# 133047848": docs.pytorch.org/vision/stable/models/generated/torchvision.models.vgg13.html). timm's networks
# are other code for the same papers, so equal counts say that ours are the published architectures.
PUBLISHED_BY_TORCHVISION = {
    "vgg11": torchvision.models.VGG11_Weights,
    "vgg13": torchvision.models.VGG13_Weights,
    "vgg16": torchvision.models.VGG16_Weights,
    "resnet18": torchvision.models.ResNet18_Weights,
    "resnet34": torchvision.models.ResNet34_Weights,
    "resnet50": torchvision.models.ResNet50_Weights,
    "resnet101": torchvision.models.ResNet101_Weights,
    "mobilenet_v2": torchvision.models.MobileNet_V2_Weights,
    "mobilenet_v3_small": torchvision.models.MobileNet_V3_Small_Weights,
    "mobilenet_v3_large": torchvision.models.MobileNet_V3_Large_Weights,
}

OTHER = {
    # timm's results/results-imagenet.csv lists 1.97 M for mobilenetv2_050 (torchvision has no 0.5 weights);
    # torchvision's own MobileNetV2 at width 0.5 is counted below.
    "mobilenet_v2_small": 1_968_680,
    # Ours, by hand. Convolutions have no bias, a batch norm has 2 per channel, the classifier has K = 1000.
    # tiny: 3*16*9 + 32 + 16*32*9 + 64 + 32*64*9 + 128 + 64*1000 + 1000
    #     = 432 + 32 + 4,608 + 64 + 18,432 + 128 + 65,000
    "tiny_cnn": 88_696,
    # simple: 3*32*9 + 64 + 32*64*9 + 128 + 64*128*9 + 256 + 128*256*9 + 512 + 256*1000 + 1000
    #       = 864 + 64 + 18,432 + 128 + 73,728 + 256 + 294,912 + 512 + 257,000
    "simple_cnn": 645_896,
}


@pytest.mark.parametrize("name", list_models())
def test_parameters_equal_the_published_count(name: str) -> None:
    weights = PUBLISHED_BY_TORCHVISION.get(name)
    published = weights.DEFAULT.meta["num_params"] if weights else OTHER[name]
    # The ends of the default sweep; tests/unit/models trains a step at all five.
    assert assert_same_parameters(name, (224, 512), num_classes=1000) == published


def test_mobilenet_v2_small_is_torchvisions_at_half_width() -> None:
    half = torchvision.models.mobilenet_v2(weights=None, width_mult=0.5)
    assert sum(p.numel() for p in half.parameters()) == OTHER["mobilenet_v2_small"]
