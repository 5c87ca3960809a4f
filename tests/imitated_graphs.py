"""CUDA's graphs imitated on the CPU: a tape of the operations, run again on the same tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resomap.training import bench, forward_backward


class ImitatedGraph:
    """What torch.cuda.CUDAGraph does: results of a replay lie where those of the capture lay."""

    made: list[ImitatedGraph]

    def __init__(self) -> None:
        self.tape: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        self.made.append(self)

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for function, args, kwargs, results in self.tape:
                again = tree_leaves(function(*args, **kwargs))
                for result, value in zip(tree_leaves(results), again, strict=True):
                    if isinstance(result, torch.Tensor) and result.data_ptr() != value.data_ptr():
                        result.copy_(value)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: ImitatedGraph) -> None:
        super().__init__()
        self._tape = graph.tape

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        self._tape.append((func, args, kwargs or {}, results))
        return results


class _Stream:
    def __init__(self, *_: object) -> None:
        pass

    def wait_stream(self, _other: object) -> None:
        pass


@contextmanager
def _capture(graph: ImitatedGraph, *, stream: object, capture_error_mode: str) -> Iterator[None]:
    assert isinstance(stream, _Stream)
    assert capture_error_mode == "thread_local"  # the loader's thread pins memory meanwhile
    with _Recorder(graph):
        yield


@contextmanager
def _on(_stream: object) -> Iterator[None]:
    yield


def imitate(patch: pytest.MonkeyPatch) -> list[ImitatedGraph]:
    """Let passes on the CPU be captured; returns the graphs as they are made."""
    ImitatedGraph.made = []
    patch.setattr(torch.cuda, "CUDAGraph", ImitatedGraph)
    patch.setattr(torch.cuda, "graph", _capture)
    patch.setattr(torch.cuda, "stream", _on)
    patch.setattr(torch.cuda, "Stream", _Stream)
    patch.setattr(torch.cuda, "current_stream", _Stream)
    for module in (forward_backward, bench):
        patch.setattr(module, "can_capture", lambda _device: True)
    patch.setattr(forward_backward, "has_room", lambda _device: True)
    return ImitatedGraph.made
