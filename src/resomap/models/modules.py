"""What any network is asked and borrowed for."""

from __future__ import annotations

import torch
from torch import nn


def input_dtype(model: nn.Module) -> torch.dtype:
    """Of the images that the network takes: that of its first floating-point parameter; float32 where it has none."""
    return next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), torch.float32)


def device_of(model: nn.Module) -> torch.device:
    """Where the network's weights are; the CPU where it has none."""
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
