"""A study to its verdict: report, recommendation, matrix, probe; with hostile names, and in a browser."""

from __future__ import annotations

import base64
import errno
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import resomap
from resomap.errors import StudyError
from resomap.evaluation.store import write_predictions
from resomap.records import Cell, Condition
from resomap.study.load import load_study
from resomap.study.verdict.gain import class_detail_rows, detail_rows

CLASSES = ("<script>document.title='run'<", "ü \"quoted\" & 'single' $x$")
SMALL = [
    "--resolutions", "32,48", "--seeds", "0,1", "--epochs", "3",
    "--set", "system.profiling.enabled=true", "--set", "system.profiling.blocks=5",
    "--set", "system.profiling.max_batch=1", "--set", "system.profiling.end_to_end_images=0",
    "--set", "explainability.enabled=true", "--set", "explainability.images=6",
    "--set", "explainability.bootstrap_draws=200", "--set", "explainability.gallery=2",
    "--set", "explainability.spectral=false", "--set", "explainability.sanity=false",
    "--set", "analysis.matrix=true", "--set", "analysis.delta=0.2",
]  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/, cache/ and study/, made once by a process of its own; its output is out.txt."""
    root = tmp_path_factory.mktemp("built")
    for split, count in (("train", 16), ("val", 12), ("test", 12)):
        for k, name in enumerate(CLASSES):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                rng = np.random.default_rng([k, i, len(split), ord(split[0])])
                pixels = rng.normal(60 + 120 * k, 40, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    arguments = [
        "run", "--data", str(root / "data"), "--models", "tiny_cnn", "--batch-size", "8", "--device", "cpu",
        "--output", str(root / "study"), "--set", f"data.cache_dir={root / 'cache'}", "--set", "mlflow.enabled=false",
        *SMALL,
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "resomap", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (root / "out.txt").write_text(done.stdout)
    return root


@pytest.fixture
def study(built: Path, tmp_path: Path) -> Path:
    """A copy of the study beside its data and cache."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return tmp_path / "study"


def test_a_run_ends_with_the_verdict(study: Path, tmp_path: Path) -> None:
    sentence = json.loads((study / "analysis/verdict.json").read_text())["recommendation"]["sentence"]
    assert (tmp_path / "out.txt").read_text().rstrip().splitlines()[-2] == sentence


@pytest.fixture
def browser() -> str:
    """The path of a Chromium."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    path = next((path for path in found if path), None)
    if path is None:
        pytest.skip("no Chromium on this machine to open the report in")
    return path


def test_the_report_is_one_file_and_escapes_names(study: Path) -> None:
    page = (study / "report/index.html").read_text()
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.S)  # our own scripts contain addresses as text
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|\#)""", own)
    assert "<script>document.title" not in page
    assert "&lt;script&gt;document.title" in page
    sections = ("verdict", "evidence", "curves", "front", "matrix", "detail", "classes", "images", "gallery")
    for section in (*sections, "consistency"):
        assert f'id="{section}"' in page, section
    for shown in (
        "Chance on test, ",
        "Hypervolume",
        "Cochran&#39;s Q",
        "McNemar p (Holm)",
        "Gain of recall of each class",
    ):
        assert shown in page, shown
    assert (study / "report/table.tex").read_text().count(" px") == 2
    assert (
        "macro F1 on test (24 images, 2 seeds), 95 % intervals over images and seeds"
        in (study / "summary.txt").read_text()
    )


CHECK = """
const first = document.querySelector("table.sortable tbody tr td").textContent;
const buttons = document.querySelectorAll("table.sortable th button");
buttons[2].click(); buttons[2].click();
const falling = [...buttons[2].closest("table").tBodies[0].rows].map(r => parseFloat(r.cells[2].textContent));
const slider = document.querySelector("input[type=range]");
slider.value = 1; slider.dispatchEvent(new Event("input"));
const shown = [...slider.closest(".gallery").querySelectorAll(".at")].filter(e => !e.hidden).map(e => e.dataset.at);
document.body.dataset.result = JSON.stringify({
  title: document.title, falling, shown, side: document.querySelector("output").textContent,
  plots: document.querySelectorAll(".plot .main-svg").length,
  requests: performance.getEntriesByType("resource").length});
"""


def opened_in(browser: str, page: str, folder: Path) -> tuple[dict, str]:
    """What CHECK found in the page, and what the browser logged; the policy is told of CHECK."""
    digest = base64.b64encode(hashlib.sha256(CHECK.encode()).digest()).decode()
    probe = folder / "probe.html"
    page = page.replace("; style-src", f" &#39;sha256-{digest}&#39;; style-src", 1)
    probe.write_text(page.replace("</body>", f"<script>{CHECK}</script></body>"))
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=10000",
        "--enable-logging=stderr",
    ]
    done = subprocess.run(
        [browser, *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'data-result="([^"]*)"', done.stdout)
    assert found, done.stderr + done.stdout[-2000:]
    return json.loads(html.unescape(found.group(1))), done.stderr


def test_the_report_works_in_a_browser_and_names_are_not_run(study: Path, browser: str, tmp_path: Path) -> None:
    page = (study / "report/index.html").read_text()
    result, logged = opened_in(browser, page, tmp_path)
    assert "CONSOLE" not in logged, logged
    assert result["title"].endswith("ResoMap")
    assert result["falling"] == sorted(result["falling"], reverse=True)
    assert set(result["shown"]) == {"1"}
    assert result["side"] == "48"
    assert result["plots"] >= 3
    assert result["requests"] == 0


def test_the_reports_policy_stops_scripts_and_requests_that_get_into_the_page(
    study: Path, browser: str, tmp_path: Path
) -> None:
    hostile = """<script>document.title = "run"</script><img src="x" onerror="document.title='run'">
<a href="javascript:document.title='run'" id="link">x</a><script src="https://example.com/x.js"></script>
<link rel="stylesheet" href="https://example.com/x.css">
<iframe srcdoc="<script>parent.document.title='run'</script>"></iframe>
<base href="https://example.com/"><form action="https://example.com/"><button></button></form>"""
    page = (study / "report/index.html").read_text()
    assert "unsafe-eval" not in page.split("<title>")[0]
    result, logged = opened_in(browser, page.replace("<main>", f"<main>{hostile}"), tmp_path)
    assert result["title"].endswith("ResoMap")
    assert result["plots"] >= 3
    assert logged.count("violates the following Content Security Policy directive") >= 4, logged


def test_images_that_turn_are_counted_named_and_shown(study: Path, cli: Callable, tmp_path: Path) -> None:
    """Predictions are replaced by known ones: of 24 images two turn right and one turns wrong from 32 to 48 px."""
    opened = load_study(study)
    for side in (32, 48):
        for seed in (0, 1):
            cell, condition = Cell("tiny_cnn", side, seed), Condition("test", side, side)
            stored = opened.read(cell, "test")
            wrong = [0, 23] if side == 32 else [5]
            answers = stored.labels.copy()
            answers[wrong] = 1 - answers[wrong]
            probabilities = np.eye(2, dtype=np.float32)[answers]
            write_predictions(
                opened.layout.predictions_path(cell, condition), replace(stored, probabilities=probabilities),
                cell=cell, condition=condition,
            )  # fmt: skip
    ids = load_study(study).read(Cell("tiny_cnn", 32, 0), "test").image_ids
    assert cli("report", study, "--set", "explainability.enabled=false").status == 0
    (turned,) = json.loads((study / "analysis/verdict.json").read_text())["flips"]
    assert (turned["gained"], turned["lost"]) == (2, 1)
    assert [e["image_id"] for e in turned["examples"]["gained"]] == [ids[0], ids[23]]
    assert [[a["right"] for a in e["answers"]] for e in turned["examples"]["lost"]] == [[1.0, 0.0]]
    page = (study / "report/index.html").read_text()
    assert "2 images right only with more pixels (32 to 48 px)" in page
    assert page.count("as given to the model at 48 px") == 3
    needs = pd.read_csv(study / "analysis/images.csv").set_index("image_id")["tiny_cnn"]
    assert needs[ids[0]] == 48
    assert needs.isna().sum() == 1
    assert (needs == 32).sum() == 21
    # The data set is gone: the page has no galleries, and all the rest.
    outcome = cli("report", study, "--data", tmp_path / "gone")
    assert outcome.status == 0, outcome.err
    page = (study / "report/index.html").read_text()
    assert "as given to the model" not in page
    assert "turn right" in page


def test_an_answer_is_written_before_it_is_printed(
    study: Path, cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`resomap recommend ... --json FILE | head -1`: who reads what is printed has seen enough."""

    def closed(*_: object) -> None:
        raise OSError(errno.EPIPE, "nobody reads on")

    monkeypatch.setattr("resomap.cli.recommend_command.print_recommendation", closed)
    cli("recommend", study, "--json", tmp_path / "answer.json")
    assert json.loads((tmp_path / "answer.json").read_text())["options"]


def test_recommend_answers_and_refuses(study: Path, cli: Callable, tmp_path: Path) -> None:
    outcome = cli("recommend", study, "--delta", "0.2", "--json", tmp_path / "answer.json")
    assert outcome.status == 0, outcome.err
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert outcome.out.startswith(answer["sentence"])
    assert {o["resolution"] for o in answer["options"]} == {32, 48}
    assert any("fewer than 3 seeds" in line for line in answer["warnings"])
    assert cli("recommend", study, "--json", tmp_path / "terms.json").status == 0
    terms = json.loads((tmp_path / "terms.json").read_text())
    assert (terms["metric"], terms["delta"]) == ("macro_f1", 0.2)  # the study's own
    assert cli("recommend", study, "--max-latency-ms", "0.0001").out.startswith("No option fits the budget")
    refused = {
        "--delta=2": "--delta: expected a share",
        "--max-latency-ms=-1": "expected a number above 0",
        "--min-accuracy=90": "0.9 is 90 %",
        "--min-accuracy=1": "from 0 to below 1",
    }
    for wrong, said in refused.items():
        outcome = cli("recommend", study, wrong)
        assert outcome.status == 2
        assert said in outcome.error_lines[0]
    assert cli("recommend", study, "--device", "cpu").status == 0
    assert "cost was measured on" in cli("recommend", study, "--device", "cuda").error_lines[0]
    assert "is no study" in cli("recommend", tmp_path).error_lines[0]
    shutil.rmtree(study / "profiles")
    assert "has no profile; run `resomap profile" in cli("recommend", study).error_lines[0]


def test_latencies_of_different_hardware_are_not_ranked(study: Path, cli: Callable) -> None:
    """As if 48 px had been profiled with other threads: no verdict, one line, and a whole profile mends it."""
    path = study / "profiles/tiny_cnn/48.json"
    profile = json.loads(path.read_text())
    threads = profile["threads"]
    path.write_text(json.dumps(profile | {"threads": threads + 6}))
    again = f"`resomap profile --config {study}/study.yaml --models tiny_cnn --resolutions 32,48`"
    outcome = cli("recommend", study)
    assert outcome.status == 2
    (line,) = outcome.error_lines
    assert "tiny_cnn @32 from" in line
    assert f"tiny_cnn @48 from {profile['device_name']} (cpu), {threads + 6} threads" in line
    assert again in line
    assert cli("recommend", study, "--device", "cpu").status == 2  # a device's name does not make them equal
    path.write_text(json.dumps(profile | {"device": "cuda:0", "device_name": "a card"}))
    for device in ("cpu", "cuda:0"):
        outcome = cli("recommend", study, "--device", device)
        assert outcome.status == 2
        assert f"cost was measured on {profile['device_name']} (cpu)" in outcome.error_lines[0]
        assert "a card (cuda:0)" in outcome.error_lines[0]
        assert f", got {device}; run `resomap profile" in outcome.error_lines[0]

    # A run that leaves the odd profile alone ends without a verdict; one of the whole grid measures both again.
    quick = ["--set", "explainability.enabled=false", "--set", "analysis.matrix=false"]
    outcome = cli("run", "--config", study / "study.yaml", "--output", study, "--resolutions", "32", *quick)
    assert outcome.status == 1
    assert "not done: report: expected latencies from one kind of hardware" in outcome.err
    assert "Traceback" not in outcome.err
    assert json.loads((study / "analysis/verdict.json").read_text())["recommendation"]["sentence"] not in outcome.out
    outcome = cli("run", "--config", study / "study.yaml", "--output", study, "--resolutions", "32,48", *quick)
    assert outcome.status == 0, outcome.err
    assert cli("recommend", study, "--device", "cpu").status == 0


_CONDITION = ("input_resolution", "information_resolution", "weights")


def test_matrix_and_split_of_the_gain(study: Path, cli: Callable) -> None:
    outcome = cli("matrix", study, "--weights", "as_trained,bn_reestimated,head_finetuned")
    assert outcome.status == 0, outcome.err
    for kind in ("as_trained", "bn_reestimated", "head_finetuned"):
        assert f"tiny_cnn, {kind}: macro F1 on test" in outcome.out
    opened = load_study(study)
    rows = detail_rows(opened, metric="accuracy")
    assert [(row["low_resolution"], row["high_resolution"]) for row in rows] == [(32, 48)]
    for row in rows:
        assert row["size"]["value"] + row["detail"]["value"] == pytest.approx(row["total"]["value"], abs=1e-12)
    by_class = class_detail_rows(opened)
    assert [row["name"] for row in by_class] == sorted(CLASSES)
    for row in by_class:
        assert row["size"]["value"] + row["detail"]["value"] == pytest.approx(row["total"]["value"], abs=1e-12)
        assert row["total"]["low"] <= row["total"]["value"] <= row["total"]["high"]
    # As many images of each class: the mean over classes is that of accuracy.
    assert np.mean([row["detail"]["value"] for row in by_class]) == pytest.approx(rows[0]["detail"]["value"])
    # One row for each run and condition other than its own, in a table and as predictions.
    table, kinds = opened.conditions, {"as_trained": 1 + 0.5, "bn_reestimated": 2, "head_finetuned": 2}
    assert table["weights"].value_counts().to_dict() == {kind: 2 * 2 * count for kind, count in kinds.items()}
    assert not table.duplicated(["model", "resolution", "seed", "split", *_CONDITION]).any()
    for _, row in table.iterrows():
        condition = Condition(row["split"], *(row[name] for name in _CONDITION))
        answers = opened.predictions(row["model"], row["resolution"], row["seed"], condition=condition)
        assert (answers["label"] == answers["prediction"]).mean() == pytest.approx(row["accuracy"])
    with pytest.raises(StudyError, match="was not evaluated under test-in64-info64-as_trained"):
        opened.predictions("tiny_cnn", 48, 1, condition=Condition("test", 64, 64))
    # The diagonal of the matrix is what the run itself found.
    own = opened.results[(opened.results["split"] == "test") & (opened.results["resolution"] == 48)]["macro_f1"].mean()
    table = json.loads((study / "analysis/verdict.json").read_text())["matrix"]["tiny_cnn"]
    assert table["values"][1][1] == pytest.approx(own)
    assert cli("report", study).status == 0
    page = (study / "report/index.html").read_text()
    what = "mean macro F1 on test (24 images, 2 seeds)"
    assert f"tiny_cnn: {what}, rows trained at" in page
    assert f"tiny_cnn, BatchNorm statistics estimated anew at the test size: {what}, rows trained at" in page
    assert f"tiny_cnn, head and BatchNorm trained on at the test size: {what}, rows trained at" in page
    assert cli("matrix", study, "--weights", "best").status == 2
    refused = cli("matrix", study, "--set", "training.batch_size=3")
    assert refused.status == 2
    assert "training.batch_size: 8 -> 3" in refused.error_lines[0]


def test_no_stage_mixes_other_images_in(
    study: Path, cli: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data/test" / CLASSES[0] / "000.png").unlink()
    for command in (
        ["matrix", study], ["explain", study], ["profile", "--config", study / "study.yaml", "--output", study],
    ):  # fmt: skip
        before = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
        outcome = cli(*command, "--data", tmp_path / "data")
        assert outcome.status == 2
        (line,) = outcome.error_lines
        assert "(then -> now): test: 24 -> 23 images (1 gone, such as test/" in line
        assert {path: path.stat().st_mtime_ns for path in study.rglob("*")} == before
    outcome = cli("report", study, "--data", tmp_path / "data")  # all of it but the pictures
    assert outcome.status == 0
    assert "the report has no galleries: " in caplog.text


def test_a_target_that_cannot_be_written_is_told_before_anything_is_measured(
    study: Path, cli: Callable, tmp_path: Path
) -> None:
    profiling = ("profile", "--config", study / "study.yaml", "--json", tmp_path)
    for command in (profiling, ("recommend", study, "--json", tmp_path)):
        outcome = cli(*command)
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err.splitlines()[-1] == (
            f"error: cannot write {tmp_path}: a folder stands where a file is needed; give the name of a file"
        )
        assert "..." not in outcome.err  # no stage began


def test_detail_that_an_image_does_not_have_cannot_be_gained(
    tmp_path: Path, make_images: Callable[..., Path], cli: Callable, small_run: Callable
) -> None:
    """Images of 32 px, inputs of 32 and 48 px: the larger input holds the same detail, to the last bit."""
    data = make_images(tmp_path / "tiny", size=(32, 32))
    outcome = cli(*small_run(data, "--resolutions", "32,48", "--seeds", "0,1", "--set", "analysis.matrix=true"))
    assert outcome.status == 0, outcome.err
    (row,) = detail_rows(load_study(tmp_path / "study"), metric="accuracy")
    assert row["detail"]["value"] == 0
    assert row["detail"]["low"] <= 0 <= row["detail"]["high"]
    assert row["size"]["value"] == row["total"]["value"]
    assert any("smaller than 48 px" in note for note in load_study(tmp_path / "study").about["notes"])


def test_probe_of_a_checkpoint_gives_the_predictions_of_evaluate(study: Path, cli: Callable, tmp_path: Path) -> None:
    run = study / "checkpoints/cnn/tiny_cnn/48/seed0"
    common = ["--data", tmp_path / "data", "--set", f"data.cache_dir={tmp_path / 'cache'}",
              "--set", "system.profiling.blocks=5", "--set", "system.profiling.precision=null"]  # fmt: skip
    out = tmp_path / "probed"
    outcome = cli("probe", *common, "--checkpoint", run, "--resolutions", "32,48", "--output", out)
    assert outcome.status == 0, outcome.err
    assert "val at 2 sizes" in outcome.err
    assert "(24 images, 1 seed); " in outcome.out
    assert "one network trained at one size" in outcome.out
    evaluated = tmp_path / "evaluated.parquet"
    assert cli("evaluate", run, *common[:4], "--predictions", evaluated).status == 0
    ours, theirs = pd.read_parquet(out / "test-in48-info48-as_trained.parquet"), pd.read_parquet(evaluated)
    assert ours["image_id"].tolist() == theirs["image_id"].tolist()
    np.testing.assert_array_equal(np.stack(ours["probabilities"]), np.stack(theirs["probabilities"]))
    assert "expected either --checkpoint, or --model with --weights" in cli("probe", *common).error_lines[0]
    weights = run / "best_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(weights).items() if tensor.shape[:1] != (len(CLASSES),)}
    save_file(tensors, tmp_path / "headless.safetensors")
    named = ("probe", *common, "--model", "tiny_cnn", "--resolutions", "32,48", "--output", tmp_path / "named")
    outcome = cli(*named, "--weights", tmp_path / "headless.safetensors")
    assert outcome.status == 2
    assert f"has no classifier for the {len(CLASSES)} classes of the data" in outcome.error_lines[0]
    assert cli(*named, "--weights", weights).status == 0
    assert cli("probe", *common, "--checkpoint", run, "--resolutions", "a,b").status == 2


def test_an_exported_run_answers_like_the_study(study: Path, cli: Callable, tmp_path: Path) -> None:
    import onnxruntime

    out = tmp_path / "exported"
    outcome = cli("export", study, "--output", out, "--model", "Tiny-CNN", "--resolution", "48", "--seed", "1")
    assert outcome.status == 0, outcome.err
    assert "same answers to 16 images" in outcome.out
    weights = (out / "best_model.safetensors").read_bytes()
    named = study / "checkpoints/cnn/tiny_cnn/48/seed1"
    for run in (named, named / "best_model.safetensors"):
        assert cli("export", study, "--output", out, "--run", run).status == 0
        assert (out / "best_model.safetensors").read_bytes() == weights
    for wrong, said in (((named, "--seed", "1"), "leave out"), ((tmp_path,), "expected a run's folder in")):
        refused = cli("export", study, "--output", out, "--run", *wrong)
        assert refused.status == 2
        assert said in refused.error_lines[0]
    recipe = json.loads((out / "preprocessing.json").read_text())
    assert (recipe["resolution"], recipe["class_names"]) == (48, sorted(CLASSES))
    # By the words of preprocessing.json alone, with Pillow, as somebody who deploys would do it.
    stored = load_study(study).predictions("TINY_CNN", 48, 1)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    for _, row in stored.iloc[:4].iterrows():
        with Image.open(tmp_path / "data" / row["image_id"]) as picture:
            scale = 48 / min(picture.size)
            size = tuple(max(48, round(side * scale)) for side in picture.size)
            resized = picture.convert("RGB").resize(size, Image.Resampling[recipe["kernel"].upper()])
        left, top = ((side - 48) // 2 for side in resized.size)
        values = np.asarray(resized.crop((left, top, left + 48, top + 48)), dtype=np.float32) / 255
        values = ((values - recipe["mean"]) / recipe["std"]).transpose(2, 0, 1)[None].astype(np.float32)
        logits = session.run(["logits"], {"images": values})[0][0]
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        np.testing.assert_allclose(probabilities, row.filter(like="p_").to_numpy(dtype=float), atol=2e-3)
    outcome = cli("export", study, "--output", out, "--model", "vgg11", "--resolution", "48")
    assert outcome.status == 2
    assert "no finished run of vgg11 @48" in outcome.error_lines[0]


def test_export_writes_over_no_run(study: Path, cli: Callable, tmp_path: Path) -> None:
    runs = study / "checkpoints/cnn/tiny_cnn"
    (tmp_path / "own").mkdir()
    for name in ("best_model.safetensors", "metadata.json"):  # a checkpoint of resomap.Trainer: without run.json
        shutil.copy(runs / "32/seed0" / name, tmp_path / "own" / name)
    (tmp_path / "link").symlink_to(runs)
    before = {path: path.read_bytes() for root in (study, tmp_path / "own") for path in root.rglob("*.safetensors")}
    chosen = ("export", study, "--model", "tiny_cnn", "--resolution", "48", "--seed", "1", "--output")
    for folder in (runs / "32/seed0", tmp_path / "own", runs / "32/new", study / "checkpoints", tmp_path / "link/64"):
        refused = cli(*chosen, folder)
        assert (refused.status, len(refused.error_lines)) == (2, 1), refused.err
        assert "holds a run or lies among the runs of a study; choose another" in refused.error_lines[0]
    refused = cli(*chosen, study)
    assert (refused.status, len(refused.error_lines)) == (2, 1), refused.err
    assert refused.error_lines[0].endswith("which is a study; choose another")
    assert not (study / "model.onnx").exists()
    assert {path: path.read_bytes() for path in before} == before
    assert not (runs / "32/new").exists()
    # Another name of an earlier export's file keeps its content.
    out, kept = tmp_path / "out", tmp_path / "kept.safetensors"
    assert cli(*chosen, out).status == 0
    kept.hardlink_to(out / "best_model.safetensors")
    assert cli("export", study, "--run", runs / "32/seed0", "--output", out).status == 0
    assert kept.read_bytes() == before[runs / "48/seed1/best_model.safetensors"]
    assert (out / "best_model.safetensors").read_bytes() == before[runs / "32/seed0/best_model.safetensors"]


def test_a_study_opens_as_tables(study: Path) -> None:
    opened = resomap.load_study(study)
    assert opened.class_names == tuple(sorted(CLASSES))
    assert set(opened.latency["protocol"]) == {"batch1", "saturated"}
    answers = opened.predictions("tiny_cnn", 48, 1)
    assert len(answers) == 24
    assert answers.filter(like="p_").sum(axis=1).to_numpy() == pytest.approx(np.ones(24), abs=1e-5)
    labels, predicted = opened.stack("tiny_cnn", "test")
    assert predicted.shape == (2, 2, 24)
    accuracy = opened.results.query("split == 'test' and resolution == 48 and seed == 1")["accuracy"].item()
    assert (predicted[1, 1] == labels).mean() == pytest.approx(accuracy)


def test_the_notebook_runs_from_the_first_cell_to_the_last(
    study: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUDY", str(study))
    notebook = json.loads((Path(__file__).parents[2] / "docs/study.ipynb").read_text())
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["found"].sentence in capfd.readouterr().out


def test_a_stage_that_fails_costs_no_other(
    tmp_path: Path,
    make_images: Callable[..., Path],
    cli: Callable,
    small_run: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device error while profiling: the table is printed, the study is whole, and the line names the stage."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("resomap.study.costs.profile.profile_study", broken)
    data = make_images(tmp_path / "data")
    outcome = cli(*small_run(data, "--set", "system.profiling.enabled=true", "--set", "analysis.matrix=true"))
    assert outcome.status == 1
    assert "not done: profiling: RuntimeError('CUDA error" in outcome.err
    assert "mean over seeds" in outcome.out
    assert len(load_study(tmp_path / "study").results) == 2  # val and test
    assert any("info32" in path.name for path in (tmp_path / "study").rglob("*.parquet"))
