"""What every method gives back, and how a model is borrowed and returned unchanged.

Legend: B images, K classes, C channels, H W input pixels, h w cells of a method's own grid.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from resomap.checks import is_whole
from resomap.errors import ConfigError
from resomap.explainability.full_float32 import full_float32
from resomap.models.modules import checked_logits, device_of, in_eval_mode, unwrapped


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """Maps of B images; nothing is rescaled, so that they stay comparable."""

    maps_Bhw: Tensor
    """(B, h, w) float32, >= 0, on the method's own grid."""
    targets_B: Tensor
    """int64: the class that was explained."""
    logits_BK: Tensor
    """Of the images, computed as the maps were."""
    signed_BCHW: Tensor | None = None
    """Of methods that explain pixels: the attribution of every input value, with its sign."""
    notes: Mapping[str, list[Any]] = field(default_factory=dict)
    """What the method reports, one value an image."""


@contextmanager
def borrowed(model: nn.Module) -> Iterator[nn.Module]:
    """The network itself, in evaluation mode and float32; modes and gradients are as before afterwards.

    Of a network in half precision a float32 copy; one in double precision stays so.

    Raises:
        ConfigError: weights through which no gradient passes.
    """
    network = unwrapped(model)
    if any(tensor.is_inference() for tensor in chain(network.parameters(), network.buffers())):
        raise ConfigError(
            "model: expected weights that let gradients pass, got some made under torch.inference_mode(); build or "
            "load the model outside of it"
        )
    device = device_of(network)
    with torch.inference_mode(False):
        if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in network.parameters()):
            network = copy.deepcopy(network).float()
        with in_eval_mode(network), torch.autocast(device.type, enabled=False), full_float32():
            yield network


def borrowed_dtype(model: nn.Module) -> torch.dtype:
    """Of the images that the borrowed network takes: float64 where its weights are, else float32."""
    dtypes = {parameter.dtype for parameter in model.parameters()}
    return torch.float64 if torch.float64 in dtypes else torch.float32


def logits_of(network: nn.Module, images_BCHW: Tensor) -> Tensor:
    """(B, K) logits.

    Raises:
        ConfigError: the network gives something else.
    """
    return checked_logits(network(images_BCHW), len(images_BCHW))


Targets = Tensor | Sequence[int] | int | None
"""Class ids, one an image; one for all images; or None for the predicted classes."""


def check_method(model: nn.Module, chunk: int = 1) -> None:
    """Refuse what no method can be made with.

    Raises:
        ConfigError: the model is no torch.nn.Module, or `chunk` no number of images.
    """
    unwrapped(model)
    if not is_whole(chunk) or chunk < 1:
        raise ConfigError(f"chunk: expected a whole number of images from 1, got {chunk!r}")


def check_images(model: nn.Module, images_BCHW: Tensor, targets_B: Targets) -> tuple[Tensor, Tensor | None]:
    """Refuse what no method can take.

    Returns:
        The images as the borrowed model takes them, without a graph; the targets as int64 (B,), or None for the
        predicted classes.
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
    targets = as_targets(targets_B, len(images_BCHW))
    with torch.inference_mode(False):  # tensors made under it take part in no gradient; a clone does
        images = images_BCHW.detach().to(borrowed_dtype(model))
        images = images.clone() if images.is_inference() else images
        return images, targets.clone() if targets is not None and targets.is_inference() else targets


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
        logits_BK = logits_of(network, leaf)
        targets = chosen_targets(logits_BK.detach(), targets_B)
        (gradient,) = torch.autograd.grad(logits_BK.gather(1, targets[:, None]).sum(), leaf)
    return gradient, logits_BK.detach(), targets
