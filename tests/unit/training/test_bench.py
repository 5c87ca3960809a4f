"""Passes timed as graphs (imitated on the CPU): captured once, memory given back, retried where it was full."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from resomap.models.registry import build_model
from resomap.training import bench as bench_module
from resomap.training.bench import Bench, Setting


def _bench(network: torch.nn.Module, *, graphs: bool = True) -> Bench:
    return Bench(
        network, num_classes=3, largest=32, device=torch.device("cpu"), graphs=graphs, clock=time.perf_counter,
        is_out_of_memory=lambda error: isinstance(error, torch.OutOfMemoryError),
    )  # fmt: skip


def test_a_setting_is_captured_once_a_side_and_format(graphs: list[Any]) -> None:
    network = build_model("tiny_cnn", num_classes=3, seed=0)
    before = {name: value.clone() for name, value in network.named_parameters()}
    bench = _bench(network)
    for _ in range(2):
        for channels_last in (True, False):
            for side in (16, 32):
                assert 0 < bench.seconds_per_image(Setting("no", channels_last, 4), side, images=8) < 60
    assert [graph.replays for graph in graphs] == [4] * 4  # two calls of two micro-batches each
    bench.close()
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.named_parameters())


def test_graphs_of_one_network_share_its_gradients(graphs: list[Any]) -> None:
    # A later capture must not take away what an earlier graph adds to.
    network = build_model("tiny_cnn", num_classes=3, seed=0)
    bench = _bench(network)
    bench.seconds_per_image(Setting("no", True, 4), 16, images=4)
    first = [p.grad for p in network.parameters()]
    bench.seconds_per_image(Setting("no", True, 4), 32, images=4)
    assert len(graphs) == 2
    assert all(p.grad is before for p, before in zip(network.parameters(), first, strict=True))


def test_a_setting_that_fits_alone_is_not_lost_to_the_graphs_before_it(
    graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = bench_module.GraphedPass
    full = [False, True, False, True, True]

    def capture(*arguments: Any) -> Any:
        if full.pop(0):
            raise torch.OutOfMemoryError("full")
        return captured(*arguments)

    monkeypatch.setattr(bench_module, "GraphedPass", capture)
    bench = _bench(build_model("tiny_cnn", num_classes=3, seed=0))
    assert bench.seconds_per_image(Setting("no", True, 4), 16, images=4) < 60
    assert bench.seconds_per_image(Setting("no", True, 4), 32, images=4) < 60  # after the first one was dropped
    assert bench.seconds_per_image(Setting("no", True, 2), 32, images=4) == float("inf")  # nor alone
    assert full == []


def test_what_cannot_be_captured_is_timed_without(graphs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(bench_module, "GraphedPass", refuse)
    bench = _bench(build_model("tiny_cnn", num_classes=3, seed=0))
    assert 0 < bench.seconds_per_image(Setting("no", True, 4), 16, images=8) < 60
    assert graphs == []
