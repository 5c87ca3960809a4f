"""Timing, memory and explanations on a real accelerator; skipped, saying so, where there is none."""

from __future__ import annotations

import pytest
import torch

from resomap.explainability.faithfulness import with_random_weights
from resomap.explainability.methods import explain
from resomap.models.registry import build_model
from resomap.profiling.latency import SATURATED
from resomap.profiling.memory import ALLOCATOR, profile_gpu_memory
from resomap.profiling.profiler import profile_model
from resomap.profiling.timing import clock_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="this machine has no accelerator"),
]


@pytest.fixture
def device() -> torch.device:
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def test_the_clock_waits_for_the_device(device: torch.device) -> None:
    big = torch.randn(4096, 4096, device=device)
    clock = clock_of(device)
    clock(lambda: big @ big)
    one, many = clock(lambda: big @ big), clock(lambda: [big @ big for _ in range(20)])
    assert many > 8 * one  # launches alone would take the same time


def test_throughput_falls_with_resolution(device: torch.device) -> None:
    # One image does not do: on a fast card launching 160 kernels takes as long as 512 x 512 pixels do.
    model = build_model("resnet50", num_classes=10)
    small, large = (profile_model(model, device, resolution=r, runs=5, max_batch=128) for r in (64, 512))
    assert small.at(SATURATED).images_per_s > 2 * large.at(SATURATED).images_per_s  # of 64 times the pixels
    assert large.device_name


def test_memory_is_the_allocator_s(device: torch.device) -> None:
    found = profile_gpu_memory(build_model("resnet18", num_classes=10), (8, 3, 224, 224), device=device, training=True)
    assert found.method == ALLOCATOR
    assert found.peak_mib > found.parameters_mib
    assert found.reserved_mib >= found.peak_mib


@pytest.mark.parametrize("method", ["gradcam", "integrated_gradients", "saliency"])
def test_explanations_equal_the_cpu_s(method: str, device: torch.device) -> None:
    model = build_model("resnet18", num_classes=10).eval()
    images, targets = torch.randn(4, 3, 96, 96), torch.tensor([0, 1, 2, 3])
    expected = explain(model, images, method=method, targets_B=targets).maps_Bhw
    found = explain(model.to(device), images.to(device), method=method, targets_B=targets.to(device)).maps_Bhw.cpu()
    assert float((found - expected).abs().max()) < 2e-3 * float(expected.max())


@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_precision_chosen_by_either_interface_and_the_generator_are_left(precision: str, device: torch.device) -> None:
    model, images = build_model("tiny_cnn", num_classes=3).to(device), torch.randn(2, 3, 32, 32, device=device)
    before, chosen = torch.backends.cuda.matmul.fp32_precision, torch.get_device_module(device).get_rng_state(device)
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        explain(model, images, method="smoothgrad")
        with_random_weights(model)
        assert torch.backends.cuda.matmul.fp32_precision == precision
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert torch.equal(torch.get_device_module(device).get_rng_state(device), chosen)
