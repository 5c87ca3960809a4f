"""What a model costs at one or several resolutions: latency, throughput, memory, operations.

All resolutions, models and modes of one call are timed in turn: see timing.py.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resomap.allocator import keeps_freed_memory
from resomap.errors import ConfigError, DeviceError, is_whole
from resomap.models.devices import free_memory_mib, present_device
from resomap.models.resolutions import least_training_batch
from resomap.models.target_layers import check_module
from resomap.profiling.complexity import Complexity, get_model_complexity
from resomap.profiling.latency import (
    BATCH_1,
    SATURATED,
    LatencyRecord,
    paired_ratio,
    saturating_batch,
    summarise,
)
from resomap.profiling.memory import MemoryRecord, OptimizerFactory, predict_memory, profile_gpu_memory
from resomap.profiling.modes import COMPILES, Deployed, deploy
from resomap.profiling.timing import Call, Clock, Enough, clock_of, fastest, time_in_turn

PROFILE_VERSION = 1
"""Counts up when the same settings would be measured otherwise than before, in what a profile holds."""

_DRAWS_TO_GO_ON = 400
"""Of the bootstrap that is asked every few rounds for each model and resolution; what it finds narrow enough is looked
at with all draws before timing ends."""

_SEARCH_CALLS = 3
"""Of each batch that is tried for the throughput."""
_SHARE_OF_FREE = 0.25
"""Of the device's memory, for a batch that is timed and the images that wait for their turn."""
_LARGEST_BATCH = 512


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """From an image file to an answer, one image at a time; medians in ms."""

    images: int
    """Files that could be read."""
    decode_ms: float
    resize_ms: float
    """Resizing and normalising."""
    model_ms: float
    """There and back: the image onto the device, the answer from it."""
    total_ms: float
    """Median of the sum, which need not be the sum of the medians."""
    mode: str = "eager"
    """How the model was deployed: in float32, whatever other modes are timed."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """How many rounds of blocks are timed."""

    least: int = 25
    """Rounds of each protocol; undisturbed ones where `precision` is given."""
    precision: float | None = None
    """Go on until the 95 % interval of every ratio between two resolutions of a model is narrower than this share of
    it; None: `least` rounds, however they agree."""
    budget_s: float | None = None
    """Seconds after which a mode is left as it is; None: no limit."""


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """Cost of one model at one resolution on one device."""

    model: str
    resolution: int
    device: str
    device_name: str
    threads: int
    keeps_freed_memory: bool
    """Whether the C library was told to (resomap.allocator): it changes latency on a CPU."""
    latency: tuple[LatencyRecord, ...]
    """One for each mode and protocol."""
    rounds: Rounds
    """As asked for."""
    complexity: Complexity
    """For one image."""
    inference_memory: MemoryRecord
    """One image; measured."""
    training_memory: MemoryRecord
    """One update of `training_memory.batch` images; measured."""
    predicted_inference_mib: float
    predicted_training_mib: float
    unavailable: dict[str, str] = field(default_factory=dict)
    """mode -> why it could not be measured."""
    end_to_end: EndToEnd | None = None
    """None: no files were timed."""

    def at(self, protocol: str, mode: str | None = None) -> LatencyRecord:
        """The latency under a protocol; None: the first mode."""
        for record in self.latency:
            if record.protocol == protocol and mode in (None, record.mode):
                return record
        raise KeyError(f"no latency for {protocol}, {mode}; there are {[(r.protocol, r.mode) for r in self.latency]}")


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """One model at one resolution, to be profiled."""

    model: str
    network: nn.Module
    resolution: int


@dataclass(frozen=True, slots=True)
class ProfilingPlan:
    """How subjects are profiled."""

    device: str = "cpu"
    modes: tuple[str, ...] = ("eager",)
    protocols: tuple[str, ...] = (BATCH_1, SATURATED)
    warmup: int = 5
    rounds: Rounds = field(default_factory=Rounds)
    max_batch: int = _LARGEST_BATCH
    training_batch: int = 1
    """Images of the training step; 2 at least where a subject cannot be trained on one (maps of 1 x 1)."""
    precision: str = "no"
    """Of the training step whose memory is measured."""
    optimizer: OptimizerFactory | None = None


def profile_model(
    model: nn.Module,
    device: str | torch.device = "cpu",
    loader: Iterable[Any] | None = None,
    warmup: int = 5,
    runs: int = 25,
    *,
    resolution: int | None = None,
    modes: Sequence[str] = ("eager",),
    max_batch: int = _LARGEST_BATCH,
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
        ConfigError: the loader's images are not square (B, 3, H, W), `model` is no network, or a number is none or out
            of range.
        DeviceError: no such device.
    """
    check_module(model)
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
        deployed = _deploy_all(subjects, mode, device, missing)
        _time_mode(subjects, deployed, mode, plan, largest, found=found, missing=missing)
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
    try:
        room_mib = _SHARE_OF_FREE * free_memory_mib(plan.device)
    except RuntimeError:  # no such count on this kind of accelerator, which refuses what it cannot hold
        room_mib = math.inf
    images_mib = sum(one.input_mib for one in of_one)
    fitting = [room_mib / (one.activations_peak_mib + images_mib) for one in of_one]
    return [max(1, int(min(plan.max_batch, batch))) for batch in fitting]


def _training_batch(subjects: Sequence[Subject], asked: int) -> int:
    """Images of the training step, the same for all subjects, so that their memory can be compared."""
    if asked > 1:
        return asked
    return max((least_training_batch(s.network, s.resolution) for s in subjects), default=asked)


def _deploy_all(
    subjects: Sequence[Subject], mode: str, device: torch.device, missing: list[dict[str, str]]
) -> list[Deployed | None]:
    """One deployed network for each subject; resolutions that share a network share the deployed one."""
    made: dict[int, Deployed | None] = {}
    result: list[Deployed | None] = []
    for i, subject in enumerate(subjects):
        if id(subject.network) not in made:
            try:
                made[id(subject.network)] = deploy(subject.network, mode, device=device)
            except DeviceError as wrong:
                missing[i][mode] = str(wrong)
                made[id(subject.network)] = None
        result.append(made[id(subject.network)])
        if result[-1] is None and mode not in missing[i]:
            missing[i][mode] = next(m[mode] for m in missing if mode in m)
    return result


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A subject that can be timed: its position among all, its batch, whether a larger one may be faster, the call."""

    position: int
    batch: int
    at_least: bool
    call: Call


def _time_mode(
    subjects: Sequence[Subject],
    deployed: Sequence[Deployed | None],
    mode: str,
    plan: ProfilingPlan,
    largest: Sequence[int],
    *,
    found: list[list[LatencyRecord]],
    missing: list[dict[str, str]],
) -> None:
    device = torch.device(plan.device)
    clock = clock_of(device)
    groups = {p: _prepare(subjects, deployed, p, mode, plan, largest, clock, missing) for p in plan.protocols}
    twice = _same_as_batch_1(subjects, groups.get(SATURATED, [])) if BATCH_1 in groups else {}
    groups = {p: [one for one in g if p == BATCH_1 or one.position not in twice] for p, g in groups.items()}
    groups = {protocol: group for protocol, group in groups.items() if group}
    times = time_in_turn(
        [[one.call for one in group] for group in groups.values()],
        clock=clock,
        blocks=plan.rounds.least,
        enough=None if plan.rounds.precision is None else _enough(subjects, list(groups.values()), plan.rounds),
        budget_s=math.inf if plan.rounds.budget_s is None else plan.rounds.budget_s,
        warmup=plan.warmup,
        shifted=device.type == "cpu",
    )
    for (protocol, group), of_group in zip(groups.items(), times, strict=True):
        for one, seconds in zip(group, of_group, strict=True):
            record = summarise(seconds, protocol=protocol, mode=mode, batch_size=one.batch, at_least=one.at_least)
            found[one.position].append(record)
            if protocol == BATCH_1 and one.position in twice:
                found[one.position].append(replace(record, protocol=SATURATED, at_least=twice[one.position]))


def _same_as_batch_1(subjects: Sequence[Subject], saturated: Sequence[_Prepared]) -> dict[int, bool]:
    """Positions of the models that one image saturates at every resolution -> at_least of their throughput.

    Their calls are those of batch 1: the time is better spent on more rounds.
    """
    larger = {subjects[one.position].model for one in saturated if one.batch > 1}
    return {one.position: one.at_least for one in saturated if subjects[one.position].model not in larger}


def _prepare(
    subjects: Sequence[Subject],
    deployed: Sequence[Deployed | None],
    protocol: str,
    mode: str,
    plan: ProfilingPlan,
    largest: Sequence[int],
    clock: Clock,
    missing: list[dict[str, str]],
) -> list[_Prepared]:
    """The calls of one protocol, of all subjects that can run in this mode."""
    group: list[_Prepared] = []
    for i, (subject, ready) in enumerate(zip(subjects, deployed, strict=True)):
        if ready is None or mode in missing[i]:
            continue
        try:
            batch, at_least = 1, False
            if protocol == SATURATED:
                searched = _seconds_of(_searchable(subject, ready, mode, plan), subject.resolution, clock)
                batch, at_least = saturating_batch(searched, largest=largest[i])
            group.append(_Prepared(i, batch, at_least, ready(_images(batch, subject.resolution))))
        except DeviceError as wrong:
            missing[i][mode] = str(wrong)
    return group


def _enough(subjects: Sequence[Subject], groups: Sequence[Sequence[_Prepared]], wanted: Rounds) -> Enough:
    """Whether every model's ratios to its smallest resolution are known as well as wanted."""

    def enough(number: int, times: list[np.ndarray]) -> bool:
        return known(number, times, draws=_DRAWS_TO_GO_ON) and known(number, times)

    def known(number: int, times: list[np.ndarray], **options: int) -> bool:
        of_model: dict[str, list[tuple[int, np.ndarray]]] = {}
        for one, seconds in zip(groups[number], times, strict=True):
            subject = subjects[one.position]
            of_model.setdefault(subject.model, []).append((subject.resolution, np.median(seconds, axis=1)))
        for sides in of_model.values():
            (_, smallest), *others = sorted(sides, key=lambda side: side[0])
            for _, blocks in others:
                ratio = paired_ratio(blocks, smallest, **options)
                if ratio.rounds < wanted.least or ratio.width > (wanted.precision or 0):
                    return False
        return True

    return enough


def _searchable(subject: Subject, ready: Deployed, mode: str, plan: ProfilingPlan) -> Deployed:
    """What the search for the saturating batch times: modes that compile for every shape are spared it."""
    if mode in COMPILES:
        return deploy(subject.network, "channels_last", device=torch.device(plan.device))
    return ready


def _seconds_of(ready: Deployed, resolution: int, clock: Clock) -> Callable[[int], float]:
    def seconds(batch: int) -> float:
        try:
            return fastest(ready(_images(batch, resolution)), clock=clock, calls=_SEARCH_CALLS)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            return math.inf

    return seconds


def _images(batch: int, resolution: int) -> Tensor:
    """One image of noise, repeated: the time of dense operations does not depend on the values."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, resolution, resolution, generator=generator).repeat(batch, 1, 1, 1)


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


def device_name(device: torch.device) -> str:
    """What the hardware calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return _cpu_name() or platform.processor() or platform.machine()
    return device.type


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return ""
