"""training.budget: how long each resolution trains."""

import json

import numpy as np
from PIL import Image

from resomap.study.halving import DominatedStopping


def runs(root):
    found = [json.loads(path.read_text()) for path in root.glob("checkpoints/cnn/*/*/*/run.json")]
    return {run["cell"]["resolution"]: run for run in found}


def test_compute_matched_gives_every_resolution_the_same_operations(tmp_path, cli, small_run, make_images):
    data = make_images(tmp_path / "data")
    matched = ["--resolutions", "32,64", "--epochs", "1", "--set", "training.budget=compute_matched"]
    done = cli(*small_run(data, *matched))
    assert done.status == 0
    # Four times the pixels, four times the operations of a fully convolutional network.
    assert {side: len(run["epochs"]) for side, run in runs(tmp_path / "study").items()} == {32: 4, 64: 1}
    note = "the same computation at every resolution (tiny_cnn epochs @32: 4, @64: 1): training length differs too"
    assert f"note: {note}" in done.err
    assert note in json.loads((tmp_path / "study" / "results.json").read_text())["study"]["notes"]

    # Runs of different length are not mixed into a study of equal updates.
    refused = cli(*small_run(data, "--resolutions", "32,64", "--epochs", "1"))
    assert refused.status == 2
    assert 'training.budget: "compute_matched" -> (not set)' in refused.error_lines[0]


def test_equal_updates_are_the_default_and_determine_a_run_as_before(tmp_path, cli, small_run, make_images):
    assert cli(*small_run(make_images(tmp_path / "data"), "--resolutions", "32,64")).status == 0
    stored = runs(tmp_path / "study")
    assert {len(run["epochs"]) for run in stored.values()} == {2}
    assert "budget" not in stored[32]["determinants"]["protocol"]["training"]


def write_stripes(root):
    """64 px images of stripes 4 px wide, along or across: nothing is left of them on 16 px."""
    for split, count in (("train", 80), ("val", 80), ("test", 20)):
        for label in ("along", "across"):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                rng = np.random.default_rng([len(split), len(label), i])
                stripes = 80 * np.sin(np.arange(64) * np.pi / 2 + rng.uniform(0, 2 * np.pi))
                pixels = 128 + (stripes[:, None] if label == "along" else stripes[None]) + rng.normal(0, 20, (64, 64))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB")
                image.save(root / split / label / f"{i}.png")
    return root


def test_dominated_runs_stop_and_the_report_names_them(tmp_path, cli, small_run):
    options = [
        "training.learning_rate=0.005", "training.warmup_epochs=0", "training.successive_halving=true",
        "data.augmentation.crop=center", "analysis.delta=0.05", "system.profiling.enabled=true",
        "system.profiling.blocks=5", "system.profiling.max_batch=2",
    ]  # fmt: skip
    flags = [part for setting in options for part in ("--set", setting)]
    done = cli(*small_run(write_stripes(tmp_path / "data"), "--resolutions", "16,64", "--epochs", "8", *flags))
    assert done.status == 0, done.err
    stored = runs(tmp_path / "study")
    assert len(stored[64]["epochs"]) == 8
    assert stored[64]["stopped"] is None
    assert len(stored[16]["epochs"]) in (2, 4)
    assert "tiny_cnn @64 seed 0 had" in stored[16]["stopped"]
    assert stored[16]["metrics"]
    verdict = json.loads((tmp_path / "study" / "analysis" / "verdict.json").read_text())
    warnings = verdict["recommendation"]["warnings"]
    assert "stopped early, shown to be dominated, and not assessed: tiny_cnn @16 (1 of 1 run)" in warnings
    assert "stopped, not assessed: tiny_cnn @16 (1 of 1 run)" in done.out

    # The network that was not trained to its end is no answer, however cheap it is.
    assert [option["resolution"] for option in verdict["recommendation"]["options"]] == [64]
    assert verdict["stopped"] == [{"model": "tiny_cnn", "resolution": 16, "runs": "1 of 1 run"}]
    asked = cli("recommend", tmp_path / "study", "--max-latency-ms", "1e-6")
    assert "@16" not in asked.out.replace("tiny_cnn @16 (1 of 1 run)", "")


def test_looking_at_a_run_does_not_change_it(tmp_path, cli, small_run, make_images, monkeypatch):
    """Its weights lie in memory as they did: another order of sums would give other last bits."""
    looked, after = DominatedStopping.on_epoch_end, []

    def look(halving, trainer, record):
        looked(halving, trainer, record)
        after.extend(weights.is_contiguous() for weights in trainer.model.parameters())

    monkeypatch.setattr(DominatedStopping, "on_epoch_end", look)
    options = ["--epochs", "4", "--set", "system.channels_last=false", "--set", "training.successive_halving=true"]
    assert cli(*small_run(make_images(tmp_path / "data"), *options)).status == 0
    assert len(list((tmp_path / "study").rglob("rung*.json"))) == 2
    assert after
    assert all(after)
