"""system.runs_at_once: this process and its helpers do what one process does, cell for cell and bit for bit."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

Make = Callable[..., Path]
Args = Callable[..., list[str]]
Start = Callable[..., subprocess.Popen[str]]

ONE = ["--set", "system.runs_at_once=1", "--set", "system.threads=1"]
TWO = ["--set", "system.runs_at_once=2", "--set", "system.threads=1"]
LONG = ["--epochs", "4000", "--set", "training.save_every_s=0"]

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def records(study: Path) -> dict[int, dict]:
    """seed -> the run's record."""
    return {int(path.parent.name[4:]): json.loads(path.read_text()) for path in study.rglob("run.json")}


def helpers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children()
    return [child for child in children if "executors.side_by_side_helper" in " ".join(child.cmdline())]


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == "zombie"


def wait_until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def saved_states(study: Path) -> int:
    return sum(1 for _ in study.rglob("last.pt"))


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """The line of standard error that holds the text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line.rstrip()
    raise AssertionError(f"it ended without {text!r}")


def running(study: Path) -> int:
    return sum(record["status"] == "running" for record in records(study).values())


def answers(study: Path) -> dict[str, bytes]:
    """Weights and predictions of all runs."""
    found = [*study.glob("checkpoints/**/best_model.safetensors"), *study.glob("predictions/**/*.parquet")]
    return {str(path.relative_to(study)): path.read_bytes() for path in found}


def test_helpers_make_the_same_runs_bit_for_bit_and_tell_of_them(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object], start: Start
) -> None:
    data = make_images(tmp_path / "data")
    grid = ["--seeds", "0,1,2,3", "--epochs", "80", "--set", "training.learning_rate=0.01"]
    one = cli(*small_run(data, *grid, *ONE, output="one"))
    assert one.status == 0, one.err
    tracked = ["--set", "mlflow.enabled=true"]
    process = start(*small_run(data, *grid, *TWO, *tracked, output="two"))
    wait_until(lambda: running(tmp_path / "two") == 2)  # side by side
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    assert len(answers(tmp_path / "one")) == 4 * 3
    assert err.count("epoch 80: train loss") == 4
    assert "4 runs, 0 finished before" in err
    assert {record["provenance"]["runs_at_once"] for record in records(tmp_path / "two").values()} == {2}
    assert {record["provenance"]["command"][1] for record in records(tmp_path / "two").values()} == {"run"}  # not FD
    with sqlite3.connect(tmp_path / "two" / "mlflow.db") as database:
        names = database.execute("select name, status from runs where name like 'tiny_cnn%' order by name").fetchall()
        epochs = database.execute("select count(*) from metrics where key = 'train_loss'").fetchone()
    assert names == [(f"tiny_cnn @32 seed {seed}", "FINISHED") for seed in range(4)]
    assert epochs == (4 * 80,)
    again = cli(*small_run(data, *grid, *TWO, output="two"))
    assert again.status == 0
    assert "4 finished before" in again.err


def test_a_failing_run_of_a_helper_is_its_row_and_the_others_go_on(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object]
) -> None:
    data = make_images(tmp_path / "data")
    lost = ["--set", "training.learning_rate=1e30", "--seeds", "0,1,2"]
    outcome = cli(*small_run(data, *lost, *TWO))
    assert outcome.status == 1
    assert outcome.out.count("the loss became") >= 3
    assert {record["status"] for record in records(tmp_path / "study").values()} == {"failed"}
    assert "Traceback" not in outcome.out + outcome.err


def test_stopped_by_the_user_both_save_and_go_on(
    tmp_path: Path, make_images: Make, small_run: Args, start: Start
) -> None:
    data, study = make_images(tmp_path / "data"), tmp_path / "study"
    process = start(*small_run(data, *LONG, "--seeds", "0,1,2", *TWO))
    wait_until(lambda: saved_states(study) == 2)
    helpers = helpers_of(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Run the same command again" in err
    assert "Traceback" not in err
    assert len(helpers) == 1
    assert is_gone(helpers[0])
    assert saved_states(study) == 2
    assert [record["status"] for record in records(study).values()] == ["running", "running"]
    again = start(*small_run(data, *LONG, "--seeds", "0,1,2", *TWO))
    read_until(again, "seed 0: 4000 epochs, going on after update")
    read_until(again, "seed 1: 4000 epochs, going on after update")


def test_a_killed_helper_costs_no_run_and_a_killed_study_leaves_no_helper(
    tmp_path: Path, make_images: Make, small_run: Args, start: Start
) -> None:
    data, study = make_images(tmp_path / "data"), tmp_path / "study"
    command = small_run(data, *LONG, "--seeds", "0,1,2", *TWO)
    process = start(*command)
    wait_until(lambda: saved_states(study) == 2)
    helpers_of(process)[0].send_signal(signal.SIGKILL)
    first = read_until(process, "note: a helper was ended")
    assert first.endswith(
        "note: a helper was ended by SIGKILL (out of memory?); runs go on one at a time, tiny_cnn @32 seed 1 among them"
    )
    assert [record["status"] for record in records(study).values()] == ["running"] * 2
    process.kill()
    again = start(*command)
    read_until(again, "tiny_cnn @32 seed 0: 4000 epochs, going on after update")
    read_until(again, "tiny_cnn @32 seed 1: 4000 epochs, going on after update")
    helpers = helpers_of(again)
    assert len(helpers) == 1
    again.kill()
    wait_until(lambda: is_gone(helpers[0]), seconds=20)


def test_what_does_not_go_together_is_refused(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object]
) -> None:
    data = make_images(tmp_path / "data")
    outcome = cli(*small_run(data, *TWO, "--set", "system.processes_per_run=2"))
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1] == (
        "error: system.runs_at_once is 2, which goes with one process a run on this machine: not with a launcher, "
        "system.processes_per_run or system.executor ray; leave one of the two"
    )
    outcome = cli(*small_run(data, *TWO, "--set", "training.successive_halving=true"))
    assert outcome.status == 2
    assert "training.successive_halving compares runs with those before them" in outcome.err


def test_a_script_s_own_network_is_found_by_helpers(tmp_path: Path, make_images: Make) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "nets.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)\n"
        "    return nn.Sequential(*layers)\n"
    )
    data = make_images(tmp_path / "data")
    settings = [
        f"data.source={data}", f"data.cache_dir={tmp_path}/cache", f"study.output={tmp_path}/study",
        "sweep.models=[nets:net]", "models.allow_callables=true", "sweep.resolutions=[32]", "sweep.seeds=[0,1,2]",
        "training.epochs=200", "training.batch_size=8", "system.device=cpu", "system.runs_at_once=2",
        "mlflow.enabled=false",
    ]  # fmt: skip
    (folder / "study.py").write_text(
        "import resomap\n"
        "if __name__ == '__main__':\n"
        f"    result = resomap.run_study(resomap.load_config(overrides={settings!r}))\n"
        "    print([record.status for record in result.read_records()])\n"
    )
    done = subprocess.run([sys.executable, folder / "study.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "['finished', 'finished', 'finished']\n", done.stderr


def test_a_suspended_study_suspends_its_helper(
    tmp_path: Path, make_images: Make, small_run: Args, start: Start
) -> None:
    data, study = make_images(tmp_path / "data"), tmp_path / "study"
    process = start(*small_run(data, *LONG, "--seeds", "0,1", *TWO))
    wait_until(lambda: saved_states(study) == 2)
    helper = helpers_of(process)[0]
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: helper.status() == psutil.STATUS_STOPPED, seconds=20)
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: helper.status() != psutil.STATUS_STOPPED, seconds=20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert is_gone(helper)
