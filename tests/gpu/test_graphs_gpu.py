"""Passes as CUDA graphs on a real GPU; skipped, saying so, where there is none."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resomap.models.registry import build_model
from resomap.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

SIDE = 64


def _fit(
    model: nn.Module, *, cuda_graphs: bool, images: int = 64, steps: int = 1, precision: str = "no"
) -> Trainer:  # fmt: skip
    data = TensorDataset(
        torch.randn(images, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), torch.arange(images) % 3
    )
    made = Trainer(
        model, DataLoader(data, batch_size=8, shuffle=True, pin_memory=True), DataLoader(data, batch_size=8), epochs=3,
        learning_rate=1e-3, device="cuda", deterministic=True, mixed_precision=precision, accumulation_steps=steps,
        clip_grad_norm=1.0, cuda_graphs=cuda_graphs,
    )  # fmt: skip
    made.fit()
    return made


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize(("images", "steps"), [(64, 1), (84, 3)])
@pytest.mark.parametrize("name", ["tiny_cnn", "resnet18", "mobilenet_v3_small"])
def test_training_is_the_same_to_the_last_bit(
    name: str, images: int, steps: int, precision: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    # 84 images: windows of 3, 3, 3 and 2 batches, the very last one of 4 images.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    models = [build_model(name, num_classes=3, seed=0) for _ in range(2)]
    with caplog.at_level(logging.INFO, logger="resomap"):
        plain, graphed = (
            _fit(model, cuda_graphs=graphs, images=images, steps=steps, precision=precision)
            for model, graphs in zip(models, (False, True), strict=True)
        )
    assert "CUDA graph" not in caplog.text  # it would be said there that none was made
    assert [record.train_loss for record in plain.history] == [record.train_loss for record in graphed.history]
    ours, theirs = (model.state_dict() for model in models)
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


def test_dropout_draws_anew_at_each_step() -> None:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.drop = nn.Linear(3 * SIDE * SIDE, 3), nn.Dropout(0.5)
            self.register_buffer("dropped", torch.zeros(3 * SIDE * SIDE))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            shown = self.drop(images.flatten(1))
            self.dropped += (shown[0] == 0).float()
            return self.head(shown)

    models = [Kept(), Kept()]
    for model, graphs in zip(models, (False, True), strict=True):
        _fit(model, cuda_graphs=graphs)
    # 24 passes: about half of them drop a value, and by far not the same ones.
    assert torch.equal(models[0].dropped, models[1].dropped)
    assert 11 < models[1].dropped.mean().item() < 13
    assert 0 < models[1].dropped.std().item() < 4


def test_a_model_that_waits_for_the_device_is_trained_without_a_graph(caplog: pytest.LogCaptureFixture) -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = build_model("tiny_cnn", num_classes=3, seed=0)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.mean().item() > 1e6:
                raise ValueError("cannot be")
            return self.network(images)

    with caplog.at_level(logging.INFO, logger="resomap"):
        asked = _fit(Asks(), cuda_graphs=True)
        plain = _fit(build_model("tiny_cnn", num_classes=3, seed=0), cuda_graphs=False)  # fmt: skip
    assert "not launched as a CUDA graph" in caplog.text
    assert [r.train_loss for r in asked.history] == pytest.approx([r.train_loss for r in plain.history], rel=1e-5)


def test_the_memory_of_a_graph_is_given_back() -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    for _ in range(2):
        made = _fit(build_model("resnet18", num_classes=3, seed=0), cuda_graphs=True)
        made.model.to("cpu")
        del made
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before < 32 * 2**20
