"""Ways to deploy a model, each as a function from a batch to a call that can be timed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from resomap.errors import ConfigError, DeviceError
from resomap.models.modules import input_dtype
from resomap.models.onnx import INSTALL, onnx_bytes

MODES = ("eager", "channels_last", "autocast", "compile", "onnxruntime")
_OF_FLOAT32 = ("autocast", "onnxruntime")
_SHAPES = 512
COMPILES = ("compile", "onnxruntime")
"""Modes that build something for every shape of input."""
Deployed = Callable[[Tensor], Callable[[], object]]
"""Images (B, 3, H, W) on the CPU -> a call that answers for them on the device."""


def deploy(model: nn.Module, mode: str, *, device: torch.device) -> Deployed:
    """The model on the device, ready to answer in that mode.

    Args:
        model: copied where the mode changes it; put into evaluation mode.
        mode: eager (NCHW), channels_last (NHWC) or compile (torch.compile, NHWC), in the weights' precision; of weights
            in float32 also autocast (the device's lower precision, NHWC) and onnxruntime (its CPU or CUDA provider).
    Raises:
        ConfigError: no such mode.
        DeviceError: the mode cannot run here, and why.
    """
    if mode not in MODES:
        raise ConfigError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    dtype = input_dtype(model)
    if mode in _OF_FLOAT32 and dtype != torch.float32:
        raise DeviceError(f"mode {mode}: expected weights in float32, got {dtype}; leave it out, or give model.float()")
    if mode == "onnxruntime":
        return _onnxruntime(model, device)
    placed = copy.deepcopy(model).to(device).eval()
    if mode == "eager":
        # The caller's weights may lie channels-last, e.g. since it was evaluated.
        placed.to(memory_format=torch.contiguous_format)
        return _torch_call(placed, device, dtype, memory_format=torch.contiguous_format)
    placed.to(memory_format=torch.channels_last)
    if mode == "autocast":
        return _torch_call(placed, device, dtype, memory_format=torch.channels_last, autocast=True)
    if mode == "compile":
        return _compiled(placed, device, dtype)
    return _torch_call(placed, device, dtype, memory_format=torch.channels_last)


def _torch_call(
    network: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    *,
    memory_format: torch.memory_format,
    autocast: bool = False,
) -> Deployed:
    def prepared(images_BCHW: Tensor) -> Callable[[], object]:
        placed = images_BCHW.to(device, dtype).contiguous(memory_format=memory_format)

        def call() -> object:
            with torch.inference_mode(), torch.autocast(device.type, enabled=autocast):
                return network(placed)

        return call

    return prepared


def _compiled(network: nn.Module, device: torch.device, dtype: torch.dtype) -> Deployed:
    """torch.compile; it compiles at the first call, so a failure shows there."""
    # Every resolution and batch is a shape of its own, compiled once each: that is the point here, not a mistake.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    fast: nn.Module = torch.compile(network, dynamic=False)  # type: ignore[assignment]
    prepared = _torch_call(fast, device, dtype, memory_format=torch.channels_last)

    def checked(images_BCHW: Tensor) -> Callable[[], object]:
        call = prepared(images_BCHW)
        try:
            call()
        except Exception as wrong:  # whatever its compiler raises: no compiler found, an operation unknown
            reason = str(wrong).strip().splitlines()[0]
            raise DeviceError(f"mode compile: torch.compile fails here ({reason}); leave it out") from wrong
        return call

    return checked


def _onnxruntime(model: nn.Module, device: torch.device) -> Deployed:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise DeviceError(f"mode onnxruntime: the package {package} is missing; {INSTALL}")

    def prepared(images_BCHW: Tensor) -> Callable[[], object]:
        session = onnx_session(model, tuple(images_BCHW.shape), device=device)
        feed = {session.get_inputs()[0].name: images_BCHW.numpy()}
        return lambda: session.run(None, feed)

    return prepared


def onnx_session(model: nn.Module, input_shape: tuple[int, ...], *, device: torch.device):  # type: ignore[no-untyped-def]
    """An ONNX Runtime session of the model for that input shape, with as many threads as torch uses.

    Raises:
        DeviceError: ONNX Runtime has no provider for the device.
    """
    import onnxruntime

    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.type, "")
    if provider not in onnxruntime.get_available_providers():
        raise DeviceError(f"mode onnxruntime: it has no provider for {device.type}; leave it out")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(onnx_bytes(model, input_shape), options, providers=[provider])
