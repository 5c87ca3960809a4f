"""Effective receptive field: how much of the input one cell of the last feature map looks at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resomap.explainability.attribution import borrowed, borrowed_dtype
from resomap.models.modules import device_of
from resomap.models.target_layers import find_target_layer


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """Of the central cell of a layer; beside the input size it says how much context a decision rests on."""

    layer: str
    resolution: int
    side_px: float
    """Root of the area in which the gradient is at least 4.55 % of its largest value."""
    share_of_input: float
    """side_px / resolution."""


def effective_receptive_field(
    model: nn.Module, resolution: int, *, target_layer: str | None = None, samples: int = 8, seed: int = 0
) -> ReceptiveField:
    """Mean |gradient| of the central cell (summed over channels) by the pixels of noise images.

    Reference: Luo et al. 2016, arXiv:1701.04128, section 3 (there: pixels above 1 - 95.45 % of the centre).
    """
    layer = find_target_layer(model, target_layer, resolution=resolution)
    with borrowed(model) as network:
        device = device_of(network)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(samples, 3, resolution, resolution, generator=generator)
        images = noise.to(device, borrowed_dtype(network)).requires_grad_(True)
        found: list[Tensor] = []
        handle = network.get_submodule(layer.name).register_forward_hook(lambda _m, _i, output: found.append(output))
        try:
            with torch.enable_grad():
                network(images)
                features_BChw = found[-1].movedim(layer.channels, 1)
                centre = features_BChw[:, :, features_BChw.shape[2] // 2, features_BChw.shape[3] // 2]
                (gradient,) = torch.autograd.grad(centre.sum(), images)
        finally:
            handle.remove()
    field = gradient.abs().sum(dim=1).mean(dim=0)
    side = float((field >= (1 - 0.9545) * field.max()).sum()) ** 0.5 if float(field.max()) > 0 else 0.0
    return ReceptiveField(layer.name, resolution, side, side / resolution)
