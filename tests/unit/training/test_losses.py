from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from resomap.training.losses import classification_loss

# Two classes, logits (0, 0): probabilities 1/2, so -log p = log 2 whatever the class.
EVEN = torch.zeros(4, 2)
LABELS = torch.tensor([0, 0, 0, 1])


def test_classification_loss_is_the_mean_cross_entropy():
    assert classification_loss(EVEN, LABELS).item() == pytest.approx(math.log(2))


def test_classification_loss_weighs_samples_not_batches():
    # Weights 1, 1, 1, 3 over 4 samples: 6/4 log 2. torch's 'mean' would divide by 6 and give log 2.
    loss = classification_loss(EVEN, LABELS, class_weights_K=torch.tensor([1.0, 3.0]))
    assert loss.item() == pytest.approx(1.5 * math.log(2))


def test_classification_loss_with_weights_does_not_depend_on_the_cut():
    logits, weights = torch.randn(4, 2), torch.tensor([1.0, 3.0])
    whole = classification_loss(logits, LABELS, class_weights_K=weights)
    parts = [
        classification_loss(logits[part], LABELS[part], class_weights_K=weights) * share
        for part, share in ((slice(0, 1), 0.25), (slice(1, 4), 0.75))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)


def test_classification_loss_smooths_towards_uniform():
    # p = (0.8, 0.2), label 0, smoothing 0.1: targets (0.95, 0.05).
    logits = torch.tensor([[math.log(0.8), math.log(0.2)]])
    loss = classification_loss(logits, torch.tensor([0]), label_smoothing=0.1)
    assert loss.item() == pytest.approx(-0.95 * math.log(0.8) - 0.05 * math.log(0.2), rel=1e-6)


def test_classification_loss_equals_torch_without_weights():
    logits, labels = torch.randn(16, 5), torch.randint(0, 5, (16,))
    expected = functional.cross_entropy(logits, labels, label_smoothing=0.2)
    assert classification_loss(logits, labels, label_smoothing=0.2).item() == pytest.approx(expected.item())


def test_classification_loss_is_computed_in_float32():
    logits = torch.tensor([[300.0, 0.0]], dtype=torch.bfloat16)
    loss = classification_loss(logits, torch.tensor([1]))
    assert loss.dtype is torch.float32
    assert loss.item() == 300.0
