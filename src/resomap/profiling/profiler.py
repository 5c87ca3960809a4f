"""What a model costs at one or several resolutions: latency, throughput, memory, operations.

All resolutions, models and modes of one call are timed in turn: see timing.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from resomap.allocator import keeps_freed_memory
from resomap.checks import is_whole
from resomap.errors import ConfigError
from resomap.models.devices import device_name, free_memory_mib, present_device
from resomap.models.modules import check_module
from resomap.models.resolutions import least_training_batch
from resomap.profiling.complexity import get_model_complexity
from resomap.profiling.in_turn import time_mode
from resomap.profiling.latency import LatencyRecord
from resomap.profiling.memory import MemoryRecord, check_trainable, predict_memory, profile_gpu_memory
from resomap.profiling.records import LARGEST_BATCH, ProfileRecord, ProfilingPlan, Rounds, Subject

PROFILE_VERSION = 1
"""Counts up when the same settings would be measured otherwise than before, in what a profile holds."""

_SHARE_OF_FREE = 0.25
"""Of the device's memory, for a batch that is timed and the images that wait for their turn."""


def profile_model(
    model: nn.Module,
    device: str | torch.device = "cpu",
    loader: Iterable[Any] | None = None,
    warmup: int = 5,
    runs: int = 25,
    *,
    resolution: int | None = None,
    modes: Sequence[str] = ("eager",),
    max_batch: int = LARGEST_BATCH,
    name: str | None = None,
) -> ProfileRecord:
    """Latency, throughput, memory and operations of one model.

    Args:
        model: any classifier of images (B, 3, H, W); copied, so it is left as it is.
        device: 'cpu', 'cuda', ...
        loader: batches of (images, labels) or of images, whose first one tells the resolution.
        warmup: least number of untimed calls.
        runs: timed blocks of each protocol.
        resolution: side in pixels where there is no loader; 224 if neither is given.
        modes: ways to deploy, see modes.deploy; those that cannot run here are named in `unavailable`.
        max_batch: largest batch tried for the throughput.
    Raises:
        ConfigError: the loader's images are not square (B, 3, H, W), `model` is no network or has nothing to train, or
            a number is none or out of range.
        DeviceError: no such device.
    """
    check_module(model)
    check_trainable(model)
    wanted = (
        ("runs", runs, 1, "timed blocks"),
        ("warmup", warmup, 0, "calls"),
        ("max_batch", max_batch, 1, "images"),
        ("resolution", 224 if resolution is None else resolution, 1, "pixels"),
    )
    for what, number, least, of in wanted:
        if not is_whole(number) or number < least:
            raise ConfigError(f"{what}: expected a whole number of {of} from {least}, got {number!r}")
    device = present_device(device)
    side = resolution if resolution is not None else _side_of(loader) if loader is not None else 224
    plan = ProfilingPlan(str(device), tuple(modes), warmup=warmup, rounds=Rounds(runs), max_batch=max_batch)
    return profile_subjects([Subject(name or type(model).__name__, model, side)], plan)[0]


def _side_of(loader: Iterable[Any]) -> int:
    batch = next(iter(loader), None)
    images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[2] != images.shape[3]:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ConfigError(f"loader: expected batches of square images (B, 3, H, W), got {shape}")
    return images.shape[-1]


def profile_subjects(
    subjects: Sequence[Subject], plan: ProfilingPlan, *, progress: Callable[[str], None] = lambda _: None
) -> list[ProfileRecord]:
    """Profile several models and resolutions; the blocks of all, in both protocols, are timed in turn, mode by mode."""
    device = torch.device(plan.device)
    found: list[list[LatencyRecord]] = [[] for _ in subjects]
    missing: list[dict[str, str]] = [{} for _ in subjects]
    of_one = [predict_memory(s.network, input_shape=_one_image(s), device=device) for s in subjects]
    largest = _largest_batches(of_one, plan)
    for mode in plan.modes:
        progress(f"latency: {mode}")
        for i, timed in enumerate(time_mode(subjects, mode, plan, largest)):
            found[i] += timed.latency
            if timed.unavailable is not None:
                missing[i][mode] = timed.unavailable
    progress("memory and operations")
    plan = replace(plan, training_batch=_training_batch(subjects, plan.training_batch))
    return [
        _record(subject, plan, tuple(latency), unavailable, predicted.peak_mib)
        for subject, latency, unavailable, predicted in zip(subjects, found, missing, of_one, strict=True)
    ]


def _one_image(subject: Subject) -> tuple[int, int, int, int]:
    return 1, 3, subject.resolution, subject.resolution


def _largest_batches(of_one: Sequence[MemoryRecord], plan: ProfilingPlan) -> list[int]:
    """The largest batch of each subject that the search may try: timed in turn, all have their images in memory."""
    free_mib = free_memory_mib(plan.device)
    # An accelerator that tells none refuses what it cannot hold.
    room_mib = math.inf if free_mib is None else _SHARE_OF_FREE * free_mib
    images_mib = sum(one.input_mib for one in of_one)
    fitting = [room_mib / (one.activations_peak_mib + images_mib) for one in of_one]
    return [max(1, int(min(plan.max_batch, batch))) for batch in fitting]


def _training_batch(subjects: Sequence[Subject], asked: int) -> int:
    """Images of the training step, the same for all subjects, so that their memory can be compared."""
    if asked > 1:
        return asked
    return max((least_training_batch(s.network, s.resolution) for s in subjects), default=asked)


def _record(
    subject: Subject,
    plan: ProfilingPlan,
    latency: tuple[LatencyRecord, ...],
    unavailable: dict[str, str],
    predicted_inference_mib: float,
) -> ProfileRecord:
    device = torch.device(plan.device)
    one = _one_image(subject)
    training: dict[str, Any] = {
        "input_shape": (plan.training_batch, *one[1:]),
        "training": True,
        "precision": plan.precision,
        "optimizer": plan.optimizer,
        "device": device,
    }
    return ProfileRecord(
        model=subject.model,
        resolution=subject.resolution,
        device=str(device),
        device_name=device_name(device),
        threads=torch.get_num_threads(),
        keeps_freed_memory=keeps_freed_memory(),
        latency=latency,
        rounds=plan.rounds,
        complexity=get_model_complexity(subject.network, one),
        inference_memory=profile_gpu_memory(subject.network, one, device=device),
        training_memory=profile_gpu_memory(subject.network, **training),
        predicted_inference_mib=predicted_inference_mib,
        predicted_training_mib=predict_memory(subject.network, **training).peak_mib,
        unavailable=unavailable,
    )
