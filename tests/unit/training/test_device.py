from __future__ import annotations

import os

import pytest
import torch

from resomap.errors import DeviceError
from resomap.training.device import (
    backend_flags,
    peak_memory_mib,
    reset_peak_memory,
    resolve_precision,
    select_device,
    supports_bf16,
)

CPU = torch.device("cpu")


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two accelerators of type cuda, as torch.accelerator would show it."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


def test_select_device_auto_takes_the_accelerator(two_gpus):
    assert select_device("auto") == torch.device("cuda")


def test_select_device_auto_without_accelerator_is_the_cpu(no_gpu):
    assert select_device("auto") == CPU


@pytest.mark.parametrize("requested", ["cpu", torch.device("cpu"), "cpu:0"])
def test_select_device_cpu_is_always_there(requested, two_gpus):
    assert select_device(requested) == CPU


def test_select_device_takes_a_numbered_accelerator(two_gpus):
    assert select_device("cuda:1") == torch.device("cuda:1")


def test_select_device_refuses_a_number_that_is_not_there(two_gpus):
    with pytest.raises(DeviceError, match="cuda:2 was asked for, there are 2"):
        select_device("cuda:2")


def test_select_device_refuses_another_accelerator(two_gpus):
    with pytest.raises(DeviceError, match="mps was asked for, this machine has only cuda and the CPU"):
        select_device("mps")


def test_select_device_without_accelerator_says_what_to_do(no_gpu):
    with pytest.raises(DeviceError, match="this machine has only the CPU; use auto or cpu"):
        select_device("cuda")


@pytest.mark.parametrize("requested", ["gpu", "", "cuda:x", "line\nbreak"])
def test_select_device_refuses_what_is_no_device(requested):
    with pytest.raises(DeviceError, match="is no device") as caught:
        select_device(requested)
    assert "\n" not in str(caught.value)


def test_resolve_precision_auto_on_cpu_is_no():
    assert resolve_precision("auto", "cpu") == "no"


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp16")])
def test_resolve_precision_auto_prefers_bf16_where_it_is_native(monkeypatch, has_bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert resolve_precision("auto", "cuda") == expected


def test_resolve_precision_refuses_fp16_on_cpu():
    with pytest.raises(DeviceError, match="fp16 needs an accelerator"):
        resolve_precision("fp16", "cpu")


def test_resolve_precision_refuses_emulated_bf16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    with pytest.raises(DeviceError, match="cuda cannot compute in bf16; use fp16"):
        resolve_precision("bf16", "cuda")


def test_resolve_precision_refuses_unknown_names():
    with pytest.raises(DeviceError, match="'fp8' is unknown; use one of auto, no, bf16, fp16"):
        resolve_precision("fp8", "cpu")


def test_supports_bf16_asks_other_backends_themselves(monkeypatch):
    class Backend:
        @staticmethod
        def is_bf16_supported() -> bool:
            return True

    monkeypatch.setattr(torch, "get_device_module", lambda device: Backend)
    assert supports_bf16(torch.device("xpu"))
    monkeypatch.setattr(torch, "get_device_module", lambda device: object())
    assert not supports_bf16(torch.device("xpu"))


def test_peak_memory_on_cpu_is_none():
    reset_peak_memory(CPU)
    assert peak_memory_mib(CPU) is None


def test_peak_memory_is_in_mib(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda device: 3 * 2**20)
    assert peak_memory_mib(torch.device("cuda")) == 3.0


@pytest.mark.parametrize(
    ("asked", "benchmark"),
    [
        ({"cudnn_benchmark": True, "deterministic": False}, True),
        ({"cudnn_benchmark": True, "deterministic": True}, False),
        ({"cudnn_benchmark": False, "deterministic": False}, False),
    ],
)
def test_backend_flags_sets_and_restores(asked, benchmark, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # the user's own choice stays
    before = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()

    def look_and_fail() -> None:
        with backend_flags(**asked):
            assert torch.backends.cudnn.benchmark is benchmark
            assert torch.are_deterministic_algorithms_enabled() is asked["deterministic"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        look_and_fail()
    assert (torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()) == before
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
