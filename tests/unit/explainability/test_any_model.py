"""Models in any precision, callers in any mode, and outputs that are no logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from resomap.errors import ConfigError
from resomap.explainability.faithfulness import insertion_deletion
from resomap.explainability.methods import METHODS, explain
from resomap.explainability.receptive_field import effective_receptive_field
from resomap.models.modules import dry_forward


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip


def _images() -> Tensor:
    return torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_maps_of_a_model_in_another_precision_are_float32_and_those_of_its_weights(
    method: str, dtype: torch.dtype
) -> None:
    model, images_BCHW = _network().to(dtype), _images()
    expected = explain(_network().to(dtype).float(), images_BCHW, method=method, targets_B=1)
    for given in (images_BCHW, images_BCHW.double()):
        found = explain(model, given, method=method, targets_B=1)
        assert found.maps_Bhw.dtype == torch.float32
        # Kernel SHAP and LIME fit by least squares, whose last digits depend on the precision.
        torch.testing.assert_close(found.maps_Bhw, expected.maps_Bhw, rtol=1e-3, atol=1e-5)
    assert model[0].weight.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_tests_of_maps_take_a_model_in_another_precision(dtype: torch.dtype) -> None:
    model, images_BCHW = _network().to(dtype), _images()
    assert dry_forward(model, 14).dtype == dtype  # type: ignore[attr-defined]
    curves = insertion_deletion(model, images_BCHW, images_BCHW[:, 0], torch.tensor([0, 1]))
    assert curves.deletion_BF.shape == (2, 11)
    assert effective_receptive_field(model, 14).side_px <= 3


@pytest.mark.parametrize("method", METHODS)
def test_a_caller_in_inference_mode_gets_the_same_maps(method: str) -> None:
    model, images_BCHW, targets_B = _network(), _images(), torch.tensor([0, 1])
    expected = explain(model, images_BCHW, method=method, targets_B=targets_B).maps_Bhw
    with torch.inference_mode():
        copies = images_BCHW * 1, targets_B * 1
        inside = explain(model, copies[0], method=method, targets_B=copies[1]).maps_Bhw
        assert torch.is_inference_mode_enabled()
    assert torch.equal(inside, expected)
    assert torch.equal(explain(model, copies[0], method=method, targets_B=copies[1]).maps_Bhw, expected)


@pytest.mark.parametrize("method", METHODS)
def test_weights_made_in_inference_mode_are_one_line(method: str) -> None:
    with torch.inference_mode():
        model = _network()
    with pytest.raises(ConfigError, match=r"^model: expected weights that let gradients pass, .* outside of it$"):
        explain(model, _images(), method=method)


@pytest.mark.parametrize("method", METHODS)
def test_images_that_require_grad_leave_no_graph(method: str) -> None:
    images_BCHW = _images().requires_grad_(True)
    found = explain(_network(), images_BCHW, method=method)
    for tensor in (found.maps_Bhw, found.logits_BK, found.signed_BCHW):
        assert tensor is None or not tensor.requires_grad
    assert images_BCHW.grad is None


class Answering(nn.Module):
    """A network whose answer is a tuple, or one number an image."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self.network, self.answer = _network(), answer

    def forward(self, images_BCHW: Tensor) -> object:
        logits_BK = self.network(images_BCHW)
        return (logits_BK, images_BCHW) if self.answer == "tuple" else logits_BK[:, 0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("answer", "got"), [("tuple", "tuple"), ("numbers", r"\(2,\)")])
def test_a_model_that_gives_no_logits_is_one_line(method: str, answer: str, got: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model: expected logits \(B, K\), here \(2, K\), got {got}; wrap it"):
        explain(Answering(answer), _images(), method=method)
