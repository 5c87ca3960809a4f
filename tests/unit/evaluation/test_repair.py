"""Networks made ready for another input size."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

from resomap.data.batches import Batch
from resomap.evaluation.repair import finetune_head, reestimate_batch_norm


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


def test_an_error_leaves_no_hook_and_no_momentum_behind() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1, momentum=0.3), nn.BatchNorm2d(2))  # the second fits no batch
    with pytest.raises(RuntimeError, match="running_mean"):
        reestimate_batch_norm(network, [_batch([0, 4])], device="cpu")
    assert (network[0].momentum, network[1].momentum) == (0.3, 0.1)
    assert not any(layer._forward_pre_hooks for layer in network)
    assert not any(layer.training for layer in network)


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


def test_every_head_of_a_distilled_network_is_trained() -> None:
    network = timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=2, img_size=32, depth=1, embed_dim=12, num_heads=1
    )
    before = {name: value.clone() for name, value in network.named_parameters()}
    batch = Batch(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 1, 1]), torch.full((4,), -1))
    finetune_head(network, [batch], device="cpu")
    changed = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_micro_batches_of_an_update_make_one_step() -> None:
    """AdamW's first steps are about its rate whatever the gradient: four of them would be four times as far."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    images, labels = torch.randn(8, 3, 2, 2), torch.tensor([0, 1, 1, 0, 1, 0, 0, 0])
    found = []
    for cuts in ([0, 8], [0, 2, 5, 8]):
        trained = copy.deepcopy(network)
        batches = [
            Batch(images[a:b], labels[a:b], torch.full((b - a,), -1), share=(b - a) / 8, ends_update=b == 8)
            for a, b in pairwise(cuts)
        ]
        finetune_head(trained, batches, device="cpu")
        found.append(trained[1].weight)
    torch.testing.assert_close(found[0], found[1])
    assert (found[0] - network[1].weight).abs().max().item() == pytest.approx(1e-3, rel=1e-3)
