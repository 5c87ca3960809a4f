"""Is this machine ready? Versions, devices, precisions, disk, and a short real training on each device."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch

from resomap.errors import DeviceError, ResoMapError
from resomap.models.registry import build_model
from resomap.printable import counted, precision_name
from resomap.serialize import package_version, write_text
from resomap.training.device import resolve_precision, select_device

PACKAGES = ("resomap", "torch", "torchvision", "timm", "accelerate", "pillow", "mlflow")
SELF_TEST_S = 2.0


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the diagnosis."""

    name: str
    result: str
    ok: bool = True


def diagnose(path: Path) -> list[Check]:
    """Check this machine; `path` is where studies will be written."""
    memory = psutil.virtual_memory()
    checks = [
        Check("python", platform.python_version()),
        *[Check(name, package_version(name) or "missing", bool(package_version(name))) for name in PACKAGES],
        Check(
            "cpu", f"{counted(os.cpu_count() or 0, 'core')}, {counted(torch.get_num_threads(), 'thread')} for tensors"
        ),
        Check("memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"),
        _try("disk", partial(_disk, path)),
    ]
    for device in _devices():
        checks.append(Check(f"device {device}", _describe(device)))
        checks.append(Check(f"precisions on {device}", _precisions(device)))
        checks.append(_try(f"self-test on {device}", partial(_self_test, device)))
    return checks


def _devices() -> list[str]:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return ["cpu"]
    count = torch.accelerator.device_count()
    return [*[f"{accelerator.type}:{index}" for index in range(count)], "cpu"]


def _describe(device: str) -> str:
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(torch.device(device))
        return f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB"
    return "always there" if device == "cpu" else "available"


def _try(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, check())
    except (ResoMapError, RuntimeError, OSError) as error:
        return Check(name, str(error).splitlines()[0], ok=False)


def _disk(path: Path) -> str:
    probe = path / f".resomap-doctor-{os.getpid()}"
    write_text(probe, "")
    probe.unlink()
    return f"{shutil.disk_usage(path).free / 2**30:.1f} GiB free at {path.resolve()}, writable"


def _precisions(device: str) -> str:
    """'float32 (default), bf16': what training can be done in."""
    chosen = select_device(device)
    default = resolve_precision("auto", chosen)
    found = []
    for name in ("no", "bf16", "fp16"):
        try:
            resolve_precision(name, chosen)
        except DeviceError:
            continue
        shown = precision_name(name)
        found.append(f"{shown} (default)" if name == default else shown)
    return ", ".join(found)


def _self_test(device: str) -> str:
    """Fit random labels for two seconds: forward, backward and update work, and the loss falls."""
    network = build_model("tiny_cnn", num_classes=2, seed=0).to(device)
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.rand(16, 3, 64, 64, generator=generator).to(device)
    labels_B = torch.arange(16, device=device) % 2
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses: list[float] = []
    started = time.monotonic()
    while time.monotonic() - started < SELF_TEST_S:
        loss = torch.nn.functional.cross_entropy(network(images_BCHW), labels_B)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if not losses[-1] < losses[0]:
        raise RuntimeError(f"the loss did not fall: {losses[0]:.3f} -> {losses[-1]:.3f}")
    rate = 16 * len(losses) / (time.monotonic() - started)
    return f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, {rate:.0f} images/s (tiny_cnn at 64)"
