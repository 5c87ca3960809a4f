"""What a plan says of memory, time and disk, with the clock replaced by a planted speed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resomap import load_config
from resomap.profiling.memory import measure_memory
from resomap.records import Cell
from resomap.study import build, forecast
from resomap.study.calibrate import StepTime
from resomap.study.forecast import StudyForecast, forecast_study


@pytest.fixture
def plan(tmp_path: Path, make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """plan('training.epochs=3', ...) of tiny_cnn at 32 and 64 px on 24 + 12 + 12 images; a pixel takes 1 us."""
    images = make_images(tmp_path / "data")
    monkeypatch.setattr(forecast, "calibrate", lambda *_, **__: StepTime((32,), (32**2 * 1e-6,), 2.0))

    def make(*settings: str) -> StudyForecast:
        return forecast_study(
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
