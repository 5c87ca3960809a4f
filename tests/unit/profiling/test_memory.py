"""Memory: hand-counted bytes, prediction beside measurement, and the micro-batch that fits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from resomap.errors import ConfigError, DeviceError
from resomap.models.registry import build_model
from resomap.profiling import memory
from resomap.profiling.live_bytes import LiveBytes
from resomap.profiling.memory import largest_micro_batch, measure_memory, predict_memory, profile_gpu_memory
from resomap.profiling.profiler import profile_model, profile_subjects
from resomap.profiling.records import ProfilingPlan, Rounds, Subject
from resomap.profiling.report import profiling_report

MIB = 2**20


def test_live_bytes_follow_storages() -> None:
    with LiveBytes() as counter:
        a = torch.zeros(256)  # 1,024 bytes
        b = a.view(16, 16) + 1  # another 1,024; the view shares a's
        assert counter.live_bytes == 2048
        del a, b
        assert counter.live_bytes == 0
    assert counter.peak_bytes == 2048


def test_inference_counts_what_is_alive_at_once() -> None:
    # 1x1 convolution 3 -> 4 without bias on 2 x 3 x 8 x 8: input 1,536 B, labels 16 B, weights 48 B, output 2,048 B.
    model = nn.Conv2d(3, 4, 1, bias=False)
    record = measure_memory(model, input_shape=(2, 3, 8, 8))
    assert record.peak_mib * MIB == 1536 + 16 + 48 + 2048
    assert record.parameters_mib * MIB == 48
    assert record.input_mib * MIB == 1536
    assert record.activations_peak_mib * MIB == 2048
    assert (record.gradients_mib, record.optimizer_mib) == (0, 0)
    assert (record.batch, record.resolution, record.allocated_mib) == (2, 8, None)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 8), (torch.bfloat16, 2), (torch.float16, 2)])
def test_images_have_the_weights_precision(dtype: torch.dtype, size: int) -> None:
    # The same layer: 384 numbers of images, 12 of weights, 512 of output, and two labels of 8 bytes.
    model = nn.Conv2d(3, 4, 1, bias=False, dtype=dtype)
    for record in (profile_gpu_memory(model, (2, 3, 8, 8)), predict_memory(model, input_shape=(2, 3, 8, 8))):
        assert record.peak_mib * MIB == size * (384 + 12 + 512) + 16
        assert record.precision == str(dtype).removeprefix("torch.")


def test_a_network_in_double_precision_is_profiled_whole() -> None:
    model = build_model("tiny_cnn", num_classes=2, seed=0).double()
    record = profile_model(model, resolution=32, runs=1, warmup=0, max_batch=1, modes=("eager", "autocast"))
    assert record.unavailable.keys() == {"autocast"}
    assert "training with 1 image in float64" in profiling_report([record])
    assert record.complexity.macs == profile_model(model.float(), resolution=32, runs=1, max_batch=1).complexity.macs


def test_training_counts_gradients_and_the_optimisers_state() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))  # 26 parameters, 104 bytes
    record = measure_memory(model, input_shape=(1, 3, 2, 2), training=True)
    assert record.gradients_mib * MIB == 104
    # AdamW: two moments of the parameters' size, and one float32 step count for each of the two parameters.
    assert record.optimizer_mib * MIB == 2 * 104 + 2 * 4
    plain = measure_memory(model, input_shape=(1, 3, 2, 2), training=True, optimizer=lambda p: torch.optim.SGD(p, 0.1))
    assert plain.optimizer_mib == 0
    assert plain.peak_mib < record.peak_mib


def test_an_update_has_the_optimisers_state_from_its_start() -> None:
    # 400 weights: AdamW holds two moments of 1,600 B and a step count of 4 B during the pass, which SGD does not.
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 20, bias=False))
    shape = {"input_shape": (1, 5, 2, 2), "training": True}
    record = measure_memory(model, **shape)
    without = measure_memory(model, **shape, optimizer=lambda p: torch.optim.SGD(p, 0.1))
    assert (record.peak_mib - without.peak_mib) * MIB == pytest.approx(2 * 1600 + 4, abs=1e-6)


def test_gradients_of_earlier_micro_batches_are_alive_in_the_forward_pass_of_the_next() -> None:
    # 4 -> 250 -> 250 -> 2 without bias: 64,000 weights, 256,000 B. A single image's maps weigh nothing beside them, so
    # the peak without accumulation is at the end of the pass, when all gradients are there; with it, each weight's new
    # gradient comes on top of all the old ones: at most the largest weight's 250,000 B.
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(4 * 3, 250, bias=False), nn.Linear(250, 250, bias=False), nn.Linear(250, 2, bias=False)
    )
    asked = {"input_shape": (1, 3, 2, 2), "training": True}
    alone, later = (measure_memory(model, **asked, gradients_stay=stay) for stay in (False, True))
    assert (later.peak_mib - alone.peak_mib) * MIB == pytest.approx(250_000, rel=0.02)
    assert predict_memory(model, **asked, gradients_stay=True).peak_mib == later.peak_mib
    assert later.gradients_mib == alone.gradients_mib


@pytest.mark.parametrize("name", ["tiny_cnn", "mobilenet_v3_small"])
def test_prediction_equals_the_peak_of_a_whole_accumulated_update(name: str) -> None:
    model = build_model(name, num_classes=3, seed=0).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images_BCHW, labels_B = torch.randn(2, 3, 64, 64), torch.zeros(2, dtype=torch.int64)

    def update() -> None:
        for _ in range(3):
            (nn.functional.cross_entropy(model(images_BCHW), labels_B) / 3).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    update()
    state = [value for values in optimizer.state.values() for value in values.values()]
    counter = LiveBytes()
    counter.add([*model.parameters(), *model.buffers(), images_BCHW, labels_B, *state])
    with counter:
        update()
    asked = {"input_shape": (2, 3, 64, 64), "training": True}
    predicted = predict_memory(model, **asked, gradients_stay=True).peak_mib
    assert predicted * MIB == pytest.approx(counter.peak_bytes, rel=0.01)
    assert predict_memory(model, **asked).peak_mib * MIB < 0.98 * counter.peak_bytes


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["tiny_cnn", "mobilenet_v3_small"])
def test_prediction_equals_measurement(name: str, training: bool, precision: str) -> None:
    model = build_model(name, num_classes=3, seed=0)
    options = {"input_shape": (2, 3, 64, 64), "training": training, "precision": precision}
    predicted, measured = predict_memory(model, **options), measure_memory(model, **options)
    assert predicted.peak_mib == pytest.approx(measured.peak_mib, rel=0.01)
    assert predicted.optimizer_mib == measured.optimizer_mib
    assert predicted.method != measured.method


class _Asks(nn.Sequential):
    """Looks at its images' values, which shapes alone do not tell."""

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return super().forward(images_BCHW if images_BCHW.mean() < 1e9 else images_BCHW / 2)


@pytest.mark.parametrize("batch", [1, 4, 24])
@pytest.mark.parametrize("options", [{}, {"training": True}, {"training": True, "gradients_stay": True}], ids=str)
def test_memory_of_code_that_asks_for_values_follows_from_few_images(batch: int, options: dict[str, Any]) -> None:
    plain = build_model("tiny_cnn", num_classes=2, seed=0)
    shape = (batch, 3, 32, 32)
    expected, found = (predict_memory(m, input_shape=shape, **options) for m in (plain, _Asks(plain)))
    # A large batch is told with the gradients there all along: never too little, and by no more than these too much.
    surplus = expected.gradients_mib if batch == 24 and options.get("training") else 0.0
    asking = 3 * 4 / MIB  # the mean, the bound's comparison: numbers that live for a moment
    assert expected.peak_mib - asking <= found.peak_mib <= expected.peak_mib + surplus + asking
    assert (found.batch, found.resolution, found.input_mib) == (batch, 32, expected.input_mib)
    assert "extrapolated" in found.method


def test_a_network_that_asks_for_values_is_profiled_whole() -> None:
    plain = build_model("tiny_cnn", num_classes=2, seed=0)
    record, expected = (profile_model(m, resolution=32, runs=1, warmup=0, max_batch=1) for m in (_Asks(plain), plain))
    assert record.latency
    assert record.complexity.macs == expected.complexity.macs


def test_measuring_memory_draws_no_random_numbers_of_the_callers() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 2))
    drawn = torch.get_rng_state()
    profile_gpu_memory(model, (2, 3, 2, 2), device="cpu", training=True)
    profile_model(model, resolution=2, runs=1, warmup=0, max_batch=1)
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_cnn", "simple_cnn", "resnet18", "mobilenet_v2", "mobilenet_v3_small", "vgg11"])
def test_prediction_is_within_one_percent(name: str) -> None:
    model = build_model(name, num_classes=3, seed=0)
    for resolution in (64, 96, 128):
        for training in (True, False):
            for precision in ("no", "bf16"):
                options = {
                    "input_shape": (2, 3, resolution, resolution), "training": training, "precision": precision,
                }  # fmt: skip
                measured = measure_memory(model, **options)
                assert predict_memory(model, **options).peak_mib == pytest.approx(measured.peak_mib, rel=0.01)


def test_the_model_is_left_as_it_was() -> None:
    model = build_model("tiny_cnn", num_classes=2, seed=0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for function in (predict_memory, measure_memory):
        function(model, input_shape=(2, 3, 32, 32), training=True)
        assert model.training
        assert all(p.grad is None for p in model.parameters())
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_prediction_says_what_an_accelerator_adds() -> None:
    model = nn.Conv2d(3, 4, 1)
    assert "context" in predict_memory(model, input_shape=(1, 3, 8, 8), device="cuda").leaves_out
    assert "context" not in predict_memory(model, input_shape=(1, 3, 8, 8)).leaves_out


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"precision: expected one of no, bf16, fp16, got 'int8'"):
        predict_memory(nn.Conv2d(3, 4, 1), input_shape=(1, 3, 8, 8), precision="int8")


@pytest.mark.parametrize(
    ("limit", "expected"),
    # 10 MiB and 2 more for each image: 1 image takes 12, 2: 14, 4: 18, 8: 26.
    [(11.9, None), (12, 1), (13.9, 1), (14, 2), (17.9, 2), (18, 4), (25, 4), (26, 8), (1000, 8)],
)
def test_largest_micro_batch_divides_the_batch(limit: float, expected: int | None) -> None:
    assert largest_micro_batch(lambda batch: 10 + 2 * batch, limit_mib=limit, largest=8) == expected


def test_largest_micro_batch_checks_what_the_line_promises() -> None:
    # Above the straight line between 1 and 8: 4 images take 25 MiB, not 18.
    peaks = {1: 12, 2: 14, 4: 25, 8: 26}
    assert largest_micro_batch(peaks.__getitem__, limit_mib=20, largest=8) == 2


def test_largest_micro_batch_is_not_what_the_line_promises_where_more_fit() -> None:
    # Below the line between 1 and 12: 4 images take 20 MiB, not 44, and 6 take 30, not 65.
    peaks = {1: 12, 2: 14, 3: 16, 4: 20, 6: 30, 12: 130}
    for limit, expected in ((19, 3), (20, 4), (29, 4), (30, 6), (129, 6), (130, 12), (11, None)):
        assert largest_micro_batch(peaks.__getitem__, limit_mib=limit, largest=12) == expected


def test_a_whole_batch_fits_where_a_part_does_not_whose_gradients_stay() -> None:
    peaks = {1: 25, 2: 26, 4: 20}
    assert largest_micro_batch(peaks.__getitem__, limit_mib=22, largest=4) == 4
    assert largest_micro_batch(peaks.__getitem__, limit_mib=19, largest=4) is None


def test_gpu_memory_is_live_bytes_on_a_cpu() -> None:
    record = profile_gpu_memory(nn.Conv2d(3, 4, 1, bias=False), (2, 3, 8, 8), device="cpu")
    assert record.method == "measured live tensor bytes"
    assert record.reserved_mib is None


def test_gpu_memory_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no accelerator"):
        profile_gpu_memory(nn.Conv2d(3, 4, 1), device="cuda")


def test_profiling_refuses_devices_that_are_not_there_and_no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    model = build_model("tiny_cnn", num_classes=2, seed=0)
    with pytest.raises(DeviceError, match=r"^device: cuda was asked for, this machine has only the CPU.* use auto"):
        profile_model(model, "cuda", resolution=32)
    with pytest.raises(DeviceError, match=r"^device: 'gpu' is no device; use auto, cpu, cuda"):
        profile_model(model, "gpu", resolution=32)
    for runs in (0, -1, 2.5):
        with pytest.raises(ConfigError, match=rf"^runs: expected a whole number of timed blocks from 1, got {runs}"):
            profile_model(model, "cpu", runs=runs, resolution=32)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -64, 64.0, True])
@pytest.mark.parametrize("name", ["resolution", "max_batch"])
def test_a_side_or_batch_of_nothing_is_refused(name: str, value: Any) -> None:
    model = build_model("tiny_cnn", num_classes=2, seed=0)
    with pytest.raises(ConfigError, match=rf"^{name}: expected a whole number of \w+ from 1, got {value!r}$"):
        profile_model(model, "cpu", **{"resolution": 32, "runs": 1, name: value})


def test_gpu_memory_reads_the_allocators_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    # 5 MiB were allocated before, 12 MiB at the peak, 32 MiB are reserved: the step took 7.
    fake = SimpleNamespace(
        is_available=lambda: True,
        current_accelerator=lambda: torch.device("cuda"),
        device_count=lambda: 1,
        empty_cache=lambda: None,
        synchronize=lambda _device: None,
        reset_peak_memory_stats=lambda _device: None,
        memory_allocated=lambda _device: 5 * MIB,
        max_memory_allocated=lambda _device: 12 * MIB,
        memory_reserved=lambda _device: 32 * MIB,
    )
    measured_on_cpu = measure_memory
    monkeypatch.setattr(memory.torch, "accelerator", fake)
    monkeypatch.setattr(
        memory, "measure_memory", lambda model, *, device, **options: measured_on_cpu(model, device="cpu", **options)
    )
    record = profile_gpu_memory(nn.Conv2d(3, 4, 1), (1, 3, 8, 8), device="cuda")
    assert (record.peak_mib, record.allocated_mib, record.reserved_mib) == (7, 5, 32)
    assert record.method == "device allocator"


def test_training_memory_is_of_two_images_where_one_cannot_be_normalised() -> None:
    model = build_model("resnet18", num_classes=2, seed=0)
    one, two = ((n, 3, 32, 32) for n in (1, 2))  # at 32 px the last maps have one cell
    record = profile_gpu_memory(model, one, device="cpu", training=True)
    assert record.batch == 2
    assert record.peak_mib == profile_gpu_memory(model, two, device="cpu", training=True).peak_mib
    assert predict_memory(model, input_shape=one, training=True).batch == 2
    assert predict_memory(model, input_shape=one).batch == 1
    assert predict_memory(model, input_shape=(1, 3, 64, 64), training=True).batch == 1


@pytest.mark.parametrize(("limit", "expected"), [(13.9, None), (14, 2), (18, 3), (1000, 6)])
def test_largest_micro_batch_is_never_below_the_least(limit: float, expected: int | None) -> None:
    # As above; 6 images, of which 2, 3 and 6 are the candidates: 3 take 16.
    peaks: list[int] = []

    def peak_mib(batch: int) -> float:
        peaks.append(batch)
        return 10 + 2 * batch

    assert largest_micro_batch(peak_mib, limit_mib=limit, largest=6, least=2) == expected
    assert min(peaks) == 2


def test_profiles_train_on_the_same_number_of_images_at_every_size() -> None:
    model = build_model("resnet18", num_classes=2, seed=0)
    plan = ProfilingPlan(protocols=("batch_1",), rounds=Rounds(5))
    records = profile_subjects([Subject("resnet18", model, side) for side in (32, 64)], plan)
    assert [record.training_memory.batch for record in records] == [2, 2]
    assert "training with 2 images" in profiling_report(records)
