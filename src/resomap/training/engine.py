"""One model on one device, in one precision, on one or many ranks: what accelerate does, behind few words.

accelerate keeps its settings in process-wide objects and refuses a second Accelerator with another precision
(huggingface/accelerate#2463). A study makes many, so each Engine is built in a state of its own, keeps a copy
of it, and leaves that of the process as it was.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin
from torch import Tensor, nn

from resomap.errors import DeviceError, ResoMapError
from resomap.printable import printable
from resomap.training.cuda_graphs import zero_gradients
from resomap.training.device import select_device
from resomap.training.ranks import Ranks

T = TypeVar("T")

_SHARED_BY_PROCESS = (AcceleratorState, GradientState, PartialState)
_MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_NOT_SUPPORTED = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "XLA")


class _Shell(nn.Module):
    """Calls the model. accelerate gives the shell a forward with autocast, and the model keeps its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.model(images_BCHW)


class Engine:
    """Forward, backward and optimiser step.

    Args:
        model: moved to the device (in place), 4-d weights in NHWC where `channels_last`.
        make_optimizer: called with the model once it is there.
        device: 'cuda' under a launcher means the rank's own GPU.
        precision: 'no', 'bf16' or 'fp16' (gradients scaled, overflowing updates skipped).
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        *,
        device: torch.device,
        precision: str,
        channels_last: bool = True,
    ) -> None:
        with own_accelerate_state(device):
            self.accelerator = make_accelerator(device, precision)
            self.ranks = Ranks(self.accelerator.process_index, self.accelerator.num_processes)
            self.device = self.accelerator.device
            if self.device.index is not None:
                torch.accelerator.set_device_index(self.device.index)
            model.to(self.device)
            if channels_last:
                model.to(memory_format=torch.channels_last)
            self.shell = self.accelerator.prepare_model(_Shell(model))
            self.optimizer = self.accelerator.prepare_optimizer(make_optimizer(model), device_placement=False)
            _keep_state_of(
                self.accelerator.state,
                self.accelerator.gradient_state,
                self.optimizer.accelerator_state,
                self.optimizer.gradient_state,
            )
        self._model = model
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._gradients_stay = False
        self._scale = self._loss_scale()

    @property
    def rank(self) -> int:
        return self.ranks.rank

    @property
    def world_size(self) -> int:
        return self.ranks.world_size

    @property
    def exchanges(self) -> bool:
        """Whether gradients are exchanged in the backward pass, be it with this process alone (torchrun of one)."""
        return self.world_size > 1 or isinstance(self.shell, nn.parallel.DistributedDataParallel)

    @property
    def is_main(self) -> bool:
        return self.ranks.is_main

    def accumulating(self) -> AbstractContextManager[Any]:
        """Around forward and backward of all but a window's last micro-batch: ranks do not exchange yet."""
        return self.accelerator.no_sync(self.shell) if self.world_size > 1 else nullcontext()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, K) float32, computed in the engine's precision."""
        return self.shell(images_BCHW)

    def backward(self, loss: Tensor) -> None:
        """Add the (scaled) gradients of `loss`."""
        self.accelerator.backward(loss)

    def step(self, *, clip_grad_norm: float | None) -> None:
        """Clip, update the weights (unless fp16 overflowed), drop the gradients."""
        if clip_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self._parameters, clip_grad_norm)
        if self.accelerator.scaler is not None:
            self.optimizer.step()
        else:
            # The wrapper would do the same after looking for a package on the disk: 0.1 ms, in each step.
            self.optimizer.optimizer.step()
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """As after an update."""
        if self._gradients_stay:
            zero_gradients(self._model)
        else:
            self.optimizer.optimizer.zero_grad(set_to_none=True)

    def keep_gradients(self, keep: bool) -> None:
        """Whether gradients stay where they are in memory, and are set to 0 when they are dropped."""
        self._gradients_stay = keep
        self.drop_gradients()

    def count_skipped(self) -> int:
        """fp16 updates skipped for overflow since the last call, seen by the halvings of the loss scale.

        Waits for the device. accelerate's optimizer_step_was_skipped does not see what a fused kernel skips.
        """
        scaler = self.accelerator.scaler
        if scaler is None:
            return 0
        before, self._scale = self._scale, self._loss_scale()
        smallest = sys.float_info.min  # a scale that vanished
        return max(0, round(math.log(max(self._scale, smallest) / before, scaler.get_backoff_factor())))

    @property
    def learning_rate(self) -> float:
        """Of the next step, in all parameter groups."""
        return float(self.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def weights_are_finite(self) -> bool:
        """Whether no trainable parameter holds NaN or infinity."""
        return bool(torch.isfinite(torch.nn.utils.get_total_norm(self._parameters)))

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        """Elementwise sum; the same on every rank."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def agree(self, loss_sum: Tensor, *, stop: bool, save: bool) -> tuple[float, bool, bool]:
        """(sum of the losses, whether any rank stops, whether the first saves), the same on every rank.

        Waits for the device.
        """
        if self.world_size == 1:
            return float(loss_sum), stop, save
        ours = [float(stop), float(save and self.is_main)]
        votes = self.sum_over_ranks(torch.cat([loss_sum.reshape(1), loss_sum.new_tensor(ours)])).tolist()
        return votes[0], votes[1] > 0, votes[2] > 0

    def on_main(self, work: Callable[[], T]) -> T:
        """Do `work` on the first rank only; every rank returns its result or raises its error."""
        if self.world_size == 1:
            return work()
        outcome: list[Any] = [None, ResoMapError("the first process failed; its own message says why")]
        if not self.is_main:
            dist.broadcast_object_list(outcome, src=0)
            if outcome[1] is not None:
                raise outcome[1]
            return outcome[0]
        try:
            outcome = [work(), None]
        except ResoMapError as error:
            outcome[1] = error
            raise
        finally:  # whatever happened: ranks that are told nothing would wait for ever
            dist.broadcast_object_list(outcome, src=0)
        return outcome[0]

    def state_dict(self) -> dict[str, Any]:
        """Optimiser and gradient scaler."""
        scaler = self.accelerator.scaler
        return {
            "optimizer": self.optimizer.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what state_dict() returned."""
        self.optimizer.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self._scale = self._loss_scale()

    def _loss_scale(self) -> float:
        scaler = self.accelerator.scaler
        return float(scaler.get_scale()) if scaler is not None else 1.0


def process_ranks(device: torch.device) -> tuple[int, int]:
    """(rank, number of processes), joining the group first where torchrun or accelerate launched several.

    Raises:
        DeviceError: MPI started several processes, which cannot be joined.
    """
    with own_accelerate_state(device):
        state = PartialState(cpu=device.type == "cpu")
        return state.process_index, state.num_processes


def connect_ranks(device: str) -> Ranks:
    """Join the processes that a launcher started; alone without one.

    Args:
        device: system.device; 'cpu' makes the processes talk over gloo.
    Raises:
        DeviceError: no such device.
    """
    return Ranks(*process_ranks(select_device(device)))


def make_accelerator(device: torch.device, precision: str) -> Accelerator:
    """An Accelerator for this device and precision. It accumulates 1 step: the trainer drives the windows."""
    # Gradients live in the buckets that are exchanged: one copy less. Unused parameters are not searched for.
    buckets = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=precision,
        # A plugin, since the plain argument gives way to a variable that `accelerate launch` sets.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[buckets],
    )
    kind = accelerator.distributed_type.value
    if kind in _NOT_SUPPORTED:
        raise DeviceError(
            f"training with {kind} is not supported, only DistributedDataParallel is; choose multi-GPU in "
            "`accelerate config`, or start with torchrun"
        )
    return accelerator


@contextmanager
def own_accelerate_state(device: torch.device) -> Iterator[None]:
    """Inside, accelerate has no precision, accumulation and device chosen yet but `device`; afterwards as before.

    A process that belongs to a group of several stays in it.
    """
    _refuse_mpi(device)
    before = [dict(kind._shared_state) for kind in _SHARED_BY_PROCESS]
    for kind in _SHARED_BY_PROCESS:
        kind._shared_state.clear()
    try:
        with _chosen_device(device):
            yield
    finally:
        joined = PartialState().use_distributed and not before[-1]
        for kind, values in zip(_SHARED_BY_PROCESS, before, strict=True):
            if not (joined and kind is PartialState):
                kind._shared_state.clear()
                kind._shared_state.update(values)


def _refuse_mpi(device: torch.device) -> None:
    """accelerate would act on MPI's variables on a CPU, and fail without an address to meet at."""
    if device.type == "cpu" and not {"LOCAL_RANK", "MASTER_ADDR"} & os.environ.keys():
        for name in _MPI_SIZES:
            if os.environ.get(name, "1") != "1":
                raise DeviceError(
                    f"{name} is {printable(os.environ[name])}: MPI started several processes, which torch cannot join; "
                    f"start one run over several with torchrun or accelerate, give srun --mpi=none, or unset {name}"
                )


@contextmanager
def _chosen_device(device: torch.device) -> Iterator[None]:
    """Tell accelerate the device by the variable it reads; a launched rank picks its own GPU instead."""
    if device.type != "cpu" and "LOCAL_RANK" in os.environ:
        yield
        return
    name = "ACCELERATE_TORCH_DEVICE"
    before = os.environ.get(name)
    os.environ[name] = str(device)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _keep_state_of(*holders: Any) -> None:
    """Let each holder of a process-wide state go on with a copy of what it is now."""
    for holder in holders:
        holder.__dict__ = dict(holder.__dict__)
