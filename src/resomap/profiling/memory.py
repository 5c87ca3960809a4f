"""Memory of a forward pass or a training step: measured, or predicted without running anything.

Legend: B images, C channels, H W pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from resomap.errors import ConfigError
from resomap.models.devices import autocast, present_device
from resomap.models.generators import seeded
from resomap.models.modules import SIZE_ERRORS, check_module, input_dtype, module_mode, with_values
from resomap.models.resolutions import least_training_batch
from resomap.profiling.complexity import checked_shape
from resomap.profiling.live_bytes import LiveBytes

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]

MEASURED = "measured live tensor bytes"
PREDICTED = "predicted live tensor bytes"
EXTRAPOLATED = "live tensor bytes, extrapolated from steps of few images"
ALLOCATOR = "device allocator"
_MIB = 2**20
_FEW = 2
"""Images of the smaller of two steps that tell how memory grows; enough for BatchNorm."""
_PRECISIONS = ("no", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """Where the memory of one step goes, in MiB (2^20 bytes)."""

    batch: int
    """Images of the step: 2 where one was asked for and BatchNorm cannot normalise it alone (maps of 1 x 1)."""
    resolution: int
    precision: str
    """Of autocast; without, 'no' of weights in float32, else their own: float64."""
    training: bool
    method: str
    """What was counted: live tensor bytes (measured, predicted or extrapolated), or the device's allocator."""
    parameters_mib: float
    buffers_mib: float
    gradients_mib: float
    """0 for inference."""
    optimizer_mib: float
    """State of the optimiser; 0 for inference."""
    input_mib: float
    activations_peak_mib: float
    """The peak without everything above: activations, their gradients and temporaries."""
    peak_mib: float
    allocated_mib: float | None = None
    """Before the step, as the device's allocator counts; None on CPU, whose allocator keeps no count."""
    reserved_mib: float | None = None
    """Held by the allocator at the end, used or not; None on CPU."""
    leaves_out: str = ""
    """What the figure does not contain."""


@dataclass(frozen=True, slots=True)
class MemoryStep:
    """The step whose memory is told.

    Raises:
        ConfigError: no such precision.
    """

    precision: str = "no"
    training: bool = False
    optimizer: OptimizerFactory | None = None
    """None: fused AdamW."""
    gradients_stay: bool = False

    def __post_init__(self) -> None:
        if self.precision not in _PRECISIONS:
            raise ConfigError(f"precision: expected one of {', '.join(_PRECISIONS)}, got {self.precision!r}")

    def name_of(self, dtype: torch.dtype) -> str:
        """The record's precision of a step whose weights have this type."""
        own = self.precision == "no" and dtype != torch.float32
        return str(dtype).removeprefix("torch.") if own else self.precision


def measure_memory(
    model: nn.Module,
    *,
    input_shape: Sequence[int],
    precision: str = "no",
    training: bool = False,
    optimizer: OptimizerFactory | None = None,
    gradients_stay: bool = False,
    device: str | torch.device = "cpu",
) -> MemoryRecord:
    """Run the step on a copy of the model and count live tensor bytes; on CPU and accelerators alike.

    Args:
        input_shape: (B, 3, H, W). Training takes two images where one cannot be normalised alone: `batch` of the record
            says it.
        precision: 'no' (the weights' own), 'bf16' or 'fp16' autocast.
        training: an update with cross-entropy, not the first; False: one forward pass without gradients.
        optimizer: parameters -> optimiser; None: fused AdamW.
        gradients_stay: the forward pass finds gradients there, as every micro-batch but the first of an update does.
    Side effects: none; the model is copied, and torch's generators are put back.
    """
    step = MemoryStep(precision, training, optimizer, gradients_stay)
    placed = copy.deepcopy(model).to(device)
    shape = _shape_of_step(model, input_shape, training=training)
    state = dict(placed.named_parameters()), dict(placed.named_buffers())
    with seeded(torch.device(device), 0):  # noise, and the network's dropout
        images_BCHW = torch.randn(shape, device=device, dtype=input_dtype(model))
        return _record(placed, state, images_BCHW, step, method=MEASURED, leaves_out=left_out(images_BCHW.device))


def predict_memory(
    model: nn.Module,
    *,
    input_shape: Sequence[int],
    precision: str = "no",
    training: bool = False,
    optimizer: OptimizerFactory | None = None,
    gradients_stay: bool = False,
    device: str | torch.device = "cpu",
) -> MemoryRecord:
    """The same figure without running: shapes alone pass through the model, in about a second for any size.

    Code that asks tensors for their values is run, with four images at most, on the CPU.

    Args: as measure_memory. An accelerator need not be there: its figure is the CPU's, and `leaves_out` says what comes
        on top.
    Side effects: none.
    """
    step = MemoryStep(precision, training, optimizer, gradients_stay)
    shape = _shape_of_step(model, input_shape, training=training)
    leaves_out = left_out(torch.device(device))
    try:
        # Modules whose forward reads the mode share it with the original: a shallow copy would not separate the flags.
        with FakeTensorMode():
            parameters = {
                name: nn.Parameter(torch.empty(p.shape, dtype=p.dtype), requires_grad=p.requires_grad)
                for name, p in model.named_parameters()
            }
            buffers = {name: torch.empty(b.shape, dtype=b.dtype) for name, b in model.named_buffers()}
            images_BCHW = torch.empty(shape, dtype=input_dtype(model))
            return _record(model, (parameters, buffers), images_BCHW, step, method=PREDICTED, leaves_out=leaves_out)
    except SIZE_ERRORS:  # the shape, or code that asks tensors for values
        return replace(_extrapolated(model, shape, step), leaves_out=leaves_out)


def _extrapolated(model: nn.Module, shape: tuple[int, ...], step: MemoryStep) -> MemoryRecord:
    """Memory of a step that is run on the CPU, with few images: with the batch it grows linearly.

    That holds while the activations decide: in a larger batch the gradients are taken to be there all along.
    """
    model = with_values(model)
    batch, *rest = shape
    options: dict[str, Any] = {field.name: getattr(step, field.name) for field in fields(step)}
    if batch <= 2 * _FEW:
        return replace(measure_memory(model, input_shape=shape, **options), method=EXTRAPOLATED)
    options["gradients_stay"] = True
    few, more = (measure_memory(model, input_shape=(images, *rest), **options) for images in (_FEW, 2 * _FEW))
    further = batch / _FEW - 2
    grown = {
        name: getattr(more, name) + further * (getattr(more, name) - getattr(few, name))
        for name in ("input_mib", "activations_peak_mib", "peak_mib")
    }
    return replace(more, batch=batch, method=EXTRAPOLATED, **grown)


def _shape_of_step(model: nn.Module, input_shape: Sequence[int], *, training: bool) -> tuple[int, ...]:
    batch, *rest = input_shape
    if training and batch == 1 and len(rest) == 3:
        batch = least_training_batch(model, rest[-1])
    return batch, *rest


def left_out(device: torch.device) -> str:
    """What a predicted peak of live tensor bytes does not contain on this kind of device."""
    if device.type == "cpu":
        return "the libraries' own memory, workspaces inside kernels, and the allocator's reserve"
    return "the device's context (some hundred MiB), workspaces inside kernels, and the allocator's rounding"


def _record(
    model: nn.Module,
    state: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    images_BCHW: Tensor,
    step: MemoryStep,
    *,
    method: str,
    leaves_out: str,
) -> MemoryRecord:
    parameters, buffers = state
    labels_B = torch.zeros(len(images_BCHW), dtype=torch.int64, device=images_BCHW.device)
    given = sum(_mib(group) for group in (parameters.values(), buffers.values(), [images_BCHW, labels_B]))
    trainable: list[Any] = [p for p in parameters.values() if p.requires_grad]
    counter = LiveBytes()
    counter.add([*parameters.values(), *buffers.values(), images_BCHW, labels_B])
    gradients_mib = optimizer_mib = 0.0
    with module_mode(model, training=step.training):
        if step.training:
            check_trainable(model)
            optimizer = step.optimizer(trainable) if step.optimizer else torch.optim.AdamW(trainable, fused=True)
            with counter:
                _train(model, state, images_BCHW, labels_B, step, optimizer)
            gradients_mib = _mib(trainable)
            optimizer_mib = _mib([t for s in optimizer.state.values() for t in s.values() if isinstance(t, Tensor)])
        else:
            with counter, torch.no_grad(), autocast(images_BCHW.device, step.precision):
                functional_call(model, dict(parameters) | dict(buffers), (images_BCHW,))
    peak_mib = counter.peak_bytes / _MIB
    return MemoryRecord(
        batch=len(images_BCHW),
        resolution=images_BCHW.shape[-1],
        precision=step.name_of(images_BCHW.dtype),
        training=step.training,
        method=method,
        parameters_mib=_mib(parameters.values()),
        buffers_mib=_mib(buffers.values()),
        gradients_mib=gradients_mib,
        optimizer_mib=optimizer_mib,
        input_mib=_mib([images_BCHW]),
        activations_peak_mib=max(0.0, peak_mib - given - gradients_mib - optimizer_mib),
        peak_mib=peak_mib,
        leaves_out=leaves_out,
    )


def check_trainable(model: nn.Module) -> None:
    """Refuse a network of which no training step can be made.

    Raises:
        ConfigError: it has no parameter that takes a gradient.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "model: expected a parameter that can be trained, for the memory of a training step; "
            f"{type(model).__name__} has none: let one require its gradient, requires_grad_()"
        )


def _train(
    model: nn.Module,
    state: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    images_BCHW: Tensor,
    labels_B: Tensor,
    step: MemoryStep,
    optimizer: Optimizer,
) -> None:
    """One update as any but the first is: the optimiser's state, which the first one makes, is there before it."""
    everything = dict(state[0]) | dict(state[1])
    for parameter in state[0].values():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=not step.gradients_stay)
    with autocast(images_BCHW.device, step.precision):
        loss = cross_entropy(functional_call(model, everything, (images_BCHW,)), labels_B)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _mib(tensors: Iterable[Tensor]) -> float:
    sizes = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(sizes.values()) / _MIB


def largest_micro_batch(
    peak_mib: Callable[[int], float], *, limit_mib: float, largest: int, least: int = 1
) -> int | None:
    """The largest micro-batch, of those that divide `largest` evenly, whose peak fits; None where not `least` does.

    Memory grows about linearly with the batch, so two predictions say where to look; the answer itself is predicted,
    and so is the next larger one, which does not fit.

    Args:
        peak_mib: micro-batch -> predicted peak in MiB.
        largest: the effective batch: its divisors keep it whole.
        least: fewest images that the network can be trained on at once.
    """
    candidates = [size for size in range(least, largest + 1) if largest % size == 0]
    few = peak_mib(least)
    if largest <= least:
        return largest if few <= limit_mib else None
    all_of_them = peak_mib(largest)
    if all_of_them <= limit_mib:  # also where fewer do not: their gradients stay, those of a whole batch need not
        return largest
    if few > limit_mib:
        return None
    slope = (all_of_them - few) / (largest - least)
    found = sum(few + slope * (size - least) <= limit_mib for size in candidates) - 1
    while found >= 0 and peak_mib(candidates[found]) > limit_mib:
        found -= 1
    while found + 1 < len(candidates) and peak_mib(candidates[found + 1]) <= limit_mib:
        found += 1
    return candidates[found] if found >= 0 else None


def profile_gpu_memory(
    model: nn.Module,
    input_shape: Sequence[int] = (1, 3, 224, 224),
    *,
    device: str | torch.device = "auto",
    precision: str = "no",
    training: bool = False,
    optimizer: OptimizerFactory | None = None,
) -> MemoryRecord:
    """Peak memory of a step on a device, as its own allocator counts it; live tensor bytes on a CPU.

    Never the process's resident size passed off as it: that contains the libraries, and never shrinks.

    Args: as measure_memory; device 'auto' is the accelerator where there is one.
    Raises:
        DeviceError: the device is not there.
        ConfigError: `model` is no network, or `input_shape` no shape.
    """
    check_module(model)
    chosen = present_device(device)
    options = {
        "input_shape": checked_shape(input_shape),
        "precision": precision,
        "training": training,
        "optimizer": optimizer,
    }
    if chosen.type == "cpu":
        return measure_memory(model, device=chosen, **options)  # type: ignore[arg-type]
    return _accelerator_memory(model, chosen, options)


def _accelerator_memory(model: nn.Module, device: torch.device, options: Mapping[str, object]) -> MemoryRecord:
    """Run the step and read the allocator's own peak (torch.accelerator: CUDA, XPU, ...)."""
    torch.accelerator.empty_cache()
    torch.accelerator.synchronize(device)
    before = torch.accelerator.memory_allocated(device)
    torch.accelerator.reset_peak_memory_stats(device)
    counted = measure_memory(model, device=device, **options)  # type: ignore[arg-type]
    torch.accelerator.synchronize(device)
    peak_mib = (torch.accelerator.max_memory_allocated(device) - before) / _MIB
    return replace(
        counted,
        method=ALLOCATOR,
        peak_mib=peak_mib,
        allocated_mib=before / _MIB,
        reserved_mib=torch.accelerator.memory_reserved(device) / _MIB,
        leaves_out="the device's context and libraries, which are outside the allocator",
    )
