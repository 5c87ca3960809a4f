"""Each command as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from resomap.evaluation.store import read_predictions

Make = Callable[..., Path]
Args = Callable[..., list[str]]
Cli = Callable[..., object]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(tmp_path: Path, make_images: Make, small_run: Args, cli: Cli) -> Path:
    """A finished study of two resolutions and its data under tmp_path/data."""
    data = make_images(tmp_path / "data")
    assert cli(*small_run(data, "--resolutions", "32,64")).status == 0
    return tmp_path / "study"


def test_run_leaves_the_documented_files(study: Path) -> None:
    run = study / "checkpoints" / "cnn" / "tiny_cnn" / "32" / "seed0"
    for path in (
        study / "study.yaml",
        study / "results.csv",
        study / "results.json",
        study / "model_summaries" / "tiny_cnn" / "64" / "summary.txt",
        study / "predictions" / "tiny_cnn" / "32" / "seed0" / "test-in32-info32-as_trained.parquet",
        run / "best_model.safetensors",
        run / "metadata.json",
        run / "run.json",
    ):
        assert path.is_file(), path
    assert not list(study.rglob("last.pt"))
    metadata = json.loads((run / "metadata.json").read_text())
    assert (metadata["model"], metadata["resolution"], metadata["class_names"]) == ("tiny_cnn", 32, ["dark", "light"])


def test_run_results_follow_from_the_predictions(study: Path) -> None:
    frame = pd.read_csv(study / "results.csv")
    assert len(frame) == 4  # two resolutions, val and test
    for row in frame.to_dict("records"):
        name = f"{row['split']}-in{row['input_resolution']}-info{row['input_resolution']}-as_trained.parquet"
        answers = read_predictions(study / "predictions" / "tiny_cnn" / str(row["resolution"]) / "seed0" / name)
        assert row["accuracy"] == pytest.approx(np.mean(answers.predicted == answers.labels))
        assert row["images"] == 12


def test_run_learns_what_can_be_learnt(study: Path) -> None:
    # Dark and light images: anything that trains at all tells them apart.
    frame = pd.read_csv(study / "results.csv")
    assert (frame["accuracy"] >= 0.9).all()


def test_study_file_runs_the_same_study_again(study: Path, cli: Cli) -> None:
    outcome = cli("run", "--config", study / "study.yaml")
    assert outcome.status == 0, outcome.err
    assert "2 runs, 2 finished before" in outcome.err


def test_a_study_of_a_relative_folder_finds_its_images_from_everywhere(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "cwd" / "data")
    study, shipped = tmp_path / "study", tmp_path / "shipped"
    assert cli(*small_run("data", "--resolutions", "32,64")).status == 0
    elsewhere = tmp_path / "elsewhere"
    make_images(elsewhere / "data", classes=("other", "things"))  # of the same name, and not meant
    monkeypatch.chdir(elsewhere)
    outcome = cli("matrix", study)
    assert outcome.status == 0, outcome.err
    assert "rows trained at" in outcome.out
    chosen = ("export", study, "--model", "tiny_cnn", "--resolution", "32", "--output", shipped)
    # Moved: said with what to do, nothing written, and --data finds them.
    (elsewhere / "data").rename(elsewhere / "other")
    (tmp_path / "cwd" / "data").rename(elsewhere / "data")
    for arguments in (("matrix", study), chosen):
        outcome = cli(*arguments)
        assert outcome.status == 2
        assert f"{tmp_path / 'cwd' / 'data'} does not exist" in outcome.error_lines[0]
        assert "give the new place with --data" in outcome.error_lines[0]
    assert not shipped.exists()
    assert cli(*chosen, "--data", "data").status == 0
    assert (shipped / "model.onnx").is_file()
    # The same images by the same relative path from another folder: the same runs.
    outcome = cli(*small_run("data", "--resolutions", "32,64"))
    assert outcome.status == 0, outcome.err
    assert "2 runs, 2 finished before" in outcome.err
    assert yaml.safe_load((study / "study.yaml").read_text())["data"]["source"] == str(elsewhere / "data")


@pytest.mark.parametrize(
    ("command", "rest", "then"),
    [("recommend", (), "has no profile"), ("report", (), "has no profile"), ("matrix", (), "nothing to test"),
     ("export", ("--model", "tiny_cnn", "--resolution", "64"), "no finished run of tiny_cnn @64")],
)  # fmt: skip
def test_a_study_of_missing_runs_says_so_first(
    command: str, rest: tuple[str, ...], then: str, study: Path, cli: Cli
) -> None:
    if then == "has no profile":  # nor has the whole study
        assert "resomap run" not in cli(command, study, *rest).err
    (study / "checkpoints" / "cnn" / "tiny_cnn" / "64" / "seed0" / "run.json").unlink()
    outcome = cli(command, study, *rest)
    assert (outcome.status, len(outcome.error_lines)) == (2, 1), outcome.err
    said = f"{study}: 1 of 2 runs missing; the same `resomap run` again finishes them"
    assert outcome.error_lines[0].index(said) < outcome.error_lines[0].index(then)
    assert not (study / "report").exists()


def test_matrix_of_one_resolution_has_nothing_to_test(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Cli
) -> None:
    assert cli(*small_run(make_images(tmp_path / "data"))).status == 0
    outcome = cli("matrix", tmp_path / "study")
    assert outcome.status == 2
    assert outcome.error_lines == [
        "error: nothing to test: no model has a seed that is finished at each of two or more resolutions"
    ]


def test_status_shows_finished_runs(study: Path, cli: Cli) -> None:
    outcome = cli("status", study)
    assert outcome.status == 0
    assert "2 of 2 runs finished" in outcome.out


def test_evaluate_gives_the_runs_own_test_accuracy(study: Path, tmp_path: Path, cli: Cli) -> None:
    run = study / "checkpoints" / "cnn" / "tiny_cnn" / "64" / "seed0"
    out = tmp_path / "again.parquet"
    arguments = ["--data", tmp_path / "data", "--set", f"data.cache_dir={tmp_path / 'cache'}", "--device", "cpu"]
    outcome = cli("evaluate", run, *arguments, "--predictions", out)
    assert outcome.status == 0, outcome.err
    stored = read_predictions(
        study / "predictions" / "tiny_cnn" / "64" / "seed0" / "test-in64-info64-as_trained.parquet"
    )
    again = read_predictions(out)
    assert np.array_equal(again.probabilities, stored.probabilities)
    assert again.image_ids.tolist() == stored.image_ids.tolist()
    for name in ("accuracy", "macro_f1", "log_loss", "ece", "dark", "light"):
        assert name in outcome.out


FAST_PROBE = ["--set", "system.profiling.blocks=5", "--set", "system.profiling.precision=null", "--device", "cpu"]


def test_probe_of_a_weights_file_sees_images_as_the_configuration_says(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Cli
) -> None:
    data = make_images(tmp_path / "data")
    own = ["--set", "data.mean=[0.1, 0.2, 0.3]", "--set", "data.std=[0.5, 0.6, 0.7]",
           "--set", "models.tiny_cnn.channels=[4, 8]"]  # fmt: skip
    assert cli(*small_run(data, *own)).status == 0
    weights = next((tmp_path / "study").rglob("best_model.safetensors"))
    # 34 loses pixels at the border, as a study's network may not; it runs, and that is what is asked of a trained one.
    named = ["--model", "tiny_cnn", "--weights", weights, "--resolutions", "32,34", "--output", tmp_path / "probed"]
    cache = ["--set", f"data.cache_dir={tmp_path / 'cache'}"]
    outcome = cli("probe", "--data", data, *named, *own, *cache, *FAST_PROBE)
    assert outcome.status == 0, outcome.err
    name = "test-in32-info32-as_trained.parquet"
    stored = read_predictions(tmp_path / "study" / "predictions" / "tiny_cnn" / "32" / "seed0" / name)
    assert np.allclose(read_predictions(tmp_path / "probed" / name).probabilities, stored.probabilities, atol=1e-6)
    assert (tmp_path / "probed" / "test-in34-info34-as_trained.parquet").exists()


def test_a_checkpoint_in_a_study_is_shown_the_studys_data(study: Path, tmp_path: Path, cli: Cli) -> None:
    run = study / "checkpoints" / "cnn" / "tiny_cnn" / "32" / "seed0"
    name = "test-in32-info32-as_trained.parquet"
    stored = read_predictions(study / "predictions" / "tiny_cnn" / "32" / "seed0" / name)
    evaluated = tmp_path / "evaluated.parquet"
    outcome = cli("evaluate", run / "best_model.safetensors", "--predictions", evaluated)
    assert outcome.status == 0, outcome.err
    assert str(tmp_path / "data") in outcome.err
    assert "test: 12 images" in outcome.out
    outcome = cli("probe", "--checkpoint", run, "--resolutions", "32", *FAST_PROBE, "--output", tmp_path / "probed")
    assert outcome.status == 0, outcome.err
    for found in (evaluated, tmp_path / "probed" / name):
        assert read_predictions(found).image_ids.tolist() == stored.image_ids.tolist()
        assert np.allclose(read_predictions(found).probabilities, stored.probabilities, atol=1e-6)


def test_evaluate_takes_val_where_the_data_has_no_test(
    study: Path, tmp_path: Path, make_images: Make, cli: Cli
) -> None:
    other = make_images(tmp_path / "other", splits={"train": 4, "val": 3})
    run = study / "checkpoints" / "cnn" / "tiny_cnn" / "32" / "seed0"
    outcome = cli("evaluate", run, "--data", other)
    assert outcome.status == 0, outcome.err
    assert "val (the data has no test split): 6 images" in outcome.out
    assert cli("evaluate", run, "--data", other, "--split", "test").status == 2


def test_evaluate_refuses_other_classes(study: Path, tmp_path: Path, make_images: Make, cli: Cli) -> None:
    other = make_images(tmp_path / "other", classes=("dark", "dusk", "light"))
    run = study / "checkpoints" / "cnn" / "tiny_cnn" / "32" / "seed0"
    outcome = cli("evaluate", run, "--data", other, "--set", f"data.cache_dir={tmp_path / 'cache'}")
    assert outcome.status == 2
    assert "2 classes apart (dark, light), " in outcome.err
    assert "the data has 3 (dark, dusk, light); " in outcome.err
    many = make_images(tmp_path / "many", classes=tuple("abcdefg"))
    outcome = cli("evaluate", run, "--data", many, "--set", f"data.cache_dir={tmp_path / 'cache'}")
    assert "the data has 7 (a, b, c, d, e and 2 more); " in outcome.err


def test_audit_as_table_and_json(tmp_path: Path, make_images: Make, cli: Cli) -> None:
    data = make_images(tmp_path / "data")
    out = tmp_path / "audit.json"
    arguments = ["--resolutions", "32,64", "--set", f"data.cache_dir={tmp_path / 'cache'}", "--json", out]
    outcome = cli("audit", data, *arguments)
    assert outcome.status == 0, outcome.err
    assert "dark" in outcome.out
    assert json.loads(out.read_text())
    (data / "train" / "dark" / "bad.png").write_text("x")
    outcome = cli("audit", data, *arguments)
    assert outcome.status == 1
    assert "bad.png" in outcome.out


def test_acuity_writes_an_image_folder_that_run_takes(tmp_path: Path, small_run: Args, cli: Cli) -> None:
    few = ["--set", "data.acuity.train=16", "--set", "data.acuity.val=8", "--set", "data.acuity.test=8"]
    weak = ["--set", "data.acuity.size=64", "--set", "data.acuity.bands=[8]", "--set", "data.acuity.native_dprime=20"]
    outcome = cli("acuity", tmp_path / "generated", *few, *weak)
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "generated" / "manifest.json").is_file()
    assert cli(*small_run(tmp_path / "generated")).status == 0


def test_acuity_study_shows_known_answers(small_run: Args, cli: Cli) -> None:
    few = ["--set", "data.acuity.train=16", "--set", "data.acuity.val=8", "--set", "data.acuity.test=8"]
    outcome = cli(*small_run("acuity", *few, "--set", "data.acuity.bands=[8, 20]", "--set", "data.kernel=lanczos"))
    assert outcome.status == 0, outcome.err
    assert "Known answers" in outcome.out
    assert "8 cycles" in outcome.out
    assert "20 cycles" in outcome.out


def test_config_prints_what_it_takes_back(tmp_path: Path, cli: Cli) -> None:
    outcome = cli("config", "--models", "VGG11", "--set", "training.learning_rate=3e-4", "--epochs", "7")
    resolved = yaml.safe_load(outcome.out)
    assert resolved["training"]["learning_rate"] == 3e-4
    assert (resolved["sweep"]["models"], resolved["training"]["epochs"]) == (["VGG11"], 7)
    (tmp_path / "c.yaml").write_text(outcome.out)
    assert cli("config", "--config", tmp_path / "c.yaml").out == outcome.out


def test_flags_win_over_set_and_set_over_files(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "c.yaml").write_text("training: {epochs: 1, batch_size: 1, top_k: 9}\n")
    outcome = cli(
        "config", "--config", tmp_path / "c.yaml", "--set", "training.epochs=2", "--set", "training.batch_size=2",
        "--epochs", "3",
    )  # fmt: skip
    training = yaml.safe_load(outcome.out)["training"]
    assert (training["epochs"], training["batch_size"], training["top_k"]) == (3, 2, 9)


def test_doctor_checks_this_machine(tmp_path: Path, cli: Cli) -> None:
    outcome = cli("doctor", "--path", tmp_path)
    assert outcome.status == 0, outcome.out
    for word in ("torch", "cpu", "GiB free", "float32", "loss"):
        assert word in outcome.out


def test_train_is_one_cell(tmp_path: Path, make_images: Make, cli: Cli) -> None:
    outcome = cli(
        "train", "--model", "Tiny_CNN", "--resolution", "32", "--data", make_images(tmp_path / "data"), "--epochs", "1",
        "--output", tmp_path / "one", "--set", f"data.cache_dir={tmp_path / 'cache'}", "--set", "mlflow.enabled=false",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert list((tmp_path / "one").rglob("best_model.safetensors"))


def test_own_module_as_a_model(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "                         nn.Linear(4, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    allowed = ["--models", "mynet:net", "--set", "models.allow_callables=true"]
    outcome = cli(*small_run(make_images(tmp_path / "data"), *allowed))
    assert outcome.status == 0, outcome.err
    assert list((tmp_path / "study" / "checkpoints" / "custom").rglob("best_model.safetensors"))


def test_code_of_the_users_is_refused_in_the_same_words_everywhere(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Cli
) -> None:
    data = make_images(tmp_path / "data")
    said = "os:getcwd runs code of yours; allow it with --set models.allow_callables=true"
    asked = ["--model", "os:getcwd", "--weights", tmp_path / "w.safetensors", "--data", data, "--resolutions", "32"]
    cache = ["--set", f"data.cache_dir={tmp_path / 'cache'}"]
    for arguments in (small_run(data, "--models", "os:getcwd"), ["probe", *asked, *cache, *FAST_PROBE]):
        outcome = cli(*arguments)
        assert outcome.status == 2
        assert outcome.error_lines[0].endswith(said)


@pytest.mark.slow
def test_mlflow_records_the_study(tmp_path: Path, make_images: Make, small_run: Args, cli: Cli) -> None:
    from mlflow.tracking import MlflowClient

    arguments = small_run(make_images(tmp_path / "data"), "--set", "mlflow.enabled=true")
    outcome = cli(*arguments)
    assert outcome.status == 0, outcome.err
    client = MlflowClient(f"sqlite:///{tmp_path}/study/mlflow.db")
    experiment = client.get_experiment_by_name("data")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    run = runs["tiny_cnn @32 seed 0"]
    assert run.data.tags["mlflow.parentRunId"] == runs["data"].info.run_id
    assert len(client.get_metric_history(run.info.run_id, "val_accuracy")) == 2
    assert {item.path for item in client.list_artifacts(run.info.run_id)} >= {"metadata.json"}
    assert "best_test_accuracy" in run.data.metrics


def test_passwords_of_a_tracking_server_are_stored_nowhere(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    server = ["--set", "mlflow.enabled=true", "--set", "mlflow.tracking_uri=http://me:hush-hush@127.0.0.1:9"]
    outcome = cli(*small_run(make_images(tmp_path / "data"), *server))
    assert outcome.status == 0, outcome.err
    assert "training goes on without it" in caplog.text
    assert "hush" not in outcome.err + outcome.out + caplog.text
    holding = [p for p in (tmp_path / "study").rglob("*") if p.is_file() and b"hush" in p.read_bytes()]
    assert holding == []


@pytest.mark.parametrize("number", ["0", "-3"])
def test_example_script_refuses_to_explain_no_image(tmp_path: Path, number: str) -> None:
    script = [sys.executable, str(ROOT / "example_explainability.py"), "--checkpoint", str(tmp_path)]
    done = subprocess.run([*script, f"--num-samples={number}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: --num-samples: expected at least 1, got {number}\n"


@pytest.mark.slow
def test_example_script_trains(tmp_path: Path, make_images: Make) -> None:
    data = make_images(tmp_path / "data")
    done = subprocess.run(
        [sys.executable, str(ROOT / "example_gpu_training.py"), "--resolution", "32", "--model", "TINY_CNN",
         "--epochs", "1", "--data", str(data), "--output", str(tmp_path / "out"),
         "--set", f"data.cache_dir={tmp_path / 'cache'}", "--set", "mlflow.enabled=false"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tiny_cnn" in done.stdout
    assert len((ROOT / "example_gpu_training.py").read_text().splitlines()) <= 60


@pytest.mark.real_data
@pytest.mark.slow
def test_real_photographs(real_photographs: Path, small_run: Args, cli: Cli, tmp_path: Path) -> None:
    grid = ["--models", "tiny_cnn,mobilenet_v3_small", "--resolutions", "64,96", "--epochs", "1", "--batch-size", "32"]
    outcome = cli(*small_run(real_photographs, *grid))
    assert outcome.status == 0, outcome.err
    frame = pd.read_csv(tmp_path / "study" / "results.csv")
    assert list(frame["images"]) == [153] * 4
    assert frame["log_loss"].between(0.1, 3).all()
