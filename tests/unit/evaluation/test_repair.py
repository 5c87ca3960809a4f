"""Networks made ready for another input size."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from resomap.data.batches import Batch
from resomap.evaluation.repair import reestimate_batch_norm


def _batch(values: Sequence[float]) -> Batch:
    """Images of one pixel and one channel."""
    images = torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1)
    return Batch(images, torch.zeros(len(values), dtype=torch.long), torch.full((len(values),), -1))


def test_a_small_last_batch_weighs_as_much_as_it_has_images() -> None:
    """0, 0, 4, 4: mean 2, variance 16/3. 10, 12: mean 11, variance 2. Four parts of one and two of the other."""
    network = nn.Sequential(nn.BatchNorm2d(1, momentum=0.3))
    reestimate_batch_norm(network, [_batch([0, 0, 4, 4]), _batch([10, 12])], device="cpu")
    assert network[0].running_mean.item() == pytest.approx((4 * 2 + 2 * 11) / 6)
    assert network[0].running_var.item() == pytest.approx((4 * 16 / 3 + 2 * 2) / 6)
    assert network[0].momentum == 0.3
    assert not network[0]._forward_pre_hooks


def test_a_layer_that_runs_twice_averages_both() -> None:
    """The same layer on x and on its own output, which has mean 0 and variance 4/3."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1, affine=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.norm(x))

    network = Twice()
    reestimate_batch_norm(network, [_batch([0, 0, 4, 4])], device="cpu")
    assert network.norm.running_mean.item() == pytest.approx((2 + 0) / 2, rel=1e-4)
    assert network.norm.running_var.item() == pytest.approx((16 / 3 + 4 / 3) / 2, rel=1e-4)
