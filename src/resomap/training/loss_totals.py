"""The losses of an epoch, its right answers and its samples, summed on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resomap.training.engine import Engine


class Tally:
    """Loss, hits and samples of an epoch so far, summed on the device without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        # mps has no float64; float32 still counts 16 million samples exactly.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums = torch.zeros(2, dtype=dtype, device=device)
        self._loss, self._hits = self._sums[0], self._sums[1]
        self.samples = 0

    def add(self, loss: Tensor, hits: Tensor, samples: int) -> None:
        """A micro-batch: mean loss (), number of right answers (), number of samples."""
        self._loss.add_(loss, alpha=samples)
        self._hits.add_(hits)
        self.samples += samples

    def loss_sum(self) -> Tensor:
        """() sum of the losses of all samples; NaN or infinite as soon as one was."""
        return self._loss

    def totals(self, engine: Engine) -> dict[str, float]:
        """Sums over all ranks; waits for the device."""
        sums = engine.sum_over_ranks(torch.cat([self._sums, self._sums.new_tensor([self.samples])]))
        loss, hits, samples = sums.tolist()
        return {"loss": loss, "hits": hits, "samples": samples}

    def restore(self, totals: dict[str, Any], *, is_main: bool) -> None:
        """Go on from saved totals, which the first rank carries for all."""
        share = 1.0 if is_main else 0.0
        self._loss.fill_(totals["loss"] * share)
        self._hits.fill_(totals["hits"] * share)
        self.samples = int(totals["samples"] * share)
