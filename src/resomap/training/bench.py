"""Seconds of a forward and backward pass in any precision, memory format and micro-batch; autotune.py compares them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from resomap.training.cuda_graphs import GraphedPass, can_capture
from resomap.training.engine import Engine
from resomap.training.losses import classification_loss


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """One way to compute a training step."""

    precision: str
    channels_last: bool
    micro_batch: int


class Bench:
    """Forward and backward passes of one network, in any precision and memory format.

    The optimiser's step is left out: it is the same for all, once an update.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        num_classes: int,
        largest: int,
        device: torch.device,
        graphs: bool,
        clock: Callable[[], float],
        is_out_of_memory: Callable[[BaseException], bool],
    ) -> None:
        self.clock, self._is_out_of_memory = clock, is_out_of_memory
        self._network = network.train()
        self._networks: dict[bool, nn.Module] = {}
        self._engines: dict[tuple[str, int], Engine] = {}
        self._launches_graphs = graphs and can_capture(device)
        self._graphs: dict[tuple[Setting, int], GraphedPass[None]] = {}
        self._device, self._classes, self._largest = device, num_classes, largest
        self._pixels = torch.empty(0, 3, largest, largest)

    def seconds_per_image(self, setting: Setting, side: int, *, images: int) -> float:
        """Of whole micro-batches, as many as `images` has; infinite where the device's memory does not suffice.

        What is left over is not timed: BatchNorm takes no single image.
        """
        micro = min(setting.micro_batch, images)
        images -= images % micro
        try:
            engine = self._engine(setting)
            inputs, labels = self._inputs(images, side, channels_last=setting.channels_last)
            parts = list(zip(inputs.split(micro), labels.split(micro), strict=True))

            def run(images_BCHW: Tensor, labels_B: Tensor) -> None:
                engine.backward(classification_loss(engine.forward(images_BCHW), labels_B))

            graph = self._graph(replace(setting, micro_batch=micro), side, lambda: run(*parts[0]))
            self._wait()
            started = self.clock()
            for part in parts:
                run(*part) if graph is None else graph()
            self._wait()
            return (self.clock() - started) / images
        except Exception as error:
            if self._is_out_of_memory(error):
                self.close()
                return math.inf
            raise
        finally:
            if not self._graphs:
                self._drop_gradients()

    def close(self) -> None:
        """Drop graphs and gradients."""
        self._graphs.clear()
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        for engine in self._engines.values():
            engine.drop_gradients()

    def _engine(self, setting: Setting) -> Engine:
        network = self._network_in(setting.channels_last)
        kind = (setting.precision, id(network))
        if kind not in self._engines:
            self._engines[kind] = Engine(
                network,
                _plain_sgd,
                device=self._device,
                precision=setting.precision,
                channels_last=setting.channels_last,
            )
        return self._engines[kind]

    def _network_in(self, channels_last: bool) -> nn.Module:
        """The network in that memory format; a copy for each where graphs know the addresses of the weights."""
        if self._launches_graphs and channels_last not in self._networks:
            self._networks[channels_last] = copy.deepcopy(self._network) if self._networks else self._network
        network = self._networks[channels_last] if self._launches_graphs else self._network
        network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        return network

    def _graph(self, setting: Setting, side: int, run: Callable[[], None]) -> GraphedPass[None] | None:
        """The pass as a graph, always on the same images; None where it is launched one operation after the other."""
        key = (setting, side)
        if self._launches_graphs and key not in self._graphs:
            try:
                self._graphs[key] = GraphedPass(run, self._networks[setting.channels_last], self._device)
            except RuntimeError as error:
                had_others = bool(self._graphs)
                self.close()  # their gradients are gone
                if not self._is_out_of_memory(error):
                    self._launches_graphs = False
                elif had_others:  # which kept memory of their own
                    return self._graph(setting, side, run)
                else:
                    raise
        return self._graphs.get(key)

    def _inputs(self, images: int, side: int, *, channels_last: bool) -> tuple[Tensor, Tensor]:
        if len(self._pixels) < images:
            self._pixels = torch.rand(images, 3, self._largest, self._largest).to(self._device)
        wanted = torch.channels_last if channels_last else torch.contiguous_format
        inputs_BCHW = self._pixels[:images, :, :side, :side].contiguous(memory_format=wanted)
        return inputs_BCHW, torch.arange(images, device=self._device) % self._classes

    def _wait(self) -> None:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)


def _plain_sgd(model: nn.Module) -> torch.optim.Optimizer:
    """An optimiser without state; it never steps."""
    return torch.optim.SGD(model.parameters(), lr=0.0)
