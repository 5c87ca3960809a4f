"""Forward and backward pass of a micro-batch: launched one operation after the other, or as a graph on CUDA."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from resomap.data.batches import Batch, to_model_input
from resomap.training.engine import Engine
from resomap.training.graphs import GraphedPass, can_capture
from resomap.training.losses import classification_loss

log = logging.getLogger(__name__)

_SEEN_BEFORE = 2
"""A shape is captured when it comes for the third time: the last batch of an epoch seldom does."""


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
        self._parameters = list(model.parameters())
        self._class_weights = torch.tensor(class_weights, device=engine.device) if class_weights is not None else None
        self._label_smoothing, self._input_options = label_smoothing, dict(input_options)
        # Ranks exchange gradients during the pass, which would have to be captured with it.
        self._may_capture = graphs and can_capture(engine.device) and engine.world_size == 1
        self._seen: dict[object, int] = {}
        self._graph: GraphedPass[tuple[Tensor, Tensor]] | None = None

    def __call__(self, batch: Batch, weight: float) -> tuple[Tensor, Tensor]:
        """(mean loss (), right answers ()) on the device; the results of a pass are overwritten by the next one.

        Args:
            weight: what the mean loss is multiplied by before the backward pass.
        """
        if self._graph is not None and self._addresses() != self._captured_at:
            self.release()  # somebody has moved the weights: the graph would go on with the old ones
        if self._graph is None and self._may_capture and self._comes_again(batch):
            self._capture(batch, weight)
        if self._graph is None or _shape(batch) != self._shape:
            return self._run(batch, weight)
        self._copy(batch, weight)
        return self._graph()

    def release(self) -> None:
        """Give the graph's memory back; what comes again is captured anew."""
        if self._graph is not None:
            self._graph = None
            self._seen.clear()
            self._engine.keep_gradients(False)

    def _run(self, batch: Batch, weight: float | Tensor) -> tuple[Tensor, Tensor]:
        images_BCHW, labels_B = to_model_input(batch, self._engine.device, **self._input_options)
        logits_BK = self._engine.forward(images_BCHW)
        loss = classification_loss(
            logits_BK, labels_B, class_weights_K=self._class_weights, label_smoothing=self._label_smoothing
        )
        self._engine.backward(loss * weight)
        return loss.detach(), (logits_BK.detach().argmax(1) == labels_B).sum()

    def _addresses(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self._parameters]

    def _comes_again(self, batch: Batch) -> bool:
        shape = _shape(batch)
        self._seen[shape] = self._seen.get(shape, 0) + 1
        # In the middle of a window there are gradients, which capturing would lose.
        return self._seen[shape] > _SEEN_BEFORE and all(p.grad is None for p in self._parameters)

    def _capture(self, batch: Batch, weight: float) -> None:
        device = self._engine.device
        try:
            place = torch.tensor(weight, dtype=torch.float32, device=device)
            inputs = replace(
                batch,
                images=batch.images.to(device),
                labels=batch.labels.to(device),
                colour=None if batch.colour is None else batch.colour.to(device),
            )
            self._graph = GraphedPass(lambda: self._run(inputs, place), self._model, device)
        except RuntimeError as wrong:
            self._may_capture = False
            reason = str(wrong).strip().splitlines()
            log.info("training steps are not launched as a CUDA graph: %s", reason[0] if reason else type(wrong))
        else:
            self._shape, self._inputs, self._weight = _shape(batch), inputs, place
            self._captured_at = self._addresses()
            self._engine.keep_gradients(True)

    def _copy(self, batch: Batch, weight: float) -> None:
        non_blocking = self._input_options.get("non_blocking", False)
        self._inputs.images.copy_(batch.images, non_blocking=non_blocking)
        self._inputs.labels.copy_(batch.labels, non_blocking=non_blocking)
        if self._inputs.colour is not None and batch.colour is not None:
            self._inputs.colour.copy_(batch.colour, non_blocking=non_blocking)
        self._weight.fill_(weight)


def _shape(batch: Batch) -> object:
    colour = None if batch.colour is None else tuple(batch.colour.shape)
    return tuple(batch.images.shape), batch.images.dtype, colour
