"""Operations and parameters of a model, counted on shapes alone where its code lets them.

One multiply-accumulate (MAC) is two floating-point operations (FLOPs). Counted are convolutions, matrix products and
attention, forward and backward, by torch.utils.flop_counter; element-wise work (normalisation, activations, pooling)
is left out, as is usual. Counted on meta tensors: on CPU tensors the counter misses fused attention. Code that asks
tensors for values is run on noise, without fused attention. Of grouped convolutions torch counts the forward pass
right, but the gradient as if they were dense: that formula is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from resomap.checks import is_whole
from resomap.errors import ConfigError, ResolutionError
from resomap.models.generators import seeded
from resomap.models.modules import (
    SIZE_ERRORS,
    check_module,
    count_parameters,
    device_of,
    in_eval_mode,
    input_dtype,
    meta_state,
    with_values,
)
from resomap.printable import printable

FLOPS_PER_MAC = 2


@dataclass(frozen=True, slots=True)
class StageCost:
    """One direct child of the model (a stage)."""

    name: str
    macs: int
    share: float
    """Of the model's MACs; 0 where it has none."""
    parameters: int


@dataclass(frozen=True, slots=True)
class Complexity:
    """Cost of one batch; the forward pass unless said otherwise."""

    input_shape: tuple[int, ...]
    """B C H W."""
    macs: int
    flops: int
    """2 FLOPs a MAC."""
    backward_flops: int
    """Of the backward pass alone: about twice the forward pass, less the input's gradient."""
    parameters: int
    trainable_parameters: int
    stages: tuple[StageCost, ...]


def checked_shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    """(B, C, H, W) of a shape with or without B.

    Raises:
        ConfigError: not three or four whole numbers from 1.
    """
    shape = tuple(input_shape) if isinstance(input_shape, Iterable) else ()
    if len(shape) not in (3, 4) or not all(is_whole(side) and side > 0 for side in shape):
        raise ConfigError(f"input_shape: expected (B, C, H, W) or (C, H, W), whole numbers from 1, got {input_shape!r}")
    return tuple(int(side) for side in (shape if len(shape) == 4 else (1, *shape)))


def get_model_complexity(model: nn.Module, input_shape: Sequence[int] = (1, 3, 224, 224)) -> Complexity:
    """Count a model's operations for one input shape, without touching it or needing its memory.

    Code that asks tensors for their values is run, and needs it.

    Args:
        model: in any mode, on any device.
        input_shape: (B, C, H, W), or (C, H, W) for one image.
    Raises:
        ResolutionError: the model cannot take that shape.
        ConfigError: it is no shape, or the model is no network.
    Side effects: none. Mode, weights, gradients and hooks are as before.
    """
    check_module(model)
    shape = checked_shape(input_shape)
    forward, total = _count(model, shape)
    flops = sum(forward.get("Global", {}).values())
    root = type(model).__name__
    return Complexity(
        input_shape=shape,
        macs=flops // FLOPS_PER_MAC,
        flops=flops,
        backward_flops=total - flops,
        parameters=count_parameters(model),
        trainable_parameters=count_parameters(model, trainable_only=True),
        stages=tuple(
            StageCost(
                name=name,
                macs=(of_stage := _flops_of(child, f"{root}.{name}", forward)) // FLOPS_PER_MAC,
                share=of_stage / flops if flops else 0.0,
                parameters=count_parameters(child),
            )
            for name, child in model.named_children()
        ),
    )


def _flops_of(module: nn.Module, path: str, forward: Mapping[str, Mapping[object, int]]) -> int:
    """FLOPs of a module's forward pass; those of its children where it is not called itself (nn.ModuleList)."""
    if path in forward:
        return sum(forward[path].values())
    return sum(_flops_of(child, f"{path}.{name}", forward) for name, child in module.named_children())


def _convolution_backward_flops(
    grad_out_shape: Sequence[int],
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    _output_padding: object,
    _groups: int,
    output_mask: Sequence[bool],
    **_: Any,
) -> int:
    """FLOPs of a convolution's gradients: for input and for weights each as many as its forward pass.

    A weight of shape (C_out, C_in / groups, k, k) is used once an output position (an input position if transposed).
    """
    positions = math.prod((x_shape if transposed else grad_out_shape)[2:]) * x_shape[0]
    return FLOPS_PER_MAC * positions * math.prod(w_shape) * (bool(output_mask[0]) + bool(output_mask[1]))


def _count(model: nn.Module, shape: tuple[int, ...]) -> tuple[dict[str, dict[object, int]], int]:
    """(FLOPs of the forward pass by module and operator, FLOPs of forward and backward together)."""
    with torch.inference_mode(False), in_eval_mode(model), torch.enable_grad():
        try:
            images_BCHW = torch.empty(shape, device="meta", dtype=input_dtype(model))
            return _counted(model, meta_state(model), images_BCHW)
        except SIZE_ERRORS:
            pass  # the shape, or code that asks tensors for values: the passes themselves tell
        try:
            network = with_values(model)
            device = device_of(network)
            with seeded(device, 0), sdpa_kernel(SDPBackend.MATH):
                images_BCHW = torch.randn(shape, device=device, dtype=input_dtype(network))
                return _counted(network, _copied_state(network), images_BCHW)
        except torch.OutOfMemoryError:
            raise
        except SIZE_ERRORS as wrong:
            raise ResolutionError(
                f"{type(model).__name__} cannot take an input of shape {shape} ({printable(wrong)}); give B, C, H, W "
                "that it can"
            ) from wrong


def _copied_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that take gradients and statistics of their own."""
    state = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach().clone().requires_grad_(tensor.requires_grad) for name, tensor in state}


def _counted(
    model: nn.Module, state: dict[str, Tensor], images_BCHW: Tensor
) -> tuple[dict[str, dict[object, int]], int]:
    own = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    counter = FlopCounterMode(display=False, custom_mapping=own)
    with counter:
        output = functional_call(model, state, (images_BCHW,))
        forward = {name: dict(counts) for name, counts in counter.get_flop_counts().items()}
        if output.requires_grad:
            output.sum().backward()
    return forward, counter.get_total_flops()
