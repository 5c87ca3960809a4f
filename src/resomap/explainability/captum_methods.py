"""Methods that sample or perturb, by Captum; the same interface and the same promises as our own.

Sampling follows from a seed, the same draws for every image whatever else is in its batch, and the global random state
is as before afterwards. Regions of Kernel SHAP and LIME are
cells of a grid in fractions of the image, so that they are the same at every resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import GradientShap, KernelShap, Lime, NoiseTunnel, Occlusion
from captum.attr import Saliency as CaptumSaliency
from torch import Tensor, nn

from resomap.checks import is_whole
from resomap.errors import ConfigError
from resomap.explainability.attribution import (
    Attribution,
    Targets,
    borrowed,
    check_images,
    check_method,
    chosen_targets,
    logits_of,
)
from resomap.models.generators import seeded

GRID = 7
"""Cells a side of the regions that Kernel SHAP and LIME switch on and off."""
_WINDOW = 8
"""Occluded squares are an eighth of the side, moved by half of that."""
_SAMPLES = {"smoothgrad": 16, "gradient_shap": 16, "kernel_shap": 200, "lime": 200}
_NOISE = 0.15
"""Standard deviation of SmoothGrad's noise as a share of the image's range (Smilkov et al. 2017: 0.1 to 0.2)."""


class CaptumMethod:
    """One of Captum's methods as a callable (images_BCHW, targets_B) -> Attribution.

    Args:
        model: any classifier of images.
        method: smoothgrad, gradient_shap, occlusion, kernel_shap or lime.
        seed: of the samples; a whole number, of 64 bits.
    Raises:
        ConfigError: no such method or seed, or the model is no torch.nn.Module.
    References: SmoothGrad arXiv:1706.03825; GradientSHAP and Kernel SHAP arXiv:1705.07874; Occlusion arXiv:1311.2901;
        LIME arXiv:1602.04938.
    """

    def __init__(self, model: nn.Module, *, method: str, seed: int = 0) -> None:
        check_method(model)
        if method not in _ATTRIBUTE:
            raise ConfigError(f"method: expected one of {', '.join(_ATTRIBUTE)}, got {method!r}")
        if not is_whole(seed) or not -(2**63) <= seed < 2**63:
            raise ConfigError(f"seed: expected a whole number of 64 bits, got {seed!r}")
        self.model, self.method, self.seed = model, method, seed

    def __call__(self, images_BCHW: Tensor, targets_B: Targets = None) -> Attribution:
        """Explain a batch; maps (B, H, W) float32: |sum over channels|, not rescaled.

        A region's attribution (occlusion, Kernel SHAP, LIME) stands at each of its pixels, shared by the channels.
        """
        images_BCHW, targets_B = check_images(self.model, images_BCHW, targets_B)
        with borrowed(self.model) as network:
            with torch.no_grad():
                logits_BK = logits_of(network, images_BCHW)
            targets = chosen_targets(logits_BK, targets_B)
            at_once = 1 if self.method in _SAMPLES else len(images_BCHW)
            parts = []
            for images, wanted in zip(images_BCHW.split(at_once), targets.split(at_once), strict=True):
                with seeded(images.device, self.seed), _numpy_seeded(self.seed), _frozen(network):
                    parts.append(_ATTRIBUTE[self.method](network, images, wanted))
        signed = torch.cat(parts)
        return Attribution(
            maps_Bhw=signed.detach().sum(dim=1).abs().float(),
            targets_B=targets,
            logits_BK=logits_BK,
            signed_BCHW=signed.detach(),
        )


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """numpy's numbers from a seed inside (Captum's GradientSHAP draws by it); the caller's afterwards."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)


class _frozen:  # noqa: N801 - reads as a statement
    """Parameters without gradients inside: Captum's backward passes leave none behind, and cost less."""

    def __init__(self, network: nn.Module) -> None:
        self._needed = [(p, p.requires_grad) for p in network.parameters()]

    def __enter__(self) -> None:
        for parameter, _ in self._needed:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter, needed in self._needed:
            parameter.requires_grad_(needed)


def _smoothgrad(network: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    spread = float(image.amax() - image.amin())
    tunnel = NoiseTunnel(CaptumSaliency(network))
    return tunnel.attribute(
        image, nt_type="smoothgrad", nt_samples=_SAMPLES["smoothgrad"], stdevs=_NOISE * spread, target=target, abs=False
    )


def _gradient_shap(network: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    baselines = torch.zeros_like(image)
    return GradientShap(network).attribute(
        image, baselines, n_samples=_SAMPLES["gradient_shap"], stdevs=0.0, target=target
    )


def _occlusion(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    side = max(1, images.shape[-1] // _WINDOW)
    step = max(1, side // 2)
    with torch.no_grad():
        return Occlusion(network).attribute(
            images, sliding_window_shapes=(images.shape[1], side, side), strides=(images.shape[1], step, step),
            target=targets,
        ) / images.shape[1]  # fmt: skip


def grid_regions(height: int, width: int) -> Tensor:
    """(1, 1, H, W) int64: the cell of a GRID x GRID partition in which a pixel's centre lies."""
    rows = ((torch.arange(height) + 0.5) * GRID / height).long()
    columns = ((torch.arange(width) + 0.5) * GRID / width).long()
    return (rows[:, None] * GRID + columns)[None, None]


def _by_regions(kind: Callable[[nn.Module], Any], samples: int) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    def attribute(network: nn.Module, image: Tensor, target: Tensor) -> Tensor:
        regions = grid_regions(*image.shape[2:]).to(image.device)
        options = {"feature_mask": regions, "n_samples": samples, "perturbations_per_eval": 16}
        with torch.no_grad():
            found: Tensor = kind(network).attribute(image, target=int(target), **options)
        return found / image.shape[1]

    return attribute


def _lime(network: nn.Module) -> Lime:
    """With ridge regression, as LIME's own images have it: Captum's lasso is silent where logits are small."""
    return Lime(network, interpretable_model=SkLearnRidge(alpha=1.0))


_ATTRIBUTE: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "smoothgrad": _smoothgrad,
    "gradient_shap": _gradient_shap,
    "occlusion": _occlusion,
    "kernel_shap": _by_regions(KernelShap, _SAMPLES["kernel_shap"]),
    "lime": _by_regions(_lime, _SAMPLES["lime"]),
}
