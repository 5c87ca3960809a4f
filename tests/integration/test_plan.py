"""resomap plan and resomap profile on a small folder of images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from resomap import load_study
from resomap.config.load import differences
from resomap.study.costs.circumstances import circumstances


@pytest.fixture
def common(tmp_path: Path, make_images: Callable[..., Path]) -> list[str]:
    data = make_images(tmp_path / "data")
    return ["--data", str(data), "--models", "tiny_cnn", "--resolutions", "32,64,96", "--device", "cpu",
            "--set", f"data.cache_dir={tmp_path / 'cache'}", "--output", str(tmp_path / "study")]  # fmt: skip


def test_a_plan_names_memory_time_and_what_does_not_fit(
    common: list[str], cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resomap.study.costs.calibrate.LEAST_S", 0.05)
    outcome = cli(
        "plan", *common, "--epochs", "4", "--seeds", "0,1", "--batch-size", "8", "--json", tmp_path / "p.json"
    )
    assert outcome.status == 0, outcome.err
    plan = json.loads((tmp_path / "p.json").read_text())
    cells = plan["cells"]
    assert [cell["resolution"] for cell in cells] == [32, 64, 96]
    # A fully convolutional network: nine times the pixels, nine times the operations, about nine times the activations.
    assert cells[2]["macs"] / cells[0]["macs"] == pytest.approx(9, rel=0.02)
    assert 5 < cells[2]["training_mib"] / cells[0]["training_mib"] < 9.5
    assert all(cell["micro_batch"] == 8 for cell in cells)
    assert plan["hours"] * 3600 == pytest.approx(2 * sum(cell["seconds_per_run"] for cell in cells))
    assert "6 runs (2 seeds)" in outcome.out
    assert "Needed to tell two resolutions apart" in outcome.out
    # Of 12 images that differ on 20 %, 2.4: too few to favour one side for sure.
    assert "tell apart: no difference where 5% differ, no difference where 10% differ, no diff" in outcome.out
    # Nothing is trained; the plan is kept for the report, which shows it beside what the runs took.
    kept = [path for path in (tmp_path / "study").rglob("*") if path.is_file()]
    assert kept == [tmp_path / "study/analysis/plan.json"]
    assert json.loads(kept[0].read_text()) == plan
    limit = (cells[0]["training_mib"] + cells[2]["training_mib"]) / 2 / 1024
    tight = cli("plan", *common, "--epochs", "4", "--batch-size", "8", "--set", f"system.memory_gib={limit}",
                "--json", tmp_path / "tight.json")  # fmt: skip
    assert tight.status == 0, tight.err
    fewer = json.loads((tmp_path / "tight.json").read_text())["cells"]
    assert {cell["micro_batch"] for cell in fewer} == {4}  # the same at every resolution of a model
    none = cli("plan", *common, "--epochs", "4", "--set", "system.memory_gib=0.0001")
    assert none.out.count("does not fit: tiny_cnn") == 3


def test_the_plan_of_a_study_is_for_the_circumstances_of_its_runs(
    cli: Callable, small_run: Callable[..., list[str]], make_images: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("resomap.study.costs.calibrate.LEAST_S", 0.05)
    asked = small_run(make_images(tmp_path / "data"), "--set", "training.micro_batch=4")[1:]
    for command in ("plan", "run"):
        assert cli(command, *asked).status == 0
    study = load_study(tmp_path / "study")
    planned, run = study.plan["cells"][0], study.runs[0]
    found = circumstances(run.determinants, images=study.about["images"], provenance=run.provenance)
    assert differences(planned["circumstances"], found) == []
    assert planned["parameters"] == run.parameters


def test_profile_prints_ratios_and_curves(common: list[str], cli: Callable, tmp_path: Path) -> None:
    outcome = cli("profile", *common, "--set", "system.profiling.blocks=5", "--set", "system.profiling.max_batch=2",
                  "--set", "system.profiling.precision=null",
                  "--json", tmp_path / "all.json")  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert "Latency ratio at batch 1 (median of paired rounds)" in outcome.out
    assert "Cost curves t = t0 + k r^p" in outcome.out
    records = json.loads((tmp_path / "all.json").read_text())
    assert [r["resolution"] for r in records] == [32, 64, 96]
    assert all((tmp_path / f"study/profiles/tiny_cnn/{side}.json").exists() for side in (32, 64, 96))
    assert records[0]["end_to_end"]["total_ms"] > records[0]["end_to_end"]["decode_ms"] > 0
    unknown = cli("profile", *common, "--set", "system.profiling.modes=[fast]")
    assert unknown.status == 2
    assert "system.profiling.modes" in unknown.error_lines[0]


def test_a_network_that_takes_no_single_image_in_training_is_planned_and_profiled(
    common: list[str], cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # mobilenet_v3_small at 32 px ends in maps of 1 x 1: a batch of one has one value a channel.
    monkeypatch.setattr("resomap.study.costs.calibrate.LEAST_S", 0.05)
    small = ["--models", "mobilenet_v3_small", "--resolutions", "32,64"]
    asked = [*common, *small, "--epochs", "1", "--batch-size", "4"]
    outcome = cli("plan", *asked, "--json", tmp_path / "p.json")
    assert outcome.status == 0, outcome.err
    cells = json.loads((tmp_path / "p.json").read_text())["cells"]
    assert [(cell["micro_batch"], cell["fewest_images"]) for cell in cells] == [(4, 2), (4, 1)]
    none = cli("plan", *asked, "--set", "system.memory_gib=0.0001")
    assert "MiB for 2 images, the fewest it trains on" in none.out
    for command in ("plan", "run"):
        refused = cli(command, *asked, "--set", "training.micro_batch=1")
        assert refused.status == 2
        assert refused.error_lines == [
            "error: training.micro_batch: with 1 image(s) at once some micro-batches hold a single one, on which "
            "mobilenet_v3_small @32 cannot be trained (feature maps of 1 x 1: BatchNorm needs two images); set it to "
            "2, or leave these resolutions out"
        ]
    # 24 images in batches of 7 leave 3, cut into 2 and 1.
    odd = cli("run", *asked, "--batch-size", "7", "--set", "training.micro_batch=2")
    assert odd.status == 2
    assert "training.micro_batch: with 2 image(s)" in odd.error_lines[0]
    assert "set it to 3" in odd.error_lines[0]
    single = cli("run", *asked, "--batch-size", "1")
    assert "training.batch_size: with 1 image(s)" in single.error_lines[0]
    assert not (tmp_path / "study" / "checkpoints").exists()
