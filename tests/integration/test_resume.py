"""Killed at any moment, started again: the same weights, bit for bit, as if nothing had happened."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from resomap import load_config, run_study
from resomap.study.progress import StudyProgress

Make = Callable[..., Path]
Args = Callable[..., list[str]]
Start = Callable[..., subprocess.Popen[str]]

# Saves its state at every update, so that a kill at any moment resumes within an epoch.
EVERY_UPDATE = ["--set", "training.save_every_s=0", "--epochs", "4", "--set", "data.cache_gib=1"]


def weights(study: Path) -> dict[str, dict[str, bytes]]:
    """run folder -> tensor name -> bytes."""
    return {
        str(path.parent.relative_to(study)): {k: v.tobytes() for k, v in load_file(path).items()}
        for path in sorted(study.rglob("best_model.safetensors"))
    }


def scores(study: Path) -> pd.DataFrame:
    """What must not depend on the interruption: no times, no speeds."""
    columns = ["model", "resolution", "seed", "status", "best_epoch", "split", "accuracy", "log_loss"]
    return pd.read_csv(study / "results.csv")[columns]


def wait_for_state(process: subprocess.Popen[str], study: Path, *, saves: int) -> None:
    """Until last.pt was written `saves` times (or the process ended)."""
    seen: set[int] = set()
    deadline = time.monotonic() + 120
    while process.poll() is None and len(seen) < saves and time.monotonic() < deadline:
        for path in study.rglob("last.pt"):
            try:
                seen.add(path.stat().st_mtime_ns)
            except FileNotFoundError:
                continue
        time.sleep(0.002)


@pytest.mark.slow
def test_sigkill_at_several_points_ends_bit_identical(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object], start: Start
) -> None:
    data = make_images(tmp_path / "data", splits={"train": 20, "val": 6, "test": 6})
    grid = ["--models", "tiny_cnn,simple_cnn", "--set", "system.threads=2", *EVERY_UPDATE]
    assert cli(*small_run(data, *grid, output="reference")).status == 0
    command = small_run(data, *grid)
    study = tmp_path / "study"
    for saves in (1, 3, 7):  # 5 updates an epoch: within the first, the first, the second
        process = start(*command)
        wait_for_state(process, study, saves=saves)
        process.send_signal(signal.SIGKILL)
        process.wait()
    outcome = cli(*command)
    assert outcome.status == 0, outcome.err
    assert "going on after update" in outcome.err
    assert weights(study) == weights(tmp_path / "reference")
    pd.testing.assert_frame_equal(scores(study), scores(tmp_path / "reference"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_go_on(
    number: signal.Signals,
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Callable[..., object],
    start: Start,
) -> None:
    data = make_images(tmp_path / "data", splits={"train": 40, "val": 6, "test": 6})
    many = ["--epochs", "60", "--set", "training.save_every_s=3600"]
    study = tmp_path / "study"
    process = start(*small_run(data, *many))
    wait_for_state(process, study, saves=2)  # two epochs are over
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Run the same command again" in err
    assert "Traceback" not in err
    outcome = cli("status", study)
    assert "interrupted" in outcome.out
    assert cli(*small_run(data, *many)).status == 0
    assert cli(*small_run(data, *many, output="reference")).status == 0
    assert weights(study) == weights(tmp_path / "reference")


class StopsInSecondEpoch(StudyProgress):
    """The first epoch takes long, and the second is interrupted."""

    def update_ended(self, cell, *, epoch, update, images):
        if epoch == 2:
            raise KeyboardInterrupt
        time.sleep(2 if update == 1 else 0)


def test_a_runs_seconds_are_those_of_all_its_starts(tmp_path: Path, make_images: Make) -> None:
    config = load_config(
        overrides=[
            f"data.source={make_images(tmp_path / 'data')}", f"data.cache_dir={tmp_path}/cache", "data.workers=0",
            f"study.output={tmp_path}/study", "mlflow.enabled=false", "system.device=cpu", "sweep.models=[tiny_cnn]",
            "sweep.resolutions=[32]", "sweep.seeds=[0]", "training.epochs=2", "training.batch_size=8",
            "training.save_every_s=0", f"system.threads={torch.get_num_threads()}",
        ]
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        run_study(config, progress=StopsInSecondEpoch())
    started = time.monotonic()
    (record,) = run_study(config).read_records()
    took = time.monotonic() - started
    assert record.epochs[0].seconds > 2
    assert sum(epoch.seconds for epoch in record.epochs) < record.seconds < 3 + took + record.epochs[0].seconds


def test_finished_runs_are_skipped_and_a_larger_grid_adds_to_them(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object]
) -> None:
    data = make_images(tmp_path / "data")
    assert cli(*small_run(data)).status == 0
    path = next((tmp_path / "study").rglob("best_model.safetensors"))
    before = path.stat().st_mtime_ns
    outcome = cli(*small_run(data, "--seeds", "0,1"))
    assert outcome.status == 0
    assert "2 runs, 1 finished before" in outcome.err
    assert path.stat().st_mtime_ns == before
    assert list(scores(tmp_path / "study")["seed"]) == [0, 0, 1, 1]  # val and test of each


def test_metrics_follow_the_analysis_settings_without_training(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object]
) -> None:
    data = make_images(tmp_path / "data")
    assert cli(*small_run(data)).status == 0
    before = weights(tmp_path / "study")
    outcome = cli(*small_run(data, "--set", "analysis.confidence=0.5001"))
    assert outcome.status == 0
    assert "1 run, 1 finished before" in outcome.err
    stored = json.loads((tmp_path / "study" / "results.json").read_text())
    condition = stored["runs"][0]["conditions"]["test-in32-info32-as_trained"]
    assert condition["accuracy_high"] - condition["accuracy_low"] < 0.2
    assert weights(tmp_path / "study") == before


def trained(told: list[str], epochs: int) -> list[str]:
    """Cells that processes began to train, in the order told; a cell that was gone on with is there again."""
    lines = [line for text in told for line in text.splitlines() if f": {epochs} epochs" in line]
    return sorted(line.split("] ")[1].split(":")[0] for line in lines if "going on" not in line)


@pytest.mark.slow
def test_two_processes_share_a_study_and_the_killed_ones_cell_is_taken_over(
    tmp_path: Path, make_images: Make, small_run: Args, start: Start
) -> None:
    data = make_images(tmp_path / "data", splits={"train": 30, "val": 6, "test": 6})
    command = small_run(data, "--seeds", "0,1,2,3,4,5,6,7,8,9", "--epochs", "6", "--set", "training.save_every_s=0")
    processes = [start(*command) for _ in range(2)]
    deadline = time.monotonic() + 120
    while len(finished_runs(tmp_path / "study")) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[0].send_signal(signal.SIGKILL)
    done_then = finished_runs(tmp_path / "study")
    told = [process.communicate(timeout=300)[1] for process in processes]
    assert processes[1].returncode == 0, told
    assert len(done_then) < 10
    # Nothing was begun twice, but for what the killed process had not yet saved an update of.
    names = trained(told, 6)
    assert set(names) == {f"tiny_cnn @32 seed {seed}" for seed in range(10)}
    assert len(names) <= 11
    now = finished_runs(tmp_path / "study")
    assert {name: now[name] for name in done_then} == done_then  # not written again
    assert sorted(scores(tmp_path / "study")["seed"]) == sorted([*range(10), *range(10)])
    assert scores(tmp_path / "study")["status"].eq("finished").all()


def finished_runs(study: Path) -> dict[str, int]:
    """run folder -> when its record was written, for the finished ones."""
    found = {}
    for path in study.rglob("run.json"):
        if json.loads(path.read_text())["status"] == "finished":
            found[str(path.parent.relative_to(study))] = path.stat().st_mtime_ns
    return found


@pytest.mark.slow
def test_one_process_without_waiting_leaves_what_another_runs(
    tmp_path: Path, make_images: Make, small_run: Args, start: Start
) -> None:
    data = make_images(tmp_path / "data", splits={"train": 40, "val": 6, "test": 6})
    command = small_run(data, "--epochs", "200")
    first = start(*command)
    wait_for_state(first, tmp_path / "study", saves=1)
    second = start(*command, "--set", "study.wait_for_others=false")
    second.communicate(timeout=120)
    assert second.returncode == 0
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 130


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_with_any_workers_and_prefetch_and_another_does_not(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., object]
) -> None:
    data = make_images(tmp_path / "data")
    trained_with = []
    for workers, prefetch in ((0, 2), (1, 1), (2, 4)):
        output = f"workers{workers}"
        options = ["--set", f"data.workers={workers}", "--set", f"data.prefetch_factor={prefetch}"]
        assert cli(*small_run(data, "--seeds", "0,1", *options, output=output)).status == 0
        trained_with.append(weights(tmp_path / output))
    assert trained_with[0] == trained_with[1] == trained_with[2]
    first, second = trained_with[0].values()
    assert all(first[name] != second[name] for name in first if name.endswith("weight"))
