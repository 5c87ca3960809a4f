from __future__ import annotations

import pytest

from resomap.records import Cell
from resomap.study import progress
from resomap.study.progress import TimeLeft


def test_time_left_scales_with_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    left = TimeLeft()
    assert left.seconds([(Cell("a", 64, 0), 10)]) is None
    left.start(Cell("a", 64, 0))
    for _ in range(5):
        clock[0] += 2.0  # 2 s per update at 64 px
        left.add(Cell("a", 64, 0))
    # 3 updates at 64 px: 6 s. 10 updates at 128 px: four times the pixels, 80 s.
    assert left.seconds([(Cell("a", 64, 0), 3)]) == pytest.approx(6.0)
    assert left.seconds([(Cell("a", 64, 0), 3), (Cell("a", 128, 0), 10)]) == pytest.approx(86.0)


def test_time_left_of_an_unseen_model_uses_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    left = TimeLeft()
    for model, seconds in (("fast", 1.0), ("slow", 3.0)):
        left.start(Cell(model, 32, 0))
        clock[0] += seconds
        left.add(Cell(model, 32, 0))
    # The mean rate is (1 + 3) s for two updates.
    assert left.seconds([(Cell("new", 32, 0), 1)]) == pytest.approx(2.0)


def test_time_left_follows_the_latest_run_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    left = TimeLeft()
    for side, seconds in ((32, 1.0), (64, 2.0)):  # the small one is all overhead
        left.start(Cell("a", side, 0))
        clock[0] += seconds
        left.add(Cell("a", side, 0))
    assert left.seconds([(Cell("a", 128, 0), 1)]) == pytest.approx(8.0)


def test_time_left_ignores_time_between_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    left = TimeLeft()
    left.start(Cell("a", 32, 0))
    clock[0] += 1.0
    left.add(Cell("a", 32, 0))
    clock[0] += 500.0  # evaluation of the first run
    left.start(Cell("a", 32, 0))
    clock[0] += 1.0
    left.add(Cell("a", 32, 0))
    assert left.seconds([(Cell("a", 32, 1), 2)]) == pytest.approx(2.0)


def test_runs_at_once_have_a_clock_each_however_late_their_events_come(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    left, own, helped = TimeLeft(), Cell("slow", 32, 0), Cell("fast", 32, 0)
    left.start(own)
    left.start(helped)
    for _ in range(10):  # every 2 s an update of one's own, and then what a helper has told since: four updates
        clock[0] += 2.0
        left.add(own)
        for _ in range(4):
            left.add(helped)
    # 100 updates of 2 s beside 400 of 0.5 s.
    assert left.seconds([(own, 100), (helped, 400)], at_once=2) == pytest.approx(200.0)
    assert left.seconds([(own, 100)], at_once=1) == pytest.approx(200.0)
    assert left.seconds([(own, 100)], at_once=2) == pytest.approx(200.0)  # one run alone is not shared
