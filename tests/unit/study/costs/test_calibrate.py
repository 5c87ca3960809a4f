"""Calibration: one or two measured points, a power of the side between and beyond them."""

from __future__ import annotations

import pytest

from resomap.config.load import load_config
from resomap.study.costs import calibrate as module
from resomap.study.costs.calibrate import StepTime, calibrate, median_seconds


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(side, batch) of each measurement; an image takes side^1.5 microseconds."""
    asked: list[tuple[int, int]] = []

    def fake(_config: object, cell: object, *, num_classes: int, batch: int) -> float:
        asked.append((cell.resolution, batch))  # type: ignore[attr-defined]
        return cell.resolution**1.5 * 1e-6  # type: ignore[attr-defined]

    monkeypatch.setattr(module, "_seconds_per_image", fake)
    return asked


def test_calibrate_passes_through_both_ends(measured: list[tuple[int, int]]) -> None:
    time = calibrate(load_config(), "tiny_cnn", [64, 256, 128], num_classes=2, micro_batch=8)
    assert measured == [(64, 8), (256, 8)]
    assert time.exponent == pytest.approx(1.5)
    assert time.at(128) == pytest.approx(128**1.5 * 1e-6)


def test_calibrate_scales_with_pixels_where_the_large_side_takes_too_long(
    measured: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_STEP_S", 1e-9)
    time = calibrate(load_config(), "tiny_cnn", [64, 128], num_classes=2, micro_batch=8)
    assert measured == [(64, 8)]
    assert time == StepTime((64,), (64**1.5 * 1e-6,), 2.0)
    assert time.at(128) == pytest.approx(4 * time.at(64))


def test_median_seconds_leaves_the_first_call_out() -> None:
    # Warm-up, then 3 calls of 0.3, 0.1 and 0.4 s: 0.8 s are over the least time of 0.5 s.
    ticks = iter([0.0, 0.3, 1.0, 1.1, 2.0, 2.4])
    calls: list[None] = []
    assert median_seconds(lambda: calls.append(None), clock=lambda: next(ticks)) == pytest.approx(0.3)
    assert len(calls) == 4


def test_calibrate_times_the_real_trainer() -> None:
    config = load_config(overrides=["system.device=cpu", "training.schedule=plateau"])
    time = calibrate(config, "tiny_cnn", [32, 64], num_classes=3, micro_batch=4)
    assert 0 < time.at(32) < time.at(64) < 1
