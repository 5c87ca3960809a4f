"""Small learnable data, models with and without randomness, and a Trainer over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resomap.training.trainer import Trainer

CLASSES = 3


def _images(count: int, *, seed: int) -> TensorDataset:
    """8 x 8 images whose brightest channel is their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = torch.randn(count, CLASSES, 8, 8, generator=generator) * 0.5
    images[torch.arange(count), labels] += 1.0
    return TensorDataset(images, labels)


@pytest.fixture
def loader() -> Callable[..., DataLoader]:
    def make(count: int = 20, *, batch_size: int = 4, shuffle: bool = True, seed: int = 0) -> DataLoader:
        return DataLoader(_images(count, seed=seed), batch_size=batch_size, shuffle=shuffle)

    return make


@pytest.fixture
def network() -> Callable[..., nn.Module]:
    def make(*, dropout: float = 0.0, norm: bool = False, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Conv2d(CLASSES, 8, 3), nn.ReLU()]
        if norm:
            layers.append(nn.BatchNorm2d(8))
        if dropout:
            layers.append(nn.Dropout(dropout))
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))

    return make


@pytest.fixture
def trainer(network, loader) -> Callable[..., Trainer]:
    """A Trainer on the CPU: 20 images, batches of 4, so 5 updates an epoch unless told otherwise."""

    def make(model: nn.Module | None = None, train: Any = None, val: Any = "default", **options: Any) -> Trainer:
        if isinstance(val, str):
            val = loader(9, seed=1, shuffle=False)
        defaults = {"device": "cpu", "epochs": 3, "learning_rate": 0.05, "optimizer": "sgd"}
        train = loader() if train is None else train
        return Trainer(model or network(), train, val, **defaults | options)

    return make


@pytest.fixture
def weights() -> Callable[[nn.Module], dict[str, torch.Tensor]]:
    """Copies of all parameters and buffers."""

    def copy(model: nn.Module) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in model.state_dict().items()}

    return copy


@pytest.fixture
def assert_identical() -> Callable[..., None]:
    """Bit for bit."""

    def check(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
        assert ours.keys() == theirs.keys()
        different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
        assert different == []

    return check
