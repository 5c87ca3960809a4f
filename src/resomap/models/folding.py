"""Networks for inference: each BatchNorm that follows a convolution becomes part of it.

In evaluation mode BatchNorm is an affine map of each channel, y = s x + t with s = gamma / sqrt(var + eps) and
t = beta - s mean, so a convolution before it can carry it: weights s w, bias s b + t. One pass over the largest
activations less; the logits differ by rounding (about 1e-7 of their size).
"""

from __future__ import annotations

import copy
import logging
import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from resomap.models.modules import SIZE_ERRORS, device_of, in_eval_mode

log = logging.getLogger(__name__)

_TOLERANCE = 1e-3
"""Of the largest logit. Rounding stays far below it, also where matrices are multiplied in TF32; a fold that should
not have been made does not."""
_CANNOT_FOLD = (*SIZE_ERRORS, AttributeError, NotImplementedError)


def for_inference(network: nn.Module, resolution: int, *, precision: str) -> nn.Module:
    """The network as evaluation runs it: folded in full precision.

    In bf16 and fp16 it stays as it is: rounding the folded weights would be another rounding than training saw.
    """
    return folded(network, resolution) if precision == "no" else network


def folded(network: nn.Module, resolution: int) -> nn.Module:
    """A copy in evaluation mode whose BatchNorms are folded into the convolutions before them.

    Args:
        resolution: a side that the network takes; the copy serves every other one too.
    Returns:
        The copy; or the network itself, its mode as it was, where there is nothing to fold or where the copy does not
        give the network's own answers on noise (a convolution whose output is also used elsewhere).
    """
    try:
        noise = _noise(network, resolution)
        pairs, expected = _pairs(network, noise)
        if not pairs:
            return network
        small = copy.deepcopy(network).eval()
        modules = dict(small.named_modules())
        for convolution, norm in pairs:
            _fold(modules[convolution], modules[norm])
            small.set_submodule(norm, _what_is_left(modules[norm]))
        with torch.inference_mode():
            if _same_answers(expected, small(noise)):
                return small
    except _CANNOT_FOLD as reason:
        log.debug("BatchNorm is not folded: %s", reason)
    return network


@dataclass
class _Watch:
    """Which convolution's output each BatchNorm was given, as seen in one forward pass."""

    outputs: dict[int, tuple[str, weakref.ref[Tensor]]] = field(default_factory=dict)
    """id -> (name, output); an id may be another tensor's once the first is gone."""
    calls: Counter[str] = field(default_factory=Counter)
    found: list[tuple[str, str]] = field(default_factory=list)

    def convolution(self, name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self.calls[name] += 1
            self.outputs[id(output)] = (name, weakref.ref(output))

        return hook

    def norm(self, name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.calls[name] += 1
            convolution, output = self.outputs.get(id(inputs[0]), (None, None)) if inputs else (None, None)
            if convolution is not None and output is not None and output() is inputs[0]:
                self.found.append((convolution, name))

        return hook


def _noise(network: nn.Module, resolution: int) -> Tensor:
    return torch.randn(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)).to(device_of(network))


def _pairs(network: nn.Module, noise_BCHW: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """(convolution, BatchNorm) by name, where each runs once and the second is given the output of the first; and the
    network's answers on the noise that they were found with."""
    watch, handles = _Watch(), []
    try:
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d) and "weight" in module._parameters:
                handles.append(module.register_forward_hook(watch.convolution(name)))
            elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                handles.append(module.register_forward_pre_hook(watch.norm(name)))
        with torch.inference_mode(), in_eval_mode(network):
            answers = network(noise_BCHW)
    finally:
        for handle in handles:
            handle.remove()
    taken = Counter(convolution for convolution, _ in watch.found)
    once = [pair for pair in watch.found if taken[pair[0]] == 1 and all(watch.calls[name] == 1 for name in pair)]
    return once, answers


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Give the convolution what the BatchNorm does; in double precision, rounded once."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight.double(), _double(convolution.bias), norm.running_mean.double(), norm.running_var.double(),
        norm.eps, _double(norm.weight), _double(norm.bias),
    )  # fmt: skip
    dtype = convolution.weight.dtype
    convolution.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    convolution.bias = nn.Parameter(bias.to(dtype), requires_grad=False)


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()


def _what_is_left(norm: nn.Module) -> nn.Module:
    """What a BatchNorm does besides: nothing, or in timm's BatchNormAct2d the activation."""
    rest = [getattr(norm, part, None) for part in ("drop", "act")]
    return nn.Sequential(*(part for part in rest if isinstance(part, nn.Module)))


def _same_answers(expected: Tensor, got: Tensor) -> bool:
    difference, size = (got - expected).abs().max(), expected.abs().max()
    return bool(difference <= _TOLERANCE * max(float(size), 1e-6))
