"""What a plan says of memory, time and disk, with the clock replaced by a planted speed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from resomap import load_config
from resomap.cli.plan_command import print_forecast
from resomap.profiling.memory import measure_memory
from resomap.records import Cell, TunedSettings
from resomap.study import build
from resomap.study.costs import forecast
from resomap.study.costs.calibrate import StepTime
from resomap.study.costs.forecast import forecast_study


@pytest.fixture
def plan(tmp_path: Path, make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """plan('training.epochs=3', ...) of tiny_cnn at 32 and 64 px on 24 + 12 + 12 images; a pixel takes 1 us."""
    images = make_images(tmp_path / "data")
    monkeypatch.setattr(forecast, "calibrate", lambda *_, **__: StepTime((32,), (32**2 * 1e-6,), 2.0))

    def make(*settings: str, look: Callable[[Any], Any] = forecast_study) -> Any:
        return look(
            load_config(
                overrides=[
                    f"data.source={images}", f"data.cache_dir={tmp_path}/cache", f"study.output={tmp_path}/study",
                    "system.device=cpu", "sweep.models=[tiny_cnn]", "sweep.resolutions=[32,64]", "sweep.seeds=[0,1]",
                    "training.epochs=2", "training.batch_size=8", *settings,
                ]
            )
        )  # fmt: skip

    return make


def test_memory_of_accumulated_updates_holds_the_gradients_of_earlier_micro_batches(plan: Callable[..., Any]) -> None:
    network = build.model(load_config(), Cell("tiny_cnn", 32, 0), num_classes=2)
    found = plan("sweep.resolutions=[32]", "training.micro_batch=4").cells[0]
    measured = measure_memory(network, input_shape=(4, 3, 32, 32), training=True, gradients_stay=True)
    assert found.micro_batch == 4
    assert found.training_mib == pytest.approx(measured.peak_mib, rel=0.01)


def test_time_and_memory_are_those_of_the_runs_at_once(plan: Callable[..., Any]) -> None:
    # 2 epochs of 24 images, and a third of 12 x 3 validation and 12 test images: 64 at 1,024 us, or 4,096 us at 64 px.
    small, large = 64 * 32**2 * 1e-6, 64 * 64**2 * 1e-6
    alone = plan("system.runs_at_once=1")
    assert [cell.seconds_per_run for cell in alone.cells] == pytest.approx([small, large])
    assert alone.hours * 3600 == pytest.approx(2 * (small + large))
    assert alone.peak_mib == alone.cells[1].training_mib
    # Whole seeds, the longest first: large, small, large | small; the second worker has the small one and then a large.
    both = plan("system.runs_at_once=2", "system.memory_gib=1")
    assert both.hours * 3600 == pytest.approx(small + large)
    assert both.peak_mib == 2 * both.cells[1].training_mib


def test_runs_at_once_share_what_memory_is_free(plan: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def timed(*_: object, **__: object) -> StepTime:
        threads.append(torch.get_num_threads())
        return StepTime((32,), (1e-3,), 2.0)

    monkeypatch.setattr(forecast, "calibrate", timed)
    monkeypatch.setattr("resomap.study.build.training.usable_cores", lambda: 6)
    monkeypatch.setattr(forecast, "free_memory_mib", lambda device: 1000.0)
    assert plan("sweep.resolutions=[32]", "system.runs_at_once=2").limit_mib == pytest.approx(450)
    assert threads == [3]
    assert plan("sweep.resolutions=[32]", "system.runs_at_once=2", "system.memory_gib=0.5").limit_mib == 512


def test_a_device_that_does_not_tell_its_free_memory_limits_nothing(
    plan: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast, "free_memory_mib", lambda device: None)
    found = plan("sweep.resolutions=[32]", "training.micro_batch=4")
    assert (found.limit_mib, [cell.micro_batch for cell in found.cells]) == (None, [4])
    print_forecast(found)
    assert "does not tell what memory is free: no micro-batch is lowered" in capsys.readouterr().out
    limited = plan("sweep.resolutions=[32]", "system.memory_gib=0.0001")
    assert (limited.limit_mib, [cell.micro_batch for cell in limited.cells]) == (0.1024, [None])


def test_a_plan_takes_the_settings_remembered_for_this_machine(
    plan: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[tuple[str, int, bool]] = []

    def time(config: Any, *_: object, micro_batch: int, **__: object) -> StepTime:
        timed.append((config.system.mixed_precision, micro_batch, config.system.channels_last))
        return StepTime((32,), (1e-3,), 2.0)

    monkeypatch.setattr(forecast, "calibrate", time)
    chosen = TunedSettings("bf16", 4, {32: False}, effort=5)
    monkeypatch.setattr(forecast, "foreseen_choices", lambda context: ({"tiny_cnn": chosen}, ()))
    found = plan("sweep.resolutions=[32]")
    assert timed == [("bf16", 4, False)]
    assert (found.cells[0].precision, found.cells[0].micro_batch, found.untuned) == ("bf16", 4, ())


def test_disk_of_weights_states_and_predictions(plan: Callable[..., Any]) -> None:
    asked = ["sweep.resolutions=[32]", "system.runs_at_once=2", "training.top_k=3"]
    found = plan(*asked)
    parameters = found.cells[0].parameters
    # Two runs: three weights each, and a state that replaces another; 24 images with 2 probabilities and 40 bytes more,
    # in the study and in MLflow's own store.
    held = 2 * (3 * 4 * parameters + 2 * 12 * parameters) + 2 * 24 * (2 * 4 + 40) * 2
    assert found.disk.study_mib * 2**20 == pytest.approx(held)
    less = plan(*asked, "mlflow.enabled=false").disk
    assert (found.disk.study_mib - less.study_mib) * 2**20 == pytest.approx(2 * 24 * 48)


def test_decoded_images_are_counted_until_they_are_in_the_cache(
    plan: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("resomap.data.hashes._SETTLE_NS", 0)  # files written just now are trusted too
    monkeypatch.setattr("resomap.data.store_need._LOOKED_AT", 5)  # all have one size
    before = plan("sweep.resolutions=[32]").disk
    decode = lambda c: build.stores(c, build.dataset(c), on_progress=lambda *_: None)  # noqa: E731
    plan("sweep.resolutions=[32]", look=decode)
    written = sum(path.stat().st_size for path in (tmp_path / "cache/pyramid").rglob("*.u8"))
    assert before.cache == str(tmp_path / "cache")
    # The levels of the two evaluation splits are empty, and files of one byte.
    assert (before.cache_mib * 2**20, before.cached_mib) == (pytest.approx(written - 2), 0)
    after = plan("sweep.resolutions=[32]").disk
    assert (after.cache_mib, after.cached_mib, after.on_the_fly) == (0, before.cache_mib, ())
    tight = plan("sweep.resolutions=[64]", "data.cache_gib=0").disk
    assert (tight.cache_mib, tight.on_the_fly) == (0, ("train", "val", "test"))
