from __future__ import annotations

import pytest
import torch
from torch import nn

from resomap.errors import ConfigError
from resomap.training.optimizers import OPTIMIZERS, build_optimizer, parameter_groups


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_parameter_groups_decays_only_weights_of_layers():
    network = _network()
    decaying, still = parameter_groups(network, weight_decay=0.1)
    assert [p.ndim for p in decaying["params"]] == [4, 2]  # conv and linear weights
    assert decaying["weight_decay"] == 0.1
    assert [p.ndim for p in still["params"]] == [1, 1, 1, 1]  # conv bias, norm scale and shift, linear bias
    assert still["weight_decay"] == 0.0


def test_parameter_groups_leaves_frozen_parameters_out():
    network = _network()
    network[0].requires_grad_(False)
    counted = [p for group in parameter_groups(network, weight_decay=0.1) for p in group["params"]]
    assert len(counted) == 4
    assert all(p.requires_grad for p in counted)


def test_parameter_groups_honours_the_models_own_exemptions():
    class WithPositions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.zeros(1, 5, 4))
            self.head = nn.Linear(4, 2)

        def no_weight_decay(self) -> set[str]:
            return {"positions"}

    network = WithPositions()
    decaying, still = parameter_groups(network, weight_decay=0.1)
    assert decaying["params"] == [network.head.weight]
    assert any(p is network.positions for p in still["params"])


def test_parameter_groups_refuses_a_model_without_trainable_parameters():
    with pytest.raises(ConfigError, match="no trainable parameters"):
        parameter_groups(_network().requires_grad_(False), weight_decay=0.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_build_optimizer_fused_equals_plain(name):
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        network = nn.Linear(7, 3)
        optimizer = build_optimizer(network, name, learning_rate=0.1, weight_decay=0.01, fused=fused)
        for _ in range(3):
            network(torch.ones(2, 7)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append(network.weight.detach().clone())
        assert bool(optimizer.param_groups[0].get("fused")) is fused
    assert torch.allclose(*results, atol=1e-6)


def test_build_optimizer_adamw_shrinks_weights_and_not_biases():
    network = nn.Linear(2, 2)
    nn.init.ones_(network.weight)
    nn.init.ones_(network.bias)
    optimizer = build_optimizer(network, "adamw", learning_rate=0.1, weight_decay=0.5)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # Without a gradient AdamW only shrinks: 1 - 0.1 * 0.5 = 0.95.
    assert network.weight.detach() == pytest.approx(torch.full((2, 2), 0.95))
    assert torch.equal(network.bias.detach(), torch.ones(2))


def test_build_optimizer_sgd_uses_nesterov_momentum():
    weight = nn.Parameter(torch.zeros(1, 1))
    network = nn.Module()
    network.register_parameter("weight", weight)
    optimizer = build_optimizer(network, "sgd", learning_rate=1.0, weight_decay=0.0, momentum=0.5)
    # Nesterov: v = 0.5 v + g, w -= g + 0.5 v. Gradient 1 twice: v = 1, 1.5; steps 1.5, 1.75.
    seen = []
    for _ in range(2):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        seen.append(weight.item())
    assert seen == pytest.approx([-1.5, -3.25])


def test_build_optimizer_falls_back_where_no_fused_kernel_is(monkeypatch):
    class NoFusedKernel(torch.optim.AdamW):
        def __init__(self, groups, *, fused=None, **options):
            if fused:
                raise RuntimeError("`fused=True` requires another device")
            super().__init__(groups, **options)

    monkeypatch.setattr(torch.optim, "AdamW", NoFusedKernel)
    optimizer = build_optimizer(nn.Linear(2, 2), "adamw", learning_rate=0.1, weight_decay=0.1)
    assert isinstance(optimizer, NoFusedKernel)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]


@pytest.fixture
def uninitialised_is_nan():
    """Memory that nobody wrote to holds NaN instead of whatever was there."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_build_optimizer_survives_an_overflow_in_its_first_step(name, uninitialised_is_nan):
    # torch's fused SGD would go on with a momentum that it never initialised.
    network = nn.Linear(4, 2)
    optimizer = build_optimizer(network, name, learning_rate=0.1, weight_decay=0.0, loss_scaled=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = network.weight.detach().clone()
    for factor in (float("inf"), 1.0, 1.0):
        scaler.scale(network(torch.ones(1, 4)).sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if factor != 1.0:
            assert torch.equal(network.weight.detach(), before)
    assert torch.isfinite(network.weight).all()
    assert not torch.equal(network.weight.detach(), before)


def test_build_optimizer_unknown_name_lists_the_known():
    with pytest.raises(ConfigError, match="'rmsprop' is unknown; use one of adam, adamw, sgd"):
        build_optimizer(nn.Linear(2, 2), "rmsprop", learning_rate=0.1, weight_decay=0.0)
