"""What any network is asked, and how it is run on shapes or in another mode and handed back as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from resomap.checks import is_whole
from resomap.errors import ConfigError
from resomap.models.generators import isolated_generators

SIZE_ERRORS = (RuntimeError, AssertionError, ValueError, TypeError, IndexError, ArithmeticError)
"""What layers raise at a size that they cannot take: shape checks, asserts, empty outputs."""


def check_module(model: object) -> None:
    """Refuse what is no network.

    Raises:
        ConfigError: it is no torch.nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: expected a torch.nn.Module, got {type(model).__name__}; build_model(name) makes one")


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel or DataParallel.

    Raises:
        ConfigError: it is no torch.nn.Module.
    """
    check_module(model)
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return model.module
    return model


def checked_logits(logits: object, images: int) -> Tensor:
    """A network's answer to so many images, (B, K) logits.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != images:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(
            f"model: expected logits (B, K), here ({images}, K), got {got}; wrap it in a module whose forward() "
            "returns the logits alone"
        )
    return logits


def count_parameters(model: nn.Module, *, trainable_only: bool = False) -> int:
    """Number of parameters (weights and biases; running statistics are not parameters)."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def input_dtype(model: nn.Module) -> torch.dtype:
    """Of the images that the network takes: that of its first floating-point parameter; float32 where it has none."""
    return next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), torch.float32)


def device_of(model: nn.Module) -> torch.device:
    """Where the network's weights are; the CPU where it has none."""
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))


@contextmanager
def module_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode inside; each submodule's own mode is restored, also after an error."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        yield
    finally:
        for module, before in modes:
            module.training = before


def in_eval_mode(model: nn.Module) -> AbstractContextManager[None]:
    """Evaluation mode inside; each submodule's own mode is restored, also after an error."""
    return module_mode(model, training=False)


def meta_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without values, for torch.func.functional_call on the meta device."""
    return {
        name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }


def sides_of(resolution: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels, of square images where one side is given; numpy's whole numbers are whole numbers.

    Raises:
        ConfigError: it is neither.
    """
    sides: Any = (resolution, resolution) if is_whole(resolution) else resolution
    if not isinstance(sides, Sequence) or len(sides) != 2 or not all(is_whole(side) and side > 0 for side in sides):
        raise ConfigError(
            f"resolution: expected a whole number of pixels from 1, or (height, width) of such, got {resolution!r}"
        )
    return int(sides[0]), int(sides[1])


def dry_forward(
    model: nn.Module, resolution: int | tuple[int, int], *, batch: int = 2, training: bool = False
) -> object:
    """The model's output for a batch of that size, computed on shapes alone.

    Args:
        model: with or without weights; its own are not read.
        resolution: side of square images, or (height, width), in pixels.
        training: in training mode, not in evaluation mode.
    Returns:
        What forward() returns, on the meta device: normally (batch, K) logits.
    Raises:
        ConfigError: the resolution is none.
    Side effects: none; training mode, weights and statistics stay as they are.
    """
    height, width = sides_of(resolution)
    images_BCHW = torch.empty(batch, 3, height, width, device="meta", dtype=input_dtype(model))
    with torch.no_grad(), module_mode(model, training=training):
        return functional_call(model, meta_state(model), (images_BCHW,))


def with_values(model: nn.Module) -> nn.Module:
    """The network itself; where its weights are on the meta device, a copy on the CPU with small ones drawn for it."""
    if device_of(model).type != "meta":
        return model
    network = copy.deepcopy(model).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            # Above 0, as variances are.
            tensor.uniform_(0, 0.1, generator=generator) if tensor.is_floating_point() else tensor.zero_()
    return network


def run_here(model: nn.Module, resolution: int | tuple[int, int], *, batch: int = 1, training: bool = False) -> object:
    """The model's output for blank images of that size, where the model is: what dry_forward cannot tell of code that
    asks tensors for their values.

    Args:
        training: by a copy in training mode; else by the model in evaluation mode.
    Raises:
        ConfigError: the resolution is none.
        Exception: whatever the model's code raises; at a size that it cannot take one of SIZE_ERRORS.
    Side effects: none; training mode, weights, statistics and torch's generators stay as they are.
    """
    network = with_values(model)
    if training and network is model:
        network = copy.deepcopy(model)
    device = device_of(network)
    images_BCHW = torch.zeros(batch, 3, *sides_of(resolution), device=device, dtype=input_dtype(network))
    with torch.no_grad(), isolated_generators(device), module_mode(network, training=training):
        return network(images_BCHW)
