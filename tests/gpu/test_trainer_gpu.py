"""The Trainer on a real accelerator; skipped, saying so, where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resomap.training.callbacks import Callback
from resomap.training.device import supports_bf16
from resomap.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="this machine has no accelerator"),
]

PRECISIONS = ["no", "bf16", "fp16"]


def _data(count: int = 96) -> TensorDataset:
    labels = torch.arange(count) % 3
    images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5
    images[torch.arange(count), labels] += 1.0
    return TensorDataset(images, labels)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def _trainer(model: nn.Module, **options: object) -> Trainer:
    data = _data()
    defaults = {"epochs": 6, "learning_rate": 0.02, "seed": 1}
    train = DataLoader(data, batch_size=16, shuffle=True, pin_memory=True)
    return Trainer(model, train, DataLoader(data, batch_size=32), **defaults | options)


def _skip_without(precision: str, device: torch.device) -> None:
    if precision == "bf16" and not supports_bf16(device):
        pytest.skip(f"{device} does not compute in bf16")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_trainer_learns_on_the_accelerator(precision):
    device = torch.accelerator.current_accelerator()
    assert device is not None
    _skip_without(precision, device)
    model = _network()
    result = _trainer(model, mixed_precision=precision).fit()
    assert next(model.parameters()).device.type == device.type
    assert result.epochs[-1].val["accuracy"] > 0.9
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())


def test_trainer_reports_peak_memory_and_speed():
    made = _trainer(_network(), epochs=1)
    made.fit()
    stats = made.get_performance_stats()
    if made.device.type != "mps":
        assert stats["peak_memory_mib"] is not None
        assert stats["peak_memory_mib"] > 0
    assert stats["images_per_s"] is not None
    assert stats["images_per_s"] > 0


def test_trainer_agrees_with_the_cpu():
    losses = []
    for device in ("cpu", "auto"):
        model = _network()
        model[3].p = 0.0  # generators differ between devices
        made = _trainer(model, device=device, mixed_precision="no", optimizer="sgd")
        losses.append([record.train_loss for record in made.fit().epochs])
    # TF32 and other orders of summation; the same model on the same batches nevertheless.
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_deterministic_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    class Stop(Callback):
        def on_update_end(self, trainer: Trainer) -> None:
            if trainer.update == 9:
                trainer.request_stop()

    options = {"deterministic": True, "mixed_precision": "no"}
    whole = _network()
    _trainer(whole, **options).fit()
    path = tmp_path / "last.pt"
    with pytest.raises(KeyboardInterrupt):
        _trainer(_network(), state_path=path, callbacks=[Stop()], **options).fit()
    model = _network()
    resumed = _trainer(model, state_path=path, **options)
    assert resumed.resume() == 9
    resumed.fit()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_fp16_skips_overflowing_updates_and_goes_on():
    # The scaler starts at 65,536: gradients of a loss multiplied by 64 overflow at first.
    model = _network()
    made = _trainer(model, mixed_precision="fp16", class_weights=[4096.0] * 3, clip_grad_norm=1.0)
    result = made.fit()
    assert result.epochs[-1].val["accuracy"] > 0.9
    assert made.get_performance_stats()["skipped_updates"] > 0
