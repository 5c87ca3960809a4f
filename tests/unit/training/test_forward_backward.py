"""Passes launched as graphs give what passes launched one operation after the other give, to the last bit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from resomap.data.batches import Batch
from resomap.errors import ConfigError
from resomap.training import forward_backward as passes_module
from resomap.training import loop as loop_module
from resomap.training.cuda_graphs import can_capture, has_room
from resomap.training.engine import Engine
from resomap.training.forward_backward import Passes
from resomap.training.trainer import Trainer

Graphs = list[Any]
"""tests/imitated_graphs.py, as they are made."""


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _fit(*, cuda_graphs: bool, images: int, batch: int, accumulation_steps: int, **options: object) -> list[object]:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(images, 3, 8, 8, generator=generator), torch.arange(images) % 3)
    model = _network()
    made = Trainer(
        model, DataLoader(data, batch_size=batch, shuffle=True), DataLoader(data, batch_size=batch), epochs=3,
        device="cpu", accumulation_steps=accumulation_steps, cuda_graphs=cuda_graphs, **options,
    )  # fmt: skip
    result = made.fit()
    return [_state(model), [record.train_loss for record in result.epochs], [r.val for r in result.epochs]]


@pytest.mark.parametrize(
    ("images", "batch", "accumulation_steps", "options"),
    [
        (32, 8, 1, {}),
        (30, 8, 1, {"optimizer": "sgd", "clip_grad_norm": 0.5}),  # the last batch of 6 is no graph
        (44, 4, 3, {"label_smoothing": 0.1}),  # windows of 3, 3, 3 and 2 micro-batches of other shares
        (32, 8, 1, {"mixed_precision": "bf16", "class_weights": (1.0, 2.0, 0.5)}),
    ],
)
def test_training_is_the_same(
    graphs: Graphs, images: int, batch: int, accumulation_steps: int, options: dict[str, object]
) -> None:
    common = {"images": images, "batch": batch, "accumulation_steps": accumulation_steps, **options}
    plain = _fit(cuda_graphs=False, **common)
    assert graphs == []
    graphed = _fit(cuda_graphs=True, **common)
    (graph,) = graphs
    assert graph.replays >= 3 * (images // batch) - 4
    assert plain[1:] == graphed[1:]
    assert all(torch.equal(value, graphed[0][name]) for name, value in plain[0].items())


def test_on_a_cpu_nothing_is_captured() -> None:
    assert not can_capture(torch.device("cpu"))
    assert can_capture(torch.device("cuda"))
    plain = _fit(cuda_graphs=True, images=32, batch=8, accumulation_steps=1)
    assert plain[1] == _fit(cuda_graphs=False, images=32, batch=8, accumulation_steps=1)[1]


def _passes(model: nn.Module) -> Passes:
    engine = Engine(model, lambda m: torch.optim.SGD(m.parameters(), 0.1), device=torch.device("cpu"), precision="no")
    return Passes(
        model, engine=engine, class_weights=None, label_smoothing=0.0, input_options={"channels_last": True},
        graphs=True,
    )  # fmt: skip


def _batch(seed: int, *, coloured: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    colour = torch.rand(4, 3, 4, generator=generator) if coloured else None
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8, generator=generator)
    if not coloured:
        return Batch(torch.randn(4, 3, 8, 8, generator=generator), torch.arange(4) % 3, torch.arange(4))
    return Batch(images, torch.arange(4) % 3, torch.arange(4), colour=colour)


@pytest.mark.parametrize("coloured", [True, False])
def test_gradients_statistics_and_results_are_those_of_the_batch(graphs: Graphs, coloured: bool) -> None:
    model, plain = _network(), _network()
    passes, reference = _passes(model), _passes(plain)
    reference._may_capture = False
    for seed in range(6):
        batch = _batch(seed, coloured=coloured)
        found, expected = passes(batch, 0.5), reference(batch, 0.5)
        assert [v.item() for v in found] == [v.item() for v in expected]
        ours, theirs = list(model.parameters()), list(plain.parameters())
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(model.buffers(), plain.buffers(), strict=True))
        passes._engine.drop_gradients()
        reference._engine.drop_gradients()
    assert [graph.replays for graph in graphs] == [4]


def test_parameters_that_a_pass_does_not_reach_get_no_gradient(graphs: Graphs) -> None:
    # A gradient of 0 is not none: weight decay and momentum would go on.
    model = _network()
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    passes = _passes(model)
    for seed in range(4):
        passes(_batch(seed), 1.0)
        passes._engine.drop_gradients()
    assert len(graphs) == 1
    assert model.get_parameter("unused").grad is None


class _Waits(nn.Module):
    """Reads a value in forward, as no captured pass may."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        super().__init__()
        self.network, self.error, self.calls = _network(), error, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 4:
            raise self.error()
        return self.network(images)


@pytest.mark.parametrize(
    "error",
    [lambda: RuntimeError("operation not permitted when stream is capturing"), lambda: torch.OutOfMemoryError("full")],
)
def test_what_cannot_be_captured_is_trained_without_a_graph(
    graphs: Graphs, error: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    model, plain = _Waits(error), _network()
    passes, reference = _passes(model), _passes(plain)
    reference._may_capture = False
    with caplog.at_level(logging.INFO, logger="resomap"):
        for seed in range(5):
            found, expected = passes(_batch(seed), 1.0), reference(_batch(seed), 1.0)
            assert found[0].item() == expected[0].item()
            passes._engine.drop_gradients()
            reference._engine.drop_gradients()
    assert "not launched as a CUDA graph" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), plain.buffers(), strict=True))


def _move_weights(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def _move_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad = parameter.grad.clone()


def _drop_gradients(model: nn.Module) -> None:
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("move", [_move_weights, _move_gradients, _drop_gradients])
def test_what_was_moved_is_captured_anew(graphs: Graphs, move: Callable[[nn.Module], None]) -> None:
    model, plain = _network(), _network()
    passes, reference = _passes(model), _passes(plain)
    reference._may_capture = False
    for seed in range(10):
        if seed == 5:
            move(model)
        passes(_batch(seed), 1.0)
        reference(_batch(seed), 1.0)
        passes._engine.step(clip_grad_norm=None)
        reference._engine.step(clip_grad_norm=None)
    assert len(graphs) == 2
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_an_evaluation_in_between_moves_nothing(graphs: Graphs) -> None:
    # The gradient of a 1 x 1 convolution may lie in memory in another order than its weights: .to() would move it.
    class Crosswise(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, weight: torch.Tensor) -> torch.Tensor:
            return weight.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient.clone(memory_format=torch.contiguous_format)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.weight = nn.Conv2d(3, 8, 3), nn.Parameter(torch.randn(3, 8, 1, 1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return functional.conv2d(self.first(images).mean((2, 3), keepdim=True), Crosswise.apply(self.weight))[
                :, :, 0, 0
            ]

    model, plain = Network(), Network()
    passes, reference = _passes(model), _passes(plain)
    reference._may_capture = False
    for seed in range(8):
        passes(_batch(seed), 1.0)
        reference(_batch(seed), 1.0)
        passes._engine.step(clip_grad_norm=None)
        reference._engine.step(clip_grad_norm=None)
        for each in (model, plain):
            each.to(memory_format=torch.channels_last)  # as an evaluation does
    assert len(graphs) == 1
    assert graphs[0].replays == 6
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_the_users_batches_stay_as_they_are(graphs: Graphs) -> None:
    passes, kept = _passes(_network()), [_batch(seed) for seed in range(6)]
    for batch in kept:
        passes(batch, 1.0)
        passes._engine.drop_gradients()
    assert len(graphs) == 1
    for seed, batch in enumerate(kept):
        assert torch.equal(batch.images, _batch(seed).images)
        assert batch.colour is not None
        assert torch.equal(batch.colour, _batch(seed).colour)


def test_a_pass_is_captured_where_memory_takes_it_twice(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"mem_get_info": (49, 100), "max_memory_allocated": 90, "memory_allocated": 40}
    for name, value in counts.items():
        monkeypatch.setattr(torch.cuda, name, lambda _device, value=value: value)
    assert not has_room(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (51, 100))
    assert has_room(torch.device("cuda"))
    monkeypatch.setattr(passes_module, "has_room", lambda _device: False)
    passes = _passes(_network())
    for seed in range(5):
        passes(_batch(seed), 1.0)
        passes._engine.drop_gradients()
    assert graphs == []


def test_the_peak_of_memory_is_that_of_the_captured_pass(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    # Replays ask for no memory: later epochs would seem to need less.
    monkeypatch.setattr(passes_module, "peak_memory_mib", lambda _device: 70.0)
    monkeypatch.setattr(loop_module, "peak_memory_mib", lambda _device: 20.0)
    data = TensorDataset(torch.randn(32, 3, 8, 8), torch.arange(32) % 3)
    made = Trainer(_network(), DataLoader(data, batch_size=8), epochs=2, device="cpu", cuda_graphs=True)
    made.fit()
    assert [record.peak_memory_mib for record in made.history] == [70.0, 70.0]


def test_a_graph_is_given_back_after_training(graphs: Graphs) -> None:
    model = _network()
    passes = _passes(model)
    for seed in range(4):
        passes._engine.drop_gradients()
        passes(_batch(seed), 1.0)
    assert [graph.replays for graph in graphs] == [2]
    passes.release()
    assert passes._graph is None
    assert all(p.grad is None for p in model.parameters())


def test_labels_are_looked_at_before_a_graph_is_launched(graphs: Graphs) -> None:
    model = _network()
    passes = _passes(model)
    for number in range(4):
        model.zero_grad()
        passes(_batch(number, coloured=False), 1.0)
    assert graphs[0].replays
    batch = _batch(4, coloured=False)
    batch.labels[2] = 3
    with pytest.raises(ConfigError, match=r"expected labels from 0 to 2, .* got some from 0 to 3"):
        passes(batch, 1.0)
