from __future__ import annotations

import random
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from resomap.errors import CheckpointError, ConfigError, ResolutionError, UnknownModelError
from resomap.models.architectures import construct
from resomap.models.registry import (
    build_model,
    check_pretrained,
    check_resolution,
    count_parameters,
    list_models,
    normalisation_of,
)

RESOLUTIONS = (224, 256, 320, 384, 512)


@pytest.mark.parametrize("name", list_models())
def test_every_model_trains_a_step_at_every_resolution(name: str) -> None:
    """Forward and backward on shapes alone; the gradients have the parameters' shapes."""
    model = construct(name, num_classes=7, seed=0, device="meta").train()
    for resolution in RESOLUTIONS:
        model.zero_grad()
        logits = model(torch.empty(2, 3, resolution, resolution, device="meta"))
        assert logits.shape == (2, 7)
        nn.functional.cross_entropy(logits, torch.zeros(2, dtype=torch.long, device="meta")).backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("name", ["tiny_cnn", "simple_cnn", "mobilenet_v3_small", "resnet18"])
def test_models_learn_a_step_on_the_cpu(name: str) -> None:
    model = build_model(name, num_classes=2, resolution=32, seed=0).train()
    images, labels = (
        torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 0, 1]),
    )
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if name.startswith("classifier"))


@pytest.mark.parametrize("name", ["tiny_cnn", "mobilenet_v3_small"])
def test_equal_seeds_give_equal_weights_at_every_resolution(name: str) -> None:
    first = build_model(name, num_classes=3, resolution=224, seed=5).state_dict()
    second = build_model(name, num_classes=3, resolution=512, seed=5).state_dict()
    other = build_model(name, num_classes=3, resolution=224, seed=6).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_a_seed_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    python_state = random.getstate()
    build_model("tiny_cnn", num_classes=2, resolution=64, seed=9)
    build_model("vit_tiny_patch16_224", num_classes=2, resolution=64, seed=9)
    assert torch.equal(torch.rand(3), expected)
    assert random.getstate() == python_state


def test_no_seed_draws_from_the_callers_state() -> None:
    torch.manual_seed(3)
    first = build_model("tiny_cnn", num_classes=2).classifier.weight
    torch.manual_seed(3)
    assert torch.equal(first, build_model("tiny_cnn", num_classes=2).classifier.weight)
    assert not torch.equal(first, build_model("tiny_cnn", num_classes=2).classifier.weight)


def test_build_model_follows_the_description() -> None:
    model = build_model("tiny_cnn", num_classes=2, specs={"tiny_cnn": {"channels": [4, 6], "kernel_size": 1}})
    # 3*4 + 8 + 4*6 + 12 + 6*2 + 2
    assert count_parameters(model) == 70


def test_build_model_checks_the_resolution() -> None:
    with pytest.raises(ResolutionError, match="nearest: 224, 256"):
        build_model("ResNet18", num_classes=2, resolution=225)


@pytest.mark.parametrize("num_classes", [0, -3, 2.0, "2", True])
def test_build_model_refuses_a_class_count_that_is_none(num_classes: object) -> None:
    with pytest.raises(ConfigError, match="num_classes: expected a whole number from 1"):
        build_model("tiny_cnn", num_classes=num_classes)  # type: ignore[arg-type]


def test_count_parameters_can_leave_out_the_frozen() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    assert (count_parameters(model), count_parameters(model, trainable_only=True)) == (11, 3)


@pytest.fixture
def user_code(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("users_nets")
    monkeypatch.setitem(sys.modules, "users_nets", module)
    return module


def test_the_users_callable_gets_the_number_of_classes(user_code: types.ModuleType) -> None:
    user_code.make = lambda num_classes, width=4: nn.Linear(width, num_classes)
    model = build_model("users_nets:make", num_classes=3, seed=0)
    assert model.out_features == 3
    with pytest.raises(UnknownModelError, match=r"runs code of yours; allow it with --set models\.allow_callables"):
        build_model("users_nets:make", num_classes=3, allow_callables=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:Net", "cannot import no_such_module_here:Net: No module named"),
        ("users_nets:missing", "cannot import users_nets:missing"),
        ("users_nets:number", "is int, which cannot be called"),
        ("users_nets:none", "returned NoneType, not a torch.nn.Module"),
        ("users_nets:no_arguments", "cannot be called with num_classes"),
    ],
)
def test_user_code_that_makes_no_model_is_named(user_code: types.ModuleType, name: str, message: str) -> None:
    user_code.number = 3
    user_code.none = lambda num_classes: None
    user_code.no_arguments = lambda: nn.Identity()
    with pytest.raises(UnknownModelError, match=message):
        build_model(name, num_classes=2)


def test_what_the_users_constructor_raises_is_said_in_one_line(user_code: types.ModuleType) -> None:
    user_code.broken = lambda num_classes: {}["width"]
    said = "users_nets:broken raised KeyError when it was called with num_classes=: 'width'; mend that code, or leave"
    for check in (build_model, lambda name, num_classes: check_resolution(name, 32, num_classes=num_classes)):
        with pytest.raises(UnknownModelError, match=re.escape(said)) as found:
            check("users_nets:broken", num_classes=2)
        assert isinstance(found.value.__cause__, KeyError)


@pytest.mark.parametrize("statement", ["1 / 0", "raise SystemExit(3)"])
def test_what_the_users_module_raises_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    name = f"module_that_raises_{len(statement)}"
    (tmp_path / f"{name}.py").write_text(statement)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownModelError, match=rf"{name}:Net raised \w+ when it was imported: "):
        build_model(f"{name}:Net", num_classes=2)


def test_a_syntax_error_in_user_code_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_broken.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownModelError, match="cannot import users_broken:f") as raised:
        build_model("users_broken:f", num_classes=2)
    assert "\n" not in str(raised.value)


def test_normalisation_is_what_the_weights_expect() -> None:
    assert normalisation_of("VGG11") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert normalisation_of("tf_efficientnet_lite0") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert normalisation_of("users.nets:Net") == normalisation_of("tiny_cnn") == normalisation_of("vgg16")


@pytest.mark.parametrize("name", ["tiny_cnn", "users.nets:Net"])
def test_pretrained_is_refused_where_nothing_is_published(name: str) -> None:
    with pytest.raises(CheckpointError, match="has no published weights; set pretrained to false"):
        check_pretrained(name, True, num_classes=2)


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_pretrained_offline_is_one_line_at_once(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("socket.create_connection", unreachable)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("resomap.models.pretrained._cached", lambda *_: None)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(CheckpointError, match=f"weights of {name} are not on this machine and .* cannot be") as raised:
        build_model(name, num_classes=2, pretrained=True)
    assert "\n" not in str(raised.value)


def test_pretrained_download_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy only the download itself can tell."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fails(*args: object, **kwargs: object) -> None:
        raise LocalEntryNotFoundError("An error happened.\nCheck your connection.")

    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy"})
    monkeypatch.setattr("resomap.models.pretrained._cached", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", fails)
    with pytest.raises(CheckpointError, match=r"cannot get the weights of resnet18 \(An error happened\.\);") as raised:
        build_model("resnet18", num_classes=2, pretrained=True)
    assert "\n" not in str(raised.value)


def test_pretrained_uses_cached_weights_without_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    published = construct("mobilenet_v3_small", num_classes=1000, seed=1)
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr("resomap.models.pretrained._cached", lambda *_: str(tmp_path / "model.safetensors"))
    model = build_model("mobilenet_v3_small", num_classes=3, pretrained=True, seed=0)
    assert torch.equal(model.conv_stem.weight, published.conv_stem.weight)
    assert torch.equal(
        model.classifier.weight, build_model("mobilenet_v3_small", num_classes=3, seed=0).classifier.weight
    )
