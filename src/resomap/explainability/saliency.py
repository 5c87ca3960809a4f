"""Saliency: how strongly each pixel moves a class's logit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resomap.explainability.attribution import (
    Attribution,
    Targets,
    borrowed,
    check_images,
    check_method,
    input_gradients,
)


class Saliency:
    """M = max over channels of |dy_c / dx|.

    Args:
        model: any classifier of images.
        chunk: images at a time.
    Reference: Simonyan et al. 2014, arXiv:1312.6034, section 3.1.
    """

    def __init__(self, model: nn.Module, *, chunk: int = 16) -> None:
        check_method(model, chunk)
        self.model, self.chunk = model, chunk

    def __call__(self, images_BCHW: Tensor, targets_B: Targets = None) -> Attribution:
        """Explain a batch.

        Args:
            images_BCHW: float32, normalised as the model expects.
            targets_B: int64 class ids, or one for all; None: the predicted class.
        Returns:
            Maps (B, H, W) float32, >= 0, not rescaled; signed_BCHW holds the gradients.
        Side effects: none. Mode and gradients are restored, also after an error.
        """
        images_BCHW, targets_B = check_images(self.model, images_BCHW, targets_B)
        with borrowed(self.model) as network:
            parts = [
                input_gradients(network, part, None if targets_B is None else targets_B[i : i + self.chunk])
                for i, part in zip(range(0, len(images_BCHW), self.chunk), images_BCHW.split(self.chunk), strict=True)
            ]
        gradients, logits, targets = (torch.cat(list(column)) for column in zip(*parts, strict=True))
        return Attribution(
            maps_Bhw=gradients.abs().amax(dim=1).float(), targets_B=targets, logits_BK=logits, signed_BCHW=gradients
        )
