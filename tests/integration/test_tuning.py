"""What autotune chose belongs to a study: it is kept, remembered elsewhere, and never mixed."""

import json

import pytest

from resomap.records import TunedSettings
from resomap.training import autotune


@pytest.fixture
def searches(monkeypatch):
    """Every search finds bf16 and a micro-batch of 4; a list of what was searched."""
    found = []

    def tune(network, options, *, sides, **_):
        found.append(options)
        return TunedSettings("bf16", 4, dict.fromkeys(sides, True), effort=5, gain=2.0, seconds=0.1)

    monkeypatch.setattr(autotune, "tune", tune)
    monkeypatch.setattr(autotune, "affordable", lambda *_, **__: 5)
    monkeypatch.setattr("resomap.training.device.computes_bf16", lambda _: True)
    return found


def run_record(tmp_path, seed=0, output="study"):
    path = tmp_path / output / "checkpoints" / "cnn" / "tiny_cnn" / "32" / f"seed{seed}" / "run.json"
    return json.loads(path.read_text())


def test_the_choice_determines_the_runs_and_stays_with_the_study(tmp_path, cli, small_run, make_images, searches):
    data = make_images(tmp_path / "data")
    first = cli(*small_run(data))
    assert first.status == 0
    assert "autotune: tiny_cnn: bf16, NHWC, micro-batch 4 of 8, 2.00 times as fast as untuned (found in" in first.err
    protocol = run_record(tmp_path)["determinants"]["protocol"]
    assert protocol["system"]["mixed_precision"] == "bf16"
    assert protocol["training"]["micro_batch"] == 4
    assert run_record(tmp_path)["provenance"]["precision"] == "bf16"

    # Another seed: the study keeps its choice, whatever a search would say now.
    autotune.tune = lambda *_, **__: pytest.fail("searched again")
    assert cli(*small_run(data, "--seeds", "0,1")).status == 0
    assert run_record(tmp_path, seed=1)["determinants"]["protocol"] == protocol

    # Another study on this machine remembers it.
    other = cli(*small_run(data, output="other"))
    assert "micro-batch 4 of 8, 2.00 times as fast as untuned (remembered)" in other.err
    assert run_record(tmp_path, output="other")["determinants"]["protocol"] == protocol

    # Settings that are given win, and are not mixed into what was trained otherwise.
    refused = cli(*small_run(data, "--set", "training.micro_batch=8"))
    assert refused.status == 2
    assert "training.micro_batch: 4 -> 8" in refused.error_lines[0]
    assert len(searches) == 1


def test_given_settings_are_not_searched(tmp_path, cli, small_run, make_images, searches):
    given = ["--set", "system.mixed_precision=no", "--set", "system.channels_last=true"]
    assert cli(*small_run(make_images(tmp_path / "data"), *given, "--batch-size", "16")).status == 0
    assert searches[0].precisions == ("no",)
    assert searches[0].formats == (True,)
    assert searches[0].micro_batches == (16, 8)
    assert run_record(tmp_path)["determinants"]["protocol"]["system"]["mixed_precision"] == "no"


@pytest.mark.parametrize("setting", ["system.autotune=false", "system.deterministic=true"])
def test_autotune_is_off_when_asked(tmp_path, cli, small_run, make_images, searches, setting):
    assert cli(*small_run(make_images(tmp_path / "data"), "--set", setting)).status == 0
    assert searches == []
    assert not (tmp_path / "study" / "tuning.json").exists()


def test_short_studies_are_not_tuned_and_say_so(tmp_path, cli, small_run, make_images):
    done = cli(*small_run(make_images(tmp_path / "data")))
    assert "(training is too short for a search to pay)" in done.err
    assert json.loads((tmp_path / "study" / "tuning.json").read_text())["models"]["tiny_cnn"]["choice"]["effort"] == 0


def test_a_study_without_a_search_is_the_same_as_without_autotune(tmp_path, cli, small_run, make_images):
    data = make_images(tmp_path / "data")
    assert cli(*small_run(data)).status == 0
    assert cli(*small_run(data, "--set", "system.autotune=false", output="other")).status == 0
    one, other = run_record(tmp_path), run_record(tmp_path, output="other")
    assert (one["key"], one["determinants"]) == (other["key"], other["determinants"])
    for pattern in ("best_model.safetensors", "test-*.parquet"):
        files = [next((tmp_path / output).rglob(pattern)) for output in ("study", "other")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_damaged_choice_is_made_up_for(tmp_path, cli, small_run, make_images, searches, caplog):
    data = make_images(tmp_path / "data")
    assert cli(*small_run(data)).status == 0
    stored = (tmp_path / "study" / "tuning.json").read_text()
    (tmp_path / "study" / "tuning.json").write_text('{"models": {"tiny_cnn": {"choice": {"precision": 1}}}}')
    again = cli(*small_run(data, "--seeds", "0,1"))
    assert again.status == 0
    assert (
        "tuning.json does not hold tuned settings (KeyError('micro_batch')); the runs' own records are used"
        in caplog.text
    )
    assert run_record(tmp_path, seed=1)["determinants"]["protocol"] == run_record(tmp_path)["determinants"]["protocol"]
    kept = json.loads((tmp_path / "study" / "tuning.json").read_text())["models"]["tiny_cnn"]["choice"]
    assert kept == json.loads(stored)["models"]["tiny_cnn"]["choice"]
