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
    logits_of,
)
from resomap.models.modules import SIZE_ERRORS, unwrapped
from resomap.models.target_layers import TargetLayer, channels_axis, find_target_layer


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
            find_target_layer(model, self._asked)  # raises, and names the nearest
        self._found: dict[tuple[int, int], TargetLayer | None] = {}

    def _layer(self, size: tuple[int, int]) -> TargetLayer | None:
        """The layer that is explained for inputs (H, W); None: the one asked for, where shapes alone do not run."""
        if size not in self._found:
            try:
                self._found[size] = find_target_layer(self.model, self._asked, resolution=size)
            except TargetLayerError as error:
                if self._asked is None or not isinstance(error.__cause__, SIZE_ERRORS):
                    raise
                self._found[size] = None
        return self._found[size]

    def __call__(self, images_BCHW: Tensor, targets_B: Targets = None) -> Attribution:
        """Explain a batch.

        Args:
            images_BCHW: float32, normalised as the model expects.
            targets_B: int64 class ids, or one for all; None: the predicted class.
        Returns:
            Maps (B, h, w) float32, >= 0, on the layer's own grid and NOT rescaled; the logits of the same pass.
        Raises:
            TargetLayerError: the layer's output is not (B, C, h, w) or (B, h, w, C), or it did not run.
        Side effects: none. Mode, gradients and hooks are restored, also after an error.
        """
        images_BCHW, targets_B = check_images(self.model, images_BCHW, targets_B)
        height, width = images_BCHW.shape[-2:]
        found = self._layer((height, width))
        name = found.name if found is not None else str(self._asked)
        channels = found.channels if found is not None else None
        parts = []
        with borrowed(self.model) as network:
            for start in range(0, len(images_BCHW), self.chunk):
                stop = start + self.chunk
                wanted = None if targets_B is None else targets_B[start:stop]
                parts.append(_explain(network, name, channels, images_BCHW[start:stop], wanted))
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
    network: nn.Module, name: str, channels: int | None, images_BCHW: Tensor, targets_B: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(maps (B, h, w), logits (B, K), targets (B,)) of one chunk.

    Args:
        channels: axis of the layer's channels; None: by the proportions of its output.
    """
    captured: list[Tensor] = []
    height, width = images_BCHW.shape[-2:]

    def split(_module: nn.Module, _inputs: Any, output: object) -> Tensor:
        """End of the trunk: from here on operations are recorded."""
        nonlocal channels
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        channels = channels or channels_axis(shape, (height, width))
        if not isinstance(output, Tensor) or channels is None:
            gives = shape or type(output).__name__
            raise TargetLayerError(f"layer {name!r} gives {gives}, not a feature map (B, C, h, w); choose another")
        torch.set_grad_enabled(True)
        captured.append(output.detach().requires_grad_(True))
        return captured[-1].clone()  # the next layer may work in place, which a leaf does not allow

    handle = network.get_submodule(name).register_forward_hook(split)
    try:
        with torch.no_grad():  # restores the caller's mode, whatever the hook set
            logits_BK = logits_of(network, images_BCHW.contiguous(memory_format=torch.channels_last))
            if not captured or channels is None:
                raise TargetLayerError(f"layer {name!r} does not run in the forward pass; choose another")
            targets = chosen_targets(logits_BK.detach(), targets_B)
            torch.set_grad_enabled(True)
            (gradient,) = torch.autograd.grad(logits_BK.gather(1, targets[:, None]).sum(), captured[-1])
    finally:
        handle.remove()
    gradient_BChw, features_BChw = (found.movedim(channels, 1) for found in (gradient, captured[-1].detach()))
    weights_BC11 = gradient_BChw.mean(dim=(2, 3), keepdim=True)
    maps_Bhw = (weights_BC11 * features_BChw).sum(dim=1).relu()
    return maps_Bhw.float(), logits_BK.detach(), targets
