"""Which device of this machine is meant."""

from __future__ import annotations

import platform

import psutil
import torch

from resomap.errors import ConfigError, DeviceError
from resomap.printable import printable

_AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def present_device(device: str | torch.device, *, name: str = "device") -> torch.device:
    """The device asked for; 'auto' is the accelerator where there is one.

    Args:
        name: what the user gave it as.
    Raises:
        DeviceError: it is not there; names those that are.
    """
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if str(device) == "auto":
        return torch.device(there.type) if there is not None else torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise DeviceError(
            f"{name}: {printable(device)!r} is no device; use auto, cpu, cuda, cuda:1, mps, xpu"
        ) from None
    if chosen.type == "cpu":
        return torch.device("cpu")
    if there is None or there.type != chosen.type:
        found = "the CPU" if there is None else f"{there.type} and the CPU"
        why = " (torch finds no accelerator)" if there is None else ""
        raise DeviceError(f"{name}: {chosen} was asked for, this machine has only {found}; use auto or cpu{why}")
    count = torch.accelerator.device_count()
    if chosen.index is not None and chosen.index >= count:
        raise DeviceError(f"{name}: {chosen} was asked for, there are {count}, from 0; choose another")
    return chosen


def free_memory_mib(device: str) -> float | None:
    """Memory that is free on a device: the machine's on CPU, the accelerator's else; None where that tells none."""
    if device.partition(":")[0] == "cpu":
        return psutil.virtual_memory().available / 2**20
    try:
        free, _ = torch.accelerator.get_memory_info(torch.device(device))
    except RuntimeError:
        return None
    return free / 2**20


def device_name(device: torch.device) -> str:
    """What the hardware calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return cpu_info("model name") or platform.processor() or platform.machine()
    return device.type


def cpu_info(*fields: str) -> str:
    """What the system says of its first core, in the first of these fields; '' where it says nothing of the kind."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith(fields)), "")
    except OSError:
        return ""


def autocast(device: torch.device, mixed_precision: str) -> torch.autocast:
    """Around a forward pass in 'bf16' or 'fp16'; nothing for 'no'.

    Raises:
        ConfigError: none of these.
    """
    if mixed_precision not in _AUTOCAST:
        raise ConfigError(f"mixed_precision: expected no, bf16 or fp16, got {mixed_precision!r}")
    return torch.autocast(device.type, dtype=_AUTOCAST[mixed_precision], enabled=mixed_precision != "no")
