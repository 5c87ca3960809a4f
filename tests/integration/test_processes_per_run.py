"""system.processes_per_run: two gloo processes inside a cell do what one process does with the same micro-batches."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

Make = Callable[..., Path]
Args = Callable[..., list[str]]
Start = Callable[..., subprocess.Popen[str]]

TWO = ["--set", "system.processes_per_run=2", "--set", "system.threads=1"]

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def record(study: Path) -> dict:
    """The only run's record."""
    return json.loads(next(study.rglob("run.json")).read_text())


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of the run that a study has started."""
    return [child for child in psutil.Process(process.pid).children() if "executors.rank" in " ".join(child.cmdline())]


def wait_until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def saved_states(study: Path) -> int:
    return sum(1 for _ in study.rglob("last.pt"))


def test_two_processes_have_the_losses_of_one_and_stop_and_go_on(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object], start: Start
) -> None:
    data = make_images(tmp_path / "data", splits={"train": 16, "val": 7, "test": 6})
    # The order of additions differs: losses agree to rounding, not bit for bit.
    length = ["--epochs", "12"]
    one = cli(*small_run(data, *length, "--set", "training.micro_batch=4", "--set", "system.threads=1", output="one"))
    assert one.status == 0, one.err
    command = small_run(data, *length, *TWO, "--set", "training.save_every_s=0", output="two")
    stopped = start(*command)
    wait_until(lambda: saved_states(tmp_path / "two") > 0)
    ranks = ranks_of(stopped)
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, err
    assert "Run the same command again" in err
    assert "Traceback" not in err
    assert len(ranks) == 2
    assert not any(rank.is_running() for rank in ranks)
    assert saved_states(tmp_path / "two") == 1
    two = cli(*command)
    assert two.status == 0, two.err
    assert "going on after update" in two.err
    first, second = record(tmp_path / "one"), record(tmp_path / "two")
    assert second["provenance"]["processes"] == 2
    for a, b in zip(first["epochs"], second["epochs"], strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-4)
    assert "epoch 12: train loss" in two.err  # rank 0's progress, passed on


def test_a_killed_rank_costs_its_cell_alone_and_a_killed_study_leaves_no_ranks(
    tmp_path: Path, make_images: Make, small_run: Args, start: Start
) -> None:
    data = make_images(tmp_path / "data", splits={"train": 16, "val": 6, "test": 6})
    study = tmp_path / "study"
    process = start(*small_run(data, "--epochs", "4000", "--seeds", "0,1", *TWO, "--set", "training.save_every_s=0"))
    wait_until(lambda: saved_states(study) == 1)
    ranks_of(process)[1].send_signal(signal.SIGKILL)
    wait_until(lambda: saved_states(study) == 2)  # the state of the first is kept for a later start
    failed = json.loads(next(study.rglob("seed0/run.json")).read_text())
    assert failed["status"] == "failed"
    assert failed["error"] == "process 2 of 2 of this run was ended by SIGKILL (out of memory?)"
    ranks = ranks_of(process)
    assert len(ranks) == 2
    process.kill()
    wait_until(lambda: not any(rank.is_running() and rank.status() != "zombie" for rank in ranks), seconds=30)
    _, err = process.communicate()
    assert "Traceback" not in err


def test_a_user_error_of_the_ranks_is_the_cells_error(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object]
) -> None:
    data = make_images(tmp_path / "data")
    outcome = cli(*small_run(data, *TWO, "--set", "training.learning_rate=1e30", "--seeds", "0"))
    assert outcome.status == 1
    assert "the loss became" in outcome.out
    assert "Traceback" not in outcome.out + outcome.err
