"""A small study with cost, explanations and figures; then the scripts on it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    "--resolutions", "32,48", "--seeds", "0,1",
    "--set", "system.profiling.enabled=true", "--set", "system.profiling.blocks=5",
    "--set", "system.profiling.max_batch=2", "--set", "system.profiling.end_to_end_images=2",
    "--set", "explainability.enabled=true", "--set", "explainability.images=6",
    "--set", "explainability.methods=[gradcam,saliency]", "--set", "explainability.bootstrap_draws=200",
    "--set", "explainability.gallery=2",
]  # fmt: skip


@pytest.fixture
def study(tmp_path: Path, make_images: Callable[..., Path], cli: Callable, small_run: Callable) -> Path:
    data = make_images(tmp_path / "data")
    outcome = cli(*small_run(data, *SMALL))
    assert outcome.status == 0, outcome.err
    return tmp_path / "study"


def test_a_study_ends_with_cost_explanations_and_figures(study: Path, cli: Callable, tmp_path: Path) -> None:
    profile = json.loads((study / "profiles/tiny_cnn/48.json").read_text())
    assert profile["end_to_end"]["images"] == 2
    assert {t["protocol"] for t in profile["latency"]} == {"batch1", "saturated"}
    assert profile["predicted_training_mib"] == pytest.approx(profile["training_memory"]["peak_mib"], rel=0.01)
    analysed = json.loads((study / "analysis/explanations.json").read_text())
    assert analysed["images"] == 6
    assert len(analysed["consistency"]) == 2 * 6  # two methods; five similarities, and one for images right at both
    assert {row["low_cycles"] for row in analysed["spectral"]} == {2, 4, 8, 16}
    assert len(analysed["faithfulness"]) == 4
    for name in ("performance", "cost", "agreement-tiny_cnn", "spectral", "explanations-tiny_cnn", "methods-tiny_cnn"):
        for suffix in ("png", "pdf"):
            assert (study / "report/figures" / f"{name}.{suffix}").stat().st_size > 1000, name
    # Again: nothing is made anew, and `explain` on the finished study prints its tables.
    written = {path: path.stat().st_mtime_ns for path in study.glob("explanations/**/*.npz")}
    before = (study / "analysis/explanations.json").stat().st_mtime_ns
    outcome = cli("explain", study)
    assert outcome.status == 0, outcome.err
    assert "Agreement of maps (spearman) on 6 test images" in outcome.out
    assert (study / "analysis/explanations.json").stat().st_mtime_ns == before
    assert {path: path.stat().st_mtime_ns for path in written} == written
    # Without faithfulness all else is the same, and maps are not made again.
    outcome = cli("explain", study, "--set", "explainability.faithfulness=false")
    assert (outcome.status, "faithfulness" in outcome.err) == (0, False)
    without = json.loads((study / "analysis/explanations.json").read_text())
    assert without["faithfulness"] == []
    assert without["spectral"] == analysed["spectral"]
    assert without["consistency"] == analysed["consistency"]
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert cli("explain", tmp_path / "nothing").error_lines == [
        f"error: {tmp_path / 'nothing'} is no study (it has no study.yaml); give the folder that `run` wrote"
    ]


def test_the_scripts_work_on_a_folder_of_checkpoints(study: Path, tmp_path: Path) -> None:
    run = study / "checkpoints/cnn/tiny_cnn/32/seed1"
    own = [sys.executable, str(ROOT / "example_explainability.py"), "--checkpoint", str(run), "--num-samples", "1",
           "--model", "Tiny-CNN", "--output", str(tmp_path / "own")]  # fmt: skip
    done = subprocess.run(own, capture_output=True, text=True, check=False)  # its study knows the data
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "own").glob("gradcam-000-*.png"))) == 1
    moved = tmp_path / "elsewhere"
    (study / "checkpoints").rename(moved)
    run = [sys.executable, str(ROOT / "scripts/resolution_explainability_analysis.py"), "--checkpoint-dir", str(moved)]
    options = [
        "--data",
        str(tmp_path / "data"),
        "--set",
        "explainability.images=6",
        "--set",
        "system.profiling.blocks=5",
        "--set",
        "system.profiling.precision=null",
    ]
    options += ["--set", "explainability.bootstrap_draws=200", "--set", f"data.cache_dir={tmp_path / 'cache'}"]
    out = tmp_path / "analysis"
    done = subprocess.run([*run, "--output-dir", str(out), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with open(out / "results.csv") as stream:
        assert [(r["model"], r["resolution"], r["seed"]) for r in csv.DictReader(stream)] == [
            ("tiny_cnn", "32", "0"), ("tiny_cnn", "32", "1"), ("tiny_cnn", "48", "0"), ("tiny_cnn", "48", "1")
        ]  # fmt: skip
    assert "tiny_cnn, gradcam, 32 and 48 px" in (out / "summary.txt").read_text()
    assert (out / "report/figures/explanations-tiny_cnn.pdf").exists()
    done = subprocess.run(
        [*run, "--output-dir", str(out), "--models", "vgg11", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "found: tiny_cnn @32, tiny_cnn @48" in done.stderr
    assert "Traceback" not in done.stderr
    example = [
        sys.executable, str(ROOT / "example_explainability.py"), "--checkpoint", str(moved / "cnn/tiny_cnn/48/seed0"),
        "--data", str(tmp_path / "data"), "--method", "saliency", "--num-samples", "2", "--output", str(tmp_path / "e"),
    ]  # fmt: skip
    done = subprocess.run(example, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "e").glob("saliency-*.png"))) == 2
    done = subprocess.run([*example, "--model", "VGG11"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: --model VGG11: the checkpoint holds tiny_cnn; leave it out\n")
