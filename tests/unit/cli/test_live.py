"""What is said of the time that is left."""

from resomap.cli import live
from resomap.cli.live import PlainProgress
from resomap.records import Cell, EpochRecord
from resomap.study import progress


def test_time_left_knows_that_runs_differ_in_length(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    large, small = Cell("a", 64, 0), Cell("a", 32, 0)
    said = PlainProgress()
    said.lengths({large: 2, small: 8})
    said.study_started([large, small], finished=0)
    said.run_started(large, epochs=2, updates=10, resumed_update=0)
    for update in range(5):
        clock[0] += 4.0
        said.update_ended(large, epoch=1, update=update + 1, images=8)
    said.epoch_ended(large, EpochRecord(1, 1.0, 0.5, 1e-3, 20.0, 2.0, None))
    # 5 updates of 4 s, then 40 of a quarter.
    assert capsys.readouterr().err.strip().endswith(f"{live.duration(60)} left")
