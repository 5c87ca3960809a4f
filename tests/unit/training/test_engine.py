from __future__ import annotations

import os

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType
from torch import nn

from resomap.errors import DeviceError
from resomap.training import engine as engine_module
from resomap.training.engine import Engine, own_accelerate_state, process_ranks
from resomap.training.optimizers import build_optimizer

CPU = torch.device("cpu")


class LogitsDtype(nn.Module):
    """A linear classifier that remembers in which precision it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.seen: torch.dtype | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.head(images.flatten(1)[:, :4])
        self.seen = logits.dtype
        return logits


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return build_optimizer(model, "sgd", learning_rate=0.1, weight_decay=0.0, momentum=0.0)


def _engine(model: nn.Module, precision: str = "no") -> Engine:
    return Engine(model, _sgd, device=CPU, precision=precision)


IMAGES = torch.ones(2, 1, 2, 2)


def test_engines_of_different_precisions_live_side_by_side():
    models = [LogitsDtype() for _ in range(3)]
    engines = [_engine(model, precision) for model, precision in zip(models, ("no", "bf16", "no"), strict=True)]
    for engine in (*engines, *engines[::-1]):
        assert engine.forward(IMAGES).dtype is torch.float32
    assert [model.seen for model in models] == [torch.float32, torch.bfloat16, torch.float32]
    assert [engine.accelerator.mixed_precision for engine in engines] == ["no", "bf16", "no"]


def test_engine_leaves_an_accelerator_of_the_user_alone():
    AcceleratorState._reset_state()
    theirs = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=4)
    ours = _engine(LogitsDtype())
    assert (theirs.mixed_precision, theirs.gradient_accumulation_steps) == ("bf16", 4)
    assert (ours.accelerator.mixed_precision, ours.accelerator.gradient_accumulation_steps) == ("no", 1)
    # Their settings are still those that a new object of theirs sees.
    assert AcceleratorState().mixed_precision == "bf16"
    AcceleratorState._reset_state()
    GradientState._reset_state()


def test_engine_leaves_the_users_device_alone(monkeypatch):
    # A process of the user's on an accelerator, while one engine works on the CPU.
    monkeypatch.setattr(PartialState, "_shared_state", {})
    theirs = PartialState()
    theirs.device = torch.device("meta")
    engine = _engine(LogitsDtype())
    assert engine.device == CPU
    assert PartialState().device == torch.device("meta")


def test_engine_ignores_the_accumulation_of_accelerate_launch(monkeypatch):
    # The variable would divide each loss by 4; windows are driven by the batches' shares alone.
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    model = LogitsDtype()
    engine = _engine(model)
    engine.backward(engine.forward(IMAGES).sum())
    assert model.head.bias.grad is not None
    assert torch.allclose(model.head.bias.grad, torch.full((2,), 2.0))


def test_engine_overrules_the_device_of_the_environment(monkeypatch):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    assert _engine(LogitsDtype()).device == CPU
    assert os.environ["ACCELERATE_TORCH_DEVICE"] == "meta"


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_engine_refuses_other_ways_to_distribute(monkeypatch, kind):
    monkeypatch.setattr(Accelerator, "distributed_type", kind)
    with pytest.raises(DeviceError, match=f"training with {kind.value} is not supported"):
        engine_module.make_accelerator(CPU, "no")


def test_own_accelerate_state_restores_after_an_error():
    AcceleratorState._reset_state()
    before = dict(AcceleratorState._shared_state)

    def make_and_fail() -> None:
        with own_accelerate_state(CPU):
            Accelerator(cpu=True, mixed_precision="bf16")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make_and_fail()
    assert AcceleratorState._shared_state == before
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ


def test_engine_leaves_the_models_forward_alone():
    model = LogitsDtype()
    _engine(model, "bf16")
    assert "forward" not in vars(model)
    model(IMAGES)
    assert model.seen is torch.float32


def test_engine_step_drops_gradients_and_updates():
    model = LogitsDtype()
    engine = _engine(model)
    before = model.head.bias.detach().clone()
    engine.backward(engine.forward(IMAGES).sum())
    engine.step(clip_grad_norm=None)
    # d(sum)/d(bias) = 2 images; learning rate 0.1.
    assert torch.allclose(model.head.bias.detach(), before - 0.2)
    assert all(p.grad is None for p in model.parameters())


def test_engine_clips_the_norm_of_the_whole_gradient():
    model = LogitsDtype()
    engine = _engine(model)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    engine.backward(engine.forward(IMAGES).sum())
    engine.step(clip_grad_norm=0.5)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.1 * 0.5, rel=1e-4)


def test_engine_learning_rate_reaches_all_groups():
    engine = _engine(LogitsDtype())
    engine.learning_rate = 0.25
    assert {group["lr"] for group in engine.optimizer.param_groups} == {0.25}
    assert engine.learning_rate == 0.25


def test_engine_weights_are_finite_until_one_is_not():
    model = LogitsDtype()
    engine = _engine(model)
    assert engine.weights_are_finite()
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    assert not engine.weights_are_finite()


def test_engine_channels_last_applies_to_convolutions():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    _engine(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_engine_alone_needs_no_messages():
    engine = _engine(LogitsDtype())
    assert engine.ranks.gather("x") == ["x"]
    assert engine.on_main(lambda: 5) == 5
    assert engine.agree(torch.tensor(2.0), stop=True, save=False) == (2.0, True, False)
    assert (engine.rank, engine.world_size, engine.is_main) == (0, 1, True)


def test_process_ranks_without_a_launcher(monkeypatch):
    monkeypatch.setattr(PartialState, "_shared_state", {})
    assert process_ranks(CPU) == (0, 1)
    assert PartialState._shared_state == {}  # nothing chosen for others in this process


@pytest.mark.parametrize("name", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"])
def test_process_ranks_names_mpi_variables_without_a_launch(monkeypatch, name):
    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.setenv(name, "4")
    with pytest.raises(DeviceError, match=f"{name} is 4: .*torchrun.*unset {name}"):
        process_ranks(CPU)
    monkeypatch.setenv(name, "1")  # a single task of srun
    monkeypatch.setattr(PartialState, "_shared_state", {})
    assert process_ranks(CPU) == (0, 1)


@pytest.fixture
def fp16_engine(monkeypatch):
    """An Engine with the fp16 branch of accelerate on a device that is the CPU in truth.

    torch's GradScaler and autocast do fp16 on the CPU; accelerate asks for an accelerator, so its two
    questions (is this a CPU, which scaler) are answered for it.
    """

    def make(device: torch.device, precision: str) -> Accelerator:
        accelerator = Accelerator(cpu=True, mixed_precision="fp16")
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        return accelerator

    monkeypatch.setattr(engine_module, "make_accelerator", make)

    def build(model: nn.Module, *, fused: bool) -> Engine:
        def optimizer(placed: nn.Module) -> torch.optim.Optimizer:
            return build_optimizer(placed, "sgd", learning_rate=0.1, weight_decay=0.0, momentum=0.0, fused=fused)

        return Engine(model, optimizer, device=CPU, precision="fp16")

    return build


@pytest.mark.parametrize("fused", [True, False])
def test_engine_fp16_scales_and_unscales_gradients(fp16_engine, fused):
    model = LogitsDtype()
    engine = fp16_engine(model, fused=fused)
    before = model.head.bias.detach().clone()
    engine.backward(engine.forward(IMAGES).sum())
    assert model.seen is torch.float16
    assert model.head.bias.grad == pytest.approx(torch.full((2,), 2048.0))
    engine.step(clip_grad_norm=None)
    assert torch.allclose(model.head.bias.detach(), before - 0.2)
    assert engine.count_skipped() == 0


@pytest.mark.parametrize("fused", [True, False])
def test_engine_fp16_skips_an_overflowing_update_and_counts_it(fp16_engine, fused):
    model = LogitsDtype()
    engine = fp16_engine(model, fused=fused)
    before = model.head.bias.detach().clone()
    for _ in range(2):
        engine.backward(engine.forward(IMAGES).sum() * float("inf"))
        engine.step(clip_grad_norm=None)
    assert torch.equal(model.head.bias.detach(), before)
    assert engine.accelerator.scaler.get_scale() == 256.0
    assert engine.count_skipped() == 2
    assert engine.count_skipped() == 0


def test_engine_fp16_clips_unscaled_gradients(fp16_engine):
    model = LogitsDtype()
    engine = fp16_engine(model, fused=True)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    engine.backward(engine.forward(IMAGES).sum())
    engine.step(clip_grad_norm=0.5)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.05, rel=1e-3)


def test_engine_fp16_scale_survives_a_round_trip(fp16_engine):
    engine = fp16_engine(LogitsDtype(), fused=True)
    engine.backward(engine.forward(IMAGES).sum() * float("inf"))
    engine.step(clip_grad_norm=None)
    other = fp16_engine(LogitsDtype(), fused=True)
    other.load_state_dict(engine.state_dict())
    assert other.accelerator.scaler.get_scale() == 512.0
    assert other.count_skipped() == 0
