"""Faithfulness, spectral occlusion, receptive field and overlays against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resomap.explainability.attribution import Attribution
from resomap.explainability.faithfulness import insertion_deletion, max_sensitivity, with_random_weights
from resomap.explainability.overlay import overlay
from resomap.explainability.receptive_field import effective_receptive_field
from resomap.explainability.spectral import octave_bands, without_band
from resomap.models.registry import build_model


class UpperLeft(nn.Module):
    """Certain of class 0 as long as the upper left quarter has any light."""

    def forward(self, x: Tensor) -> Tensor:
        light = (x[:, :, :4, :4].abs().sum(dim=(1, 2, 3)) > 0).float() * 200 - 100
        return torch.stack([light, -light], dim=1)


def test_a_map_that_is_right_deletes_at_once_and_a_wrong_one_at_the_end() -> None:
    images = torch.ones(2, 3, 8, 8)
    maps = torch.tensor([[[1.0, 0.2], [0.1, 0.0]], [[0.0, 1.0], [0.5, 0.2]]])  # the quarter first; the quarter last
    curves = insertion_deletion(UpperLeft(), images, maps, torch.tensor([0, 0]))
    # Fractions 0, .1, ... 1; a quarter is 16 of 64 pixels: gone from .3 on (round(19.2) >= 16).
    assert curves.deletion_BF[0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert curves.insertion_BF[0].tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(curves.deletion_auc, [0.25, 0.95])
    np.testing.assert_allclose(curves.insertion_auc, [0.95, 0.25])


def test_max_sensitivity_by_hand() -> None:
    def constant(images: Tensor, _targets: Tensor) -> Attribution:
        return Attribution(torch.ones(len(images), 4, 4), torch.zeros(len(images)), torch.zeros(len(images), 2))

    def linear(images: Tensor, _targets: Tensor) -> Attribution:
        return Attribution(images[:, 0], torch.zeros(len(images)), torch.zeros(len(images), 2))

    images = torch.ones(2, 1, 4, 4)
    assert max_sensitivity(constant, images, torch.tensor([0, 0])).tolist() == [0, 0]
    # The map moves as the pixels do: by at most radius / 1 relative, and by some.
    found = max_sensitivity(linear, images, torch.tensor([0, 0]), radius=0.02)
    assert (found > 0.005).all()
    assert (found <= 0.02).all()


def test_random_weights_are_drawn_anew_and_the_model_keeps_its_own() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model[1].running_mean.fill_(3.0)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fresh = with_random_weights(model, seed=1)
    assert not torch.equal(fresh[0].weight, model[0].weight)
    assert not torch.equal(fresh[2].weight, model[2].weight)
    assert fresh[1].running_mean.tolist() == [0, 0, 0, 0]
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in kept.items())
    assert torch.equal(with_random_weights(model, seed=1)[0].weight, fresh[0].weight)


class Scaled(nn.Module):
    """A token, a scale and an offset of zeros that no layer draws; attention, whose name for drawing is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.full((1, 1, 500), 3.0))
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.offset = nn.Parameter(torch.zeros(500))
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm(8)


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_random_weights_keep_no_parameter_of_networks_with_scales_and_tokens(name: str) -> None:
    model = build_model(name, num_classes=3, pretrained=False, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)  # trained
    fresh = dict(with_random_weights(model, seed=0).named_parameters())
    assert [name for name, trained in model.named_parameters() if torch.equal(trained, fresh[name])] == []


def test_random_weights_of_what_no_layer_draws_are_as_large_as_they_were() -> None:
    model = Scaled()
    with torch.no_grad():
        model.norm.weight.fill_(7.0)
        model.attention.in_proj_weight.fill_(7.0)
    fresh = with_random_weights(model, seed=0)
    assert abs(fresh.token.mean().item()) < 0.6
    assert fresh.token.square().mean().sqrt().item() == pytest.approx(3, rel=0.15)
    assert fresh.scale.item() != 4
    assert fresh.offset.std().item() == pytest.approx(0.02, rel=0.15)
    assert fresh.norm.weight.tolist() == [1] * 8  # drawn as the layer was written to
    assert 0 < fresh.attention.in_proj_weight.abs().max().item() < 1
    assert all(parameter.requires_grad for parameter in fresh.parameters())


def test_octave_bands_reach_the_nyquist_limit() -> None:
    assert octave_bands(32) == ((2, 4), (4, 8), (8, 16))
    assert octave_bands(96) == ((2, 4), (4, 8), (8, 16), (16, 32), (32, 48))
    assert octave_bands(34) == ((2, 4), (4, 8), (8, 17))  # less than a quarter octave joins the band below


def test_a_grating_disappears_with_its_band_and_with_no_other() -> None:
    x = np.arange(64) / 64
    grating = 128 + 100 * np.cos(2 * np.pi * 10 * x)
    image = np.broadcast_to(grating[None, :, None], (1, 64, 64, 3))
    np.testing.assert_allclose(without_band(image, 8, 16), 128, atol=1e-3)
    np.testing.assert_allclose(without_band(image, 4, 8), image, atol=1e-3)


def test_receptive_field_of_one_convolution() -> None:
    # One 3x3 convolution: the central cell sees 3 x 3 pixels; with weights of equal size all count.
    model = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    nn.init.ones_(model[0].weight)
    field = effective_receptive_field(model, 16)
    assert (field.layer, field.side_px, field.share_of_input) == ("0", 3.0, 3 / 16)


@pytest.mark.parametrize("top", [None, 2.0])
def test_overlay_colours_only_where_the_map_is_high(top: float | None) -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    drawn = overlay(image, np.array([[0.0, 0.0], [0.0, 2.0]]), top=top)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert drawn[0, 0].tolist() == [100, 100, 100]
    assert drawn[7, 7].tolist() != [100, 100, 100]
    assert np.array_equal(overlay(image, np.zeros((2, 2))), image)
