from __future__ import annotations

import pytest

from resomap.errors import UnknownModelError
from resomap.models.names import as_listed, canonical_name, family_of, list_models, model_source


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("VGG11", "vgg11"),
        (" ResNet18 ", "resnet18"),
        ("ResNet-50", "resnet50"),
        ("MobileNetV3-Small", "mobilenet_v3_small"),
        ("Tiny_CNN", "tiny_cnn"),
        ("TF_EfficientNet_Lite0", "tf_efficientnet_lite0"),
        ("resnet18.A1_in1k", "resnet18.a1_in1k"),
        ("my_code.nets:Net.small", "my_code.nets:Net.small"),
    ],
)
def test_canonical_name_has_one_spelling(given: str, canonical: str) -> None:
    assert canonical_name(given) == canonical


@pytest.mark.parametrize("name", list_models())
def test_canonical_name_leaves_the_13_unchanged(name: str) -> None:
    assert canonical_name(name) == name
    assert canonical_name(name.upper()) == name


@pytest.mark.parametrize(
    ("name", "plain"),
    [("timm:vit_tiny_patch16_224", "vit_tiny_patch16_224"), ("torchvision:VGG11", "vgg11")],
)
def test_a_librarys_name_before_the_models_is_left_out(name: str, plain: str) -> None:
    with pytest.raises(UnknownModelError, match=f"^'{name}': write {plain}, without"):
        canonical_name(name)
    with pytest.raises(UnknownModelError, match="no model is called 'resnet19'; nearest: "):
        canonical_name("timm:resnet19")


def test_list_models_has_the_13() -> None:
    assert len(list_models()) == len(set(list_models())) == 13
    assert list_models("vgg") == ["vgg11", "vgg13", "vgg16"]
    assert list_models("big", families={"big": ("vgg16",)}) == ["vgg16"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenet_v3_samll", "'mobilenet_v3_samll'; nearest: mobilenet_v3_small"),
        ("resnet18.no_such_tag", "nearest: resnet18"),
        ("", "named by text"),
        ("x" * 5000, "known: vgg11"),
        ("no\nsuch", r"'no\\nsuch'"),
        ("a:b:c", "package.module:callable"),
        ("os.path;evil:x", "package.module:callable"),
    ],
)
def test_canonical_name_refuses_unknown_names_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UnknownModelError, match=message) as raised:
        canonical_name(name)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_list_models_names_the_families_when_one_is_unknown() -> None:
    with pytest.raises(UnknownModelError, match="'vggs'; families: vgg, resnet"):
        list_models("vggs")


def test_family_of_follows_the_listing() -> None:
    assert family_of("VGG11") == "vgg"
    assert family_of("tf_efficientnet_lite0") == "timm"
    assert family_of("my.nets:Net") == "custom"
    assert family_of("vgg11", families={"old": ("VGG11",)}) == "old"


def test_model_source_takes_vgg_from_torchvision_and_mobilenet_from_timm() -> None:
    assert model_source("vgg16").kind == "torchvision"
    assert model_source("mobilenet_v2_small").target == "mobilenetv2_050"
    assert model_source("resnet18.a1_in1k").kind == "timm"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ResNet18", "resnet18"),
        (" RESNET-18 ", "resnet18"),
        ("MobileNetV3-Small", "mobilenet_v3_small"),
        ("ViT_Base", "vit_base"),
        ("own:Net", "own:Net"),
        ("own:net", "own:net"),  # not own:Net, which is other code
        ("resnet34", "resnet34"),
        ("VGG11", "VGG11"),  # not listed: as it stands
        (3, 3),
    ],
)
def test_a_name_is_found_among_those_listed(name, expected):
    assert as_listed(name, ("resnet18", "mobilenet_v3_small", "vit_base", "own:Net")) == expected
