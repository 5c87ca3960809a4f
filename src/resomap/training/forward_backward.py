"""Forward and backward pass of a micro-batch: launched one operation after the other, or as a graph on CUDA."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from resomap.data.batches import Batch, to_model_input
from resomap.errors import ConfigError
from resomap.models.modules import checked_logits
from resomap.training.cuda_graphs import GraphedPass, can_capture, has_room
from resomap.training.device import peak_memory_mib
from resomap.training.engine import Engine
from resomap.training.losses import check_labels, classification_loss

log = logging.getLogger(__name__)

_SEEN_BEFORE = 2
"""A shape is captured when it comes for the third time: the last batch of an epoch seldom does."""


class _Launcher:
    """A pass, operation by operation."""

    def __init__(
        self,
        engine: Engine,
        *,
        class_weights: tuple[float, ...] | None,
        label_smoothing: float,
        input_options: Mapping[str, bool],
    ) -> None:
        self._engine = engine
        self._class_weights = torch.tensor(class_weights, device=engine.device) if class_weights is not None else None
        self._label_smoothing, self._input_options = label_smoothing, dict(input_options)
        self._classes: int | None = None

    def __call__(self, batch: Batch, weight: float | Tensor) -> tuple[Tensor, Tensor]:
        images_BCHW, labels_B = to_model_input(batch, self._engine.device, **self._input_options)
        logits_BK = self._engine.forward(images_BCHW)
        self._check_classes(logits_BK, len(labels_B))
        self.check_labels(batch)
        loss = classification_loss(
            logits_BK, labels_B, class_weights_K=self._class_weights, label_smoothing=self._label_smoothing
        )
        self._engine.backward(loss * weight)
        return loss.detach(), (logits_BK.detach().argmax(1) == labels_B).sum()

    def _check_classes(self, logits_BK: object, images: int) -> None:
        self._classes = classes = checked_logits(logits_BK, images).shape[1]
        if self._class_weights is not None and len(self._class_weights) != classes:
            raise ConfigError(
                f"class_weights: expected one for each of the model's {classes} classes, got {len(self._class_weights)}"
            )

    def check_labels(self, batch: Batch) -> None:
        """Refuse a foreign loader's labels that are no class of the model.

        Labels that lie on an accelerator are not looked at: that would wait for it.
        """
        if self._classes is None or batch.colour is not None or batch.labels.device.type != "cpu":
            return
        low, high = (int(end) for end in batch.labels.aminmax())
        check_labels(low, high, classes=self._classes, name="loader")


class _Graph:
    """A pass captured as a graph, with the places that it reads a batch from."""

    def __init__(self, launch: _Launcher, model: nn.Module, batch: Batch, weight: float, device: torch.device) -> None:
        place = torch.tensor(weight, dtype=torch.float32, device=device)
        inputs = replace(
            batch,
            images=batch.images.to(device, copy=True),
            labels=batch.labels.to(device, copy=True),
            colour=None if batch.colour is None else batch.colour.to(device, copy=True),
        )
        self._pass = GraphedPass(lambda: launch(inputs, place), model, device)
        self._inputs, self._weight, self._shape = inputs, place, _shape(batch)
        self._parameters, self._buffers = list(model.parameters()), list(model.buffers())
        self._made_for = self._what_it_knows()

    def fits(self, batch: Batch) -> bool:
        """Whether it is of that batch's shape."""
        return _shape(batch) == self._shape

    def is_current(self) -> bool:
        """Whether weights, gradients and statistics still lie where they lay."""
        return self._what_it_knows() == self._made_for

    def __call__(self, batch: Batch, weight: float, *, non_blocking: bool) -> tuple[Tensor, Tensor]:
        self._inputs.images.copy_(batch.images, non_blocking=non_blocking)
        self._inputs.labels.copy_(batch.labels, non_blocking=non_blocking)
        if self._inputs.colour is not None and batch.colour is not None:
            self._inputs.colour.copy_(batch.colour, non_blocking=non_blocking)
        self._weight.fill_(weight)
        return self._pass()

    def _what_it_knows(self) -> list[object]:
        known: list[object] = [buffer.data_ptr() for buffer in self._buffers]
        for parameter in self._parameters:
            gradient = parameter.grad
            known += (parameter.data_ptr(), parameter.requires_grad, gradient is not None and gradient.data_ptr())
        return known


class Passes:
    """Adds a micro-batch's gradients to the parameters'.

    Args:
        model: the bare model; the engine calls it.
        input_options: of data.batches.to_model_input.
        graphs: launch passes as graphs where the device can: the first shape that comes again is captured.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        engine: Engine,
        class_weights: tuple[float, ...] | None,
        label_smoothing: float,
        input_options: Mapping[str, bool],
        graphs: bool,
    ) -> None:
        self._model, self._engine = model, engine
        self._launch = _Launcher(
            engine, class_weights=class_weights, label_smoothing=label_smoothing, input_options=input_options
        )
        self._non_blocking = input_options.get("non_blocking", False)
        # Ranks exchange gradients during the pass, which would have to be captured with it.
        self._may_capture = graphs and can_capture(engine.device) and not engine.exchanges
        self._seen: dict[object, int] = {}
        self._graph: _Graph | None = None
        self.peak_mib = 0.0
        """Of the device's memory while a pass was captured: replays ask for none, and do not show in its own peak."""

    def __call__(self, batch: Batch, weight: float) -> tuple[Tensor, Tensor]:
        """(mean loss (), right answers ()) on the device; the results of a pass are overwritten by the next one.

        Args:
            weight: what the mean loss is multiplied by before the backward pass.
        """
        if self._graph is not None and not self._graph.is_current():
            self.release()  # somebody has moved the weights: the graph would go on with the old ones
        if self._graph is None and self._may_capture and self._comes_again(batch):
            self._capture(batch, weight)
        if self._graph is None or not self._graph.fits(batch):
            return self._launch(batch, weight)
        self._launch.check_labels(batch)
        return self._graph(batch, weight, non_blocking=self._non_blocking)

    def release(self) -> None:
        """Give the graph's memory back; what comes again is captured anew."""
        if self._graph is not None:
            self._graph = None
            self._seen.clear()
            self._engine.keep_gradients(False)

    def _comes_again(self, batch: Batch) -> bool:
        shape = _shape(batch)
        self._seen[shape] = self._seen.get(shape, 0) + 1
        # In the middle of a window there are gradients, which capturing would lose.
        return self._seen[shape] > _SEEN_BEFORE and all(p.grad is None for p in self._model.parameters())

    def _capture(self, batch: Batch, weight: float) -> None:
        device = self._engine.device
        if not has_room(device):
            self._give_up("the device's memory is too full")
            return
        try:
            self._graph = _Graph(self._launch, self._model, batch, weight, device)
        except RuntimeError as wrong:
            lines = str(wrong).strip().splitlines()
            self._give_up(lines[0] if lines else type(wrong).__name__)
        else:
            self.peak_mib = peak_memory_mib(device) or 0.0
            self._engine.keep_gradients(True)

    def _give_up(self, reason: str) -> None:
        self._may_capture = False
        log.info("training steps are not launched as a CUDA graph: %s", reason)


def _shape(batch: Batch) -> object:
    colour = None if batch.colour is None else tuple(batch.colour.shape)
    return tuple(batch.images.shape), batch.images.dtype, colour
