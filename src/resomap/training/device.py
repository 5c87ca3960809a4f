"""Which device and precision to train on, and the process-wide switches that go with them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from resomap.errors import DeviceError
from resomap.models.devices import cpu_info, present_device
from resomap.printable import printable

PRECISIONS = ("auto", "no", "bf16", "fp16")


def select_device(requested: str | torch.device = "auto") -> torch.device:
    """The device asked for; 'auto' is the accelerator where there is one, else the CPU.

    Raises:
        DeviceError: no such device on this machine.
    """
    return present_device(requested, name="system.device")


def resolve_precision(requested: str, device: str | torch.device) -> str:
    """'no', 'bf16' or 'fp16': what 'auto' stands for on this device, or what was asked for.

    auto: bf16 on accelerators that compute in it, fp16 on the others, 'no' on the CPU (where bf16 pays for
    some models and costs for others; ask for it by name).

    Raises:
        DeviceError: the device cannot do it.
    """
    device = torch.device(device)
    if requested not in PRECISIONS:
        raise DeviceError(
            f"system.mixed_precision: {printable(requested)!r} is unknown; use one of {', '.join(PRECISIONS)}"
        )
    if requested == "auto":
        if device.type == "cpu":
            return "no"
        return "bf16" if supports_bf16(device) else "fp16"
    if requested == "fp16" and device.type == "cpu":
        raise DeviceError("system.mixed_precision: fp16 needs an accelerator, this is a CPU; use bf16 or no")
    if requested == "bf16" and not supports_bf16(device):
        raise DeviceError(f"system.mixed_precision: {device} cannot compute in bf16; use fp16, no or auto")
    return requested


def supports_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself, not by emulation."""
    if device.type == "cpu":
        return True
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    check = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    return bool(check()) if check is not None else False


def computes_bf16(device: str | torch.device) -> bool:
    """Whether bfloat16 may be faster than float32 on the device: on a CPU, whether it has instructions for it."""
    device = torch.device(device)
    if device.type != "cpu":
        return supports_bf16(device)
    flags = cpu_info("flags", "Features")
    if not flags:
        return platform.machine() == "arm64"  # Apple's, which do
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.split())


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak of the device's memory so far; nothing on devices that keep none."""
    if _keeps_peak(device):
        torch.accelerator.reset_peak_memory_stats(device)


def peak_memory_mib(device: torch.device) -> float | None:
    """Peak of allocated device memory since the last reset; None on devices that keep none (cpu, mps)."""
    return torch.accelerator.max_memory_allocated(device) / 2**20 if _keeps_peak(device) else None


def _keeps_peak(device: torch.device) -> bool:
    return device.type not in ("cpu", "mps")


@contextmanager
def backend_flags(*, cudnn_benchmark: bool, deterministic: bool) -> Iterator[None]:
    """Set the algorithms that torch may choose, and put the choice back afterwards.

    deterministic wins over cudnn_benchmark: timing algorithms may pick another one each time. It needs a
    variable in the environment before the first matrix product on CUDA, which is set, and stays, unless the
    user chose one.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    before = (cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled())
    cudnn.benchmark = cudnn_benchmark and not deterministic
    cudnn.deterministic = deterministic
    torch.use_deterministic_algorithms(deterministic or before[2])
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before[:2]
        torch.use_deterministic_algorithms(before[2])
