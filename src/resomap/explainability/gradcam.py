"""Grad-CAM: which cells of a feature map raise a class's logit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from resomap.errors import TargetLayerError
from resomap.explainability.attribution import (
    Attribution,
    Targets,
    borrowed,
    check_images,
    check_method,
    chosen_targets,
)
from resomap.models.target_layers import get_target_layer, unwrapped


class GradCAM:
    """Class-discriminative heat maps from one convolutional layer.

    L = relu(sum_k w_k A_k), w_k = mean over h, w of dy_c / dA_k

    Only the head, from the layer on, is differentiated: the gradient by the layer's output needs no pass through the
    trunk. For the last feature map that costs about as much as one forward pass.

    Args:
        model: any CNN; DistributedDataParallel is looked into.
        target_layer: dotted name or module; None: the last feature map (models.target_layers).
        chunk: images at a time.
    Raises:
        TargetLayerError: no such layer.
        ConfigError: `model` is no torch.nn.Module, or `chunk` no number of images.
    Reference: Selvaraju et al. 2017, arXiv:1610.02391, eq. 1-2.
    """

    def __init__(self, model: nn.Module, target_layer: str | nn.Module | None = None, *, chunk: int = 16) -> None:
        check_method(model, chunk)
        self.model = model
        self.chunk = chunk
        self._asked = _name_of(unwrapped(model), target_layer) if isinstance(target_layer, nn.Module) else target_layer
        if self._asked is not None and not (
            isinstance(self._asked, str) and self._asked in dict(unwrapped(model).named_modules())
        ):
            get_target_layer(model, self._asked)  # raises, and names the nearest
        self._found: dict[int, str] = {}

    def layer_name(self, resolution: int) -> str:
        """The layer that is explained for inputs of this side."""
        if self._asked is not None:
            return self._asked
        if resolution not in self._found:
            self._found[resolution] = get_target_layer(self.model, resolution=resolution)
        return self._found[resolution]

    def __call__(self, images_BCHW: Tensor, targets_B: Targets = None) -> Attribution:
        """Explain a batch.

        Args:
            images_BCHW: float32, normalised as the model expects.
            targets_B: int64 class ids, or one for all; None: the predicted class.
        Returns:
            Maps (B, h, w) float32, >= 0, on the layer's own grid and NOT rescaled; the logits of the same pass.
        Raises:
            TargetLayerError: the layer's output is not (B, C, h, w), or it did not run.
        Side effects: none. Mode, gradients and hooks are restored, also after an error.
        """
        targets_B = check_images(images_BCHW, targets_B)
        name = self.layer_name(images_BCHW.shape[-1])
        parts = []
        with borrowed(self.model) as network:
            for start in range(0, len(images_BCHW), self.chunk):
                stop = start + self.chunk
                wanted = None if targets_B is None else targets_B[start:stop]
                parts.append(_explain(network, name, images_BCHW[start:stop], wanted))
        maps, logits, targets = (torch.cat(list(column)) for column in zip(*parts, strict=True))
        return Attribution(
            maps_Bhw=maps, targets_B=targets, logits_BK=logits, notes={"layer": [name] * len(images_BCHW)}
        )


def _name_of(model: nn.Module, layer: nn.Module) -> str:
    for name, module in model.named_modules():
        if module is layer:
            return name
    raise TargetLayerError(
        f"the {type(layer).__name__} given is no layer of {type(model).__name__}; give one of its own"
    )


def _explain(
    network: nn.Module, name: str, images_BCHW: Tensor, targets_B: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(maps (B, h, w), logits (B, K), targets (B,)) of one chunk."""
    captured: list[Tensor] = []

    def split(_module: nn.Module, _inputs: Any, output: object) -> Tensor:
        """End of the trunk: from here on operations are recorded."""
        if not isinstance(output, Tensor) or output.ndim != 4:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise TargetLayerError(f"layer {name!r} gives {shape}, not a feature map (B, C, h, w); choose another")
        torch.set_grad_enabled(True)
        captured.append(output.detach().requires_grad_(True))
        return captured[-1].clone()  # the next layer may work in place, which a leaf does not allow

    handle = network.get_submodule(name).register_forward_hook(split)
    try:
        with torch.no_grad():  # restores the caller's mode, whatever the hook set
            logits_BK = network(images_BCHW.contiguous(memory_format=torch.channels_last))
            if not captured:
                raise TargetLayerError(f"layer {name!r} does not run in the forward pass; choose another")
            targets = chosen_targets(logits_BK.detach(), targets_B)
            torch.set_grad_enabled(True)
            (gradient,) = torch.autograd.grad(logits_BK.gather(1, targets[:, None]).sum(), captured[-1])
    finally:
        handle.remove()
    weights_BC11 = gradient.mean(dim=(2, 3), keepdim=True)
    maps_Bhw = (weights_BC11 * captured[-1].detach()).sum(dim=1).relu()
    return maps_Bhw.float(), logits_BK.detach(), targets
