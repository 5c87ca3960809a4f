"""A forward and backward pass as one CUDA graph: captured once, then launched as a whole.

A small network's pass is some thousand short kernels, and on a fast card Python takes longer to launch them than the
card to compute them. A graph launches the same kernels on the same addresses, so that nothing but time changes; what
Python decides on the way is decided once, while the pass is captured.

Reference: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from resomap.models.generators import isolated_generators

T = TypeVar("T")

_WARM_UP = 3
"""Passes before the capture, in which libraries choose algorithms and ask for workspaces; as torch's notes have it."""


def can_capture(device: torch.device) -> bool:
    """Whether passes on this device can be captured."""
    return device.type == "cuda"


def has_room(device: torch.device) -> bool:
    """Whether memory is left for a pass that was run before, a second time: a graph keeps its own, and shapes that come
    seldom are still run without one."""
    free, _ = torch.cuda.mem_get_info(device)
    return free > torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)


class GraphedPass(Generic[T]):
    """A pass that reads and writes the same tensors at each call.

    Args:
        run: forward and backward pass of `model` without waiting for the device; adds to the gradients. Called a few
            times for warming up, and once to be captured.
        model: on CUDA; what its gradients hold is lost.
    Raises:
        RuntimeError: the pass cannot be captured (it waits for the device, say), or memory does not suffice; the model
            is as before.
    Side effects: parameters that `run` reaches have gradients from now on, all 0, which must stay where they are
        (zeroed, not dropped). Weights, BatchNorm's statistics and generators are as before.
    """

    def __init__(self, run: Callable[[], T], model: nn.Module, device: torch.device) -> None:
        self._run = run  # holds what the graph reads
        kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        captured = False
        try:
            with isolated_generators(device):
                with torch.cuda.stream(stream):
                    for _ in range(_WARM_UP):
                        run()
                    _settle_gradients(model)
                # Other threads go on: the loader's pins memory.
                with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                    self._result: T = run()
            # Held, so that what the graph adds to stays theirs, also where somebody gives the parameters others.
            self._gradients = [parameter.grad for parameter in model.parameters()]
            captured = True
        finally:
            torch.cuda.current_stream(device).wait_stream(stream)
            with torch.no_grad():
                for buffer, before in kept:
                    buffer.copy_(before)
            if captured:
                zero_gradients(model)
            else:
                for parameter in model.parameters():
                    parameter.grad = None

    def __call__(self) -> T:
        """Run it once more; the result's tensors are those of every call, with new values."""
        self._graph.replay()
        return self._result


def _settle_gradients(model: nn.Module) -> None:
    """Give gradients that lie in memory otherwise than their parameters do, as the first pass made them, their layout.

    Their values are lost. The others stay where they are: an earlier graph of the model may add to them.

    Module.to(memory_format=...) moves a gradient that lies otherwise, while its parameter stays, and a graph would go
    on adding to where it was.
    """
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
            parameter.grad = torch.zeros_like(parameter)


def zero_gradients(model: nn.Module) -> None:
    """Set the gradients that are there to 0, in place."""
    gradients: list[Tensor] = [p.grad for p in model.parameters() if p.grad is not None]
    if gradients:
        torch._foreach_zero_(gradients)
