"""A network as an ONNX file."""

from __future__ import annotations

import contextlib
import copy
import io

import torch
from torch import nn

from resomap.errors import DeviceError
from resomap.printable import printable

INSTALL = "install resomap[onnx]: .venv/bin/pip install -e '.[onnx]' in ResoMap's folder"
"""What is said where its packages are missing."""


def onnx_bytes(model: nn.Module, input_shape: tuple[int, ...], *, dynamic_batch: bool = False) -> bytes:
    """The model as an ONNX file; input 'images' (B, 3, H, W) float32 normalised, output 'logits' (B, K).

    Raises:
        DeviceError: torch.onnx cannot express it, and why.
    """
    network = copy.deepcopy(model).cpu().eval()
    example = torch.zeros(max(2, input_shape[0]) if dynamic_batch else input_shape[0], *input_shape[1:])
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # where torch prints the graph that it failed at
            program = torch.onnx.export(
                network,
                (example,),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic_batch else None,
                dynamo=True,
                verbose=False,
            )
    except Exception as wrong:  # whatever its stages raise: a branch on values, an operation that ONNX lacks
        raise DeviceError(_cannot_be_exported(model, _root_of(wrong))) from wrong
    if program is None:
        raise DeviceError(_cannot_be_exported(model, "torch.onnx gives no reason"))
    return program.model_proto.SerializeToString()


def _cannot_be_exported(model: nn.Module, why: str) -> str:
    return f"{type(model).__name__} cannot be exported to ONNX ({why}); change its code, or do without ONNX"


def _root_of(error: BaseException) -> str:
    """First line of what an error was raised from: torch's own text is advice to torch's developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return printable(next(iter(str(error).strip().splitlines()), "") or type(error).__name__)
