"""What every method gives back, and how a model is borrowed and returned unchanged.

Legend: B images, K classes, C channels, H W input pixels, h w cells of a method's own grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from resomap.errors import ConfigError, is_whole
from resomap.models.resolutions import in_eval_mode
from resomap.models.target_layers import unwrapped


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """Maps of B images; nothing is rescaled, so that they stay comparable."""

    maps_Bhw: Tensor
    """(B, h, w) float32, >= 0, on the method's own grid."""
    targets_B: Tensor
    """int64: the class that was explained."""
    logits_BK: Tensor | None = None
    """Of the same forward pass, where the method has them."""
    signed_BCHW: Tensor | None = None
    """Of methods that explain pixels: the attribution of every input value, with its sign."""
    notes: Mapping[str, list[Any]] = field(default_factory=dict)
    """What the method reports, one value an image."""


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions and matrix products of float32 with all of its bits: CUDA's convolutions use TF32 unless told.

    Gradients with respect to pixels need them: ten bits of a factor decide on which side of zero a ReLU's input lies.
    """
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


@contextmanager
def borrowed(model: nn.Module) -> Iterator[nn.Module]:
    """The network itself, in evaluation mode and float32; modes and gradients are as before afterwards."""
    network = unwrapped(model)
    device = next(network.parameters(), torch.empty(0)).device
    with in_eval_mode(network), torch.autocast(device.type, enabled=False), full_float32():
        yield network


Targets = Tensor | Sequence[int] | int | None
"""Class ids, one an image; one for all images; or None for the predicted classes."""


def check_method(model: nn.Module, chunk: int) -> None:
    """Refuse what no method can be made with.

    Raises:
        ConfigError: the model is no torch.nn.Module, or `chunk` no number of images.
    """
    unwrapped(model)
    if not is_whole(chunk) or chunk < 1:
        raise ConfigError(f"chunk: expected a whole number of images from 1, got {chunk!r}")


def check_images(images_BCHW: Tensor, targets_B: Targets) -> Tensor | None:
    """Refuse what no method can take; returns the targets as int64 (B,), or None for the predicted classes.

    Raises:
        ConfigError: not (B, C, H, W) floating point, or not one target an image.
    """
    if not isinstance(images_BCHW, Tensor):
        raise ConfigError(f"images: expected a tensor (B, C, H, W), got {type(images_BCHW).__name__}")
    if images_BCHW.ndim != 4 or not images_BCHW.is_floating_point() or len(images_BCHW) == 0:
        raise ConfigError(
            f"images: expected (B, C, H, W) floating point, normalised, B > 0; got {tuple(images_BCHW.shape)} "
            f"{images_BCHW.dtype}"
        )
    return as_targets(targets_B, len(images_BCHW))


def as_targets(targets: Targets, images: int) -> Tensor | None:
    """Class ids int64 (B,) of so many images.

    Raises:
        ConfigError: not one whole number for all images, nor one an image.
    """
    if targets is None:
        return None
    try:
        ids = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"targets: expected class ids, one for all images or one an image, got {targets!r}") from None
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ConfigError(f"targets: expected class ids (whole numbers), got {ids.dtype}")
    if ids.ndim == 0:
        return ids.long().expand(images)
    if ids.shape != (images,):
        raise ConfigError(f"targets: expected one class id an image ({images}), or one for all, got {tuple(ids.shape)}")
    return ids.long()


def chosen_targets(logits_BK: Tensor, targets_B: Tensor | None) -> Tensor:
    """The targets given, or the predicted classes.

    Raises:
        ConfigError: a target is no class of the model.
    """
    if targets_B is None:
        return logits_BK.argmax(dim=1)
    classes = logits_BK.shape[1]
    if len(targets_B) and not (int(targets_B.min()) >= 0 and int(targets_B.max()) < classes):
        raise ConfigError(f"targets: expected class ids from 0 to {classes - 1}, got {targets_B.tolist()}")
    return targets_B.to(logits_BK.device)


def input_gradients(network: nn.Module, images_BCHW: Tensor, targets_B: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(gradients of the target logits by the images (B, C, H, W), logits (B, K), targets (B,)).

    torch.autograd.grad asks for the images' gradient alone: the parameters' own stay untouched.
    """
    with torch.enable_grad():
        leaf = images_BCHW.detach().clone().requires_grad_(True)
        logits_BK = network(leaf)
        targets = chosen_targets(logits_BK.detach(), targets_B)
        (gradient,) = torch.autograd.grad(logits_BK.gather(1, targets[:, None]).sum(), leaf)
    return gradient, logits_BK.detach(), targets
