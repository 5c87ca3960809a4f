"""Explanations against Captum and pytorch-grad-cam, on the same networks and images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import LayerGradCam
from captum.attr import Saliency as CaptumSaliency
from pytorch_grad_cam import GradCAM as OtherGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from resomap.explainability.gradcam import GradCAM
from resomap.explainability.integrated_gradients import IntegratedGradients
from resomap.explainability.saliency import Saliency
from resomap.models.registry import build_model, list_models
from resomap.models.target_layers import get_target_layer

TARGETS = torch.tensor([0, 3, 1])


def _images(side: int = 96) -> torch.Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))


def _network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(name, num_classes=4).eval()


class RawGradCAM(OtherGradCAM):
    """pytorch-grad-cam before it resizes and scales each map by its own extremes."""

    def compute_cam_per_layer(self, input_tensor, targets, eigen_smooth):
        activations = self.activations_and_grads.activations[0].cpu().data.numpy()
        gradients = self.activations_and_grads.gradients[0].cpu().data.numpy()
        layer = self.target_layers[0]
        self.raw = np.maximum(self.get_cam_image(input_tensor, layer, targets, activations, gradients, eigen_smooth), 0)
        return super().compute_cam_per_layer(input_tensor, targets, eigen_smooth)


@pytest.mark.parametrize("name", list_models())
def test_gradcam_equals_captum_and_pytorch_grad_cam(name: str) -> None:
    """Ours works in channels_last, so the others are given their images in it: then kernels round alike."""
    model, images = _network(name), _images()
    layer = get_target_layer(model, resolution=96)
    ours = GradCAM(model)(images, TARGETS).maps_Bhw
    module = model.get_submodule(layer)
    alike = images.contiguous(memory_format=torch.channels_last)
    captum = LayerGradCam(model, module).attribute(alike, target=TARGETS, relu_attributions=True)[:, 0]
    with RawGradCAM(model=model, target_layers=[module]) as other:
        other(alike, targets=[ClassifierOutputTarget(int(k)) for k in TARGETS])
    for expected in (captum.detach(), torch.from_numpy(other.raw)):
        difference = float((ours - expected).abs().max())
        assert difference < 1e-5
        # At random weights some networks' maps are as small as that themselves.
        assert difference <= 1e-3 * float(expected.max())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_gradcam_of_images_in_the_other_memory_format_differs_by_rounding(name: str) -> None:
    model, images = _network(name), _images()
    module = model.get_submodule(get_target_layer(model, resolution=96))
    expected = LayerGradCam(model, module).attribute(images, target=TARGETS, relu_attributions=True)[:, 0].detach()
    # Float32 has some 1e-7 of relative rounding an operation; mobilenet_v2's values reach 4 at random weights.
    assert float((GradCAM(model)(images, TARGETS).maps_Bhw - expected).abs().max()) < 1e-5 * max(1, expected.max())


@pytest.mark.parametrize("name", ["tiny_cnn", "mobilenet_v3_small", "resnet18"])
def test_saliency_equals_captum(name: str) -> None:
    model, images = _network(name), _images(64)
    expected = CaptumSaliency(model).attribute(images.clone().requires_grad_(), target=TARGETS, abs=True)
    torch.testing.assert_close(Saliency(model)(images, TARGETS).maps_Bhw, expected.amax(dim=1))


@pytest.mark.parametrize("name", ["tiny_cnn", "mobilenet_v3_small"])
def test_integrated_gradients_equal_captum_at_the_same_nodes(name: str) -> None:
    model, images = _network(name), _images(64)
    expected = CaptumIntegratedGradients(model).attribute(
        images, target=TARGETS, n_steps=20, method="gausslegendre", baselines=0.0
    )
    ours = IntegratedGradients(model, steps=20, max_error=None, placement="gauss_legendre")(images, TARGETS)
    torch.testing.assert_close(ours.signed_BCHW, expected.float(), rtol=1e-3, atol=1e-6)


def test_adaptive_integrated_gradients_reach_the_same_integral() -> None:
    model, images = _network("tiny_cnn"), _images(32)
    exact = CaptumIntegratedGradients(model).attribute(images, target=TARGETS, n_steps=400, method="gausslegendre")
    ours = IntegratedGradients(model, steps=64, max_steps=1024, max_error=0.002)(images, TARGETS)
    error = (ours.signed_BCHW - exact).abs().sum(dim=(1, 2, 3)) / exact.abs().sum(dim=(1, 2, 3))
    assert float(error.max()) < 0.05
