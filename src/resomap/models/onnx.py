"""A network as an ONNX file."""

from __future__ import annotations

import copy

import torch
from torch import nn

from resomap.errors import DeviceError

INSTALL = "install resomap[onnx]: .venv/bin/pip install -e '.[onnx]' in ResoMap's folder"
"""What is said where its packages are missing."""


def onnx_bytes(model: nn.Module, input_shape: tuple[int, ...], *, dynamic_batch: bool = False) -> bytes:
    """The model as an ONNX file; input 'images' (B, 3, H, W) float32 normalised, output 'logits' (B, K)."""
    network = copy.deepcopy(model).cpu().eval()
    example = torch.zeros(max(2, input_shape[0]) if dynamic_batch else input_shape[0], *input_shape[1:])
    program = torch.onnx.export(
        network,
        (example,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic_batch else None,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise DeviceError("the model cannot be exported to ONNX")
    return program.model_proto.SerializeToString()
