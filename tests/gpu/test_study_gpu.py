"""A study on a real accelerator, from the command line; skipped, saying so, where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from resomap.layout import StudyLayout
from resomap.models.registry import build_model
from resomap.profiling.latency import SATURATED
from resomap.profiling.profiler import profile_model
from resomap.study.load import load_study
from resomap.study.runs import stored_runs
from resomap.training.autotune import Options, tune

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="this machine has no accelerator"),
]

Make = Callable[..., Path]
Args = Callable[..., list[str]]
Cli = Callable[..., object]
Start = Callable[..., subprocess.Popen[str]]

ON_DEVICE = ("--device", "auto")
WITH_ALL_STAGES = (
    "--set", "analysis.matrix=true", "--set", "explainability.enabled=true", "--set", "system.profiling.enabled=true",
    "--set", "explainability.faithfulness=false",
)  # fmt: skip


@pytest.fixture
def data(tmp_path: Path, make_images: Make) -> Path:
    return make_images(tmp_path / "data", splits={"train": 24, "val": 12, "test": 12}, size=(80, 64))


@pytest.fixture
def little_memory() -> Iterator[Callable[[int], None]]:
    """Leave this process so many MiB of the device."""
    if not torch.cuda.is_available():
        pytest.skip("only CUDA can be told to give a process less memory")
    total = torch.cuda.get_device_properties(0).total_memory
    yield lambda mib: torch.cuda.set_per_process_memory_fraction(mib * 2**20 / total)
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_a_batch_beyond_the_memory_ends_the_search_for_throughput(little_memory: Callable[[int], None]) -> None:
    little_memory(1024)  # of 32 images of 512 px resnet18's first maps alone take 512 MiB, twice at a time
    record = profile_model(build_model("resnet18", num_classes=10), "cuda", resolution=512, runs=3, max_batch=256)
    assert 1 <= record.at(SATURATED).batch_size <= 32


def test_a_study_with_all_its_stages(tmp_path: Path, data: Path, small_run: Args, cli: Cli) -> None:
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    command = small_run(data, *ON_DEVICE, *WITH_ALL_STAGES, "--models", "tiny_cnn,mobilenet_v3_small",
                        "--resolutions", "32,64", "--epochs", "3")  # fmt: skip
    done = cli(*command)
    assert done.status == 0, done.err
    assert "Traceback" not in done.err
    records = list(stored_runs(StudyLayout(tmp_path / "study")))
    assert len(records) == 4
    for record in records:
        assert record.status == "finished", record.error
        assert record.provenance["device"].startswith(accelerator.type)
        assert record.epochs[-1].peak_memory_mib is None or record.epochs[-1].peak_memory_mib > 0
    study = load_study(tmp_path / "study")
    assert len(study.profiles) == 4
    for profile in study.profiles:
        assert profile["device"].startswith(accelerator.type)
        assert all(timed["median_ms"] > 0 for timed in profile["latency"])
    assert (tmp_path / "study" / "report" / "index.html").stat().st_size > 10_000
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "study").rglob("best_model.safetensors")}
    assert cli(*command).status == 0
    assert len(before) == 4
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_predictions_are_the_cpu_s(tmp_path: Path, data: Path, small_run: Args, cli: Cli) -> None:
    assert cli(*small_run(data, *ON_DEVICE, "--set", "system.mixed_precision=no", "--epochs", "3")).status == 0
    checkpoint = next((tmp_path / "study").rglob("best_model.safetensors"))
    tables = []
    for device in ("cpu", "auto"):
        output = tmp_path / f"{device}.parquet"
        done = cli(
            "evaluate", checkpoint, "--data", data, "--device", device, "--predictions", output,
            "--set", f"data.cache_dir={tmp_path / 'cache'}",
        )  # fmt: skip
        assert done.status == 0, done.err
        tables.append(pd.read_parquet(output))
    probabilities = [np.stack(table["probabilities"].to_numpy()) for table in tables]
    assert list(tables[0]["image_id"]) == list(tables[1]["image_id"])
    # TF32 keeps ten bits of a factor.
    np.testing.assert_allclose(probabilities[0], probabilities[1], atol=5e-3)


def test_runs_at_once_are_the_runs_one_after_the_other(tmp_path: Path, data: Path, small_run: Args, cli: Cli) -> None:
    repeatable = ("--epochs", "4", "--seeds", "0,1,2", "--set", "system.deterministic=true", "--set", "data.workers=0")
    for runs in (1, 2):
        wanted = ("--set", f"system.runs_at_once={runs}", "--set", "system.threads=2")
        done = cli(*small_run(data, *ON_DEVICE, *repeatable, *wanted, output=f"study{runs}"))
        assert done.status == 0, done.err
    weights = [
        {str(path.relative_to(study)): path.read_bytes() for path in study.rglob("best_model.safetensors")}
        for study in (tmp_path / "study1", tmp_path / "study2")
    ]
    assert len(weights[0]) == 3
    assert weights[0] == weights[1]


def test_a_killed_run_goes_on(tmp_path: Path, data: Path, small_run: Args, cli: Cli, start: Start) -> None:
    command = small_run(data, *ON_DEVICE, "--epochs", "60", "--set", "training.save_every_s=0")
    killed = start(*command)
    deadline = time.monotonic() + 120
    while not any((tmp_path / "study").rglob("last.pt")):
        assert killed.poll() is None, killed.communicate()[1][-3000:]
        assert time.monotonic() < deadline, "no state was saved"
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    done = cli(*command)
    assert done.status == 0, done.err
    assert "going on after update" in done.err


def test_too_little_memory_halves_the_micro_batch(
    tmp_path: Path,
    data: Path,
    small_run: Args,
    cli: Cli,
    little_memory: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    command = small_run(
        data, *ON_DEVICE, "--models", "resnet18", "--resolutions", "256", "--batch-size", "48", "--epochs", "1",
        "--set", "system.mixed_precision=no", "--set", "system.autotune=false", "--set", "data.workers=0",
    )  # fmt: skip
    torch.accelerator.empty_cache()
    little_memory(1200)  # 48 images take about 3 GiB, weights and the optimiser's states a few hundred MiB
    done = cli(*command)
    assert done.status == 0, done.err
    assert "out of memory with 48 images at once" in caplog.text
    (record,) = stored_runs(StudyLayout(tmp_path / "study"))
    assert record.determinants["protocol"]["training"]["micro_batch"] < 48
    assert record.determinants["protocol"]["training"]["batch_size"] == 48


def test_a_launched_process_trains(tmp_path: Path, data: Path, small_run: Args) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    done = subprocess.run(
        [*launcher, "-m", "resomap", *small_run(data, *ON_DEVICE)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads(next((tmp_path / "study").rglob("run.json")).read_text())
    assert record["status"] == "finished"


def test_loading_processes_and_pinned_memory_change_nothing(
    tmp_path: Path, data: Path, small_run: Args, cli: Cli
) -> None:
    losses = []
    for name, settings in {
        "plain": ("data.workers=0", "data.pin_memory=false", "data.non_blocking=false"),
        "pinned": ("data.workers=2", "data.pin_memory=true", "data.non_blocking=true"),
    }.items():
        options = [word for setting in settings for word in ("--set", setting)]
        done = cli(*small_run(data, *ON_DEVICE, "--set", "system.deterministic=true", *options, output=name))
        assert done.status == 0, done.err
        record = json.loads(next((tmp_path / name).rglob("run.json")).read_text())
        losses.append([epoch["train_loss"] for epoch in record["epochs"]])
    assert losses[0] == losses[1]


def test_a_search_on_the_accelerator_finds_settings() -> None:
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    options = Options(precisions=("no", "bf16"), formats=(True, False), micro_batches=(64, 32))
    found = tune(
        build_model("resnet18", num_classes=2), options, sides=(96, 160), images=1e6, num_classes=2, device=device
    )
    assert found.effort > 0
    assert found.precision in options.precisions
    assert found.micro_batch in options.micro_batches
    assert found.gain >= 1.0
    assert 0 < found.seconds < 120


def test_deployment_modes_are_timed_or_say_why_not(tmp_path: Path, data: Path, small_run: Args, cli: Cli) -> None:
    done = cli(
        *small_run(data, *ON_DEVICE), "--set", "system.profiling.enabled=true",
        "--set", "system.profiling.modes=[eager,channels_last,autocast,compile,onnxruntime]",
        "--set", "system.profiling.max_batch=2", "--set", "system.profiling.end_to_end_images=0",
    )  # fmt: skip
    assert done.status == 0, done.err
    (stored,) = load_study(tmp_path / "study").profiles
    timed, missing = {row["mode"] for row in stored["latency"]}, set(stored["unavailable"])
    assert {"eager", "channels_last", "autocast"} <= timed
    assert timed | missing >= {"compile", "onnxruntime"}
