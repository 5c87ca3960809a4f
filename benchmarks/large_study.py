"""How long do the verdict and the report of a large study take, and how much memory?

    python benchmarks/large_study.py [--models 13] [--resolutions 5] [--seeds 5] [--images 10000] [--classes 10]
                                     [--matrix] [--work DIR]

Writes a synthetic finished study with the project's own writers (predictions drawn from a model of difficulty, made-up
profiles, a folder of small images), then runs `resomap recommend` and `resomap report` on it in processes of their own
and prints seconds and peak memory of each. With a Chromium at hand it also opens the page and waits for its last plot.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from PIL import Image

from resomap.config.load import dump_config, load_config
from resomap.config.schema import ResoMapConfig
from resomap.evaluation.store import write_predictions
from resomap.layout import StudyLayout
from resomap.metrics.classification import classification_metrics
from resomap.profiling.latency import BATCH_1, SATURATED, LatencyRecord, summarise
from resomap.profiling.profiler import profile_model
from resomap.records import Cell, Condition, EpochRecord, Predictions, RunRecord
from resomap.serialize import write_json, write_text
from resomap.study import build
from resomap.study.results import write_results
from resomap.study.runs import stored_runs, write_run

SIDES = (224, 256, 320, 384, 512, 640, 768)
_PIXELS = 24
"""Side of the image files: they are only listed, and some of them shown."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("models", 13), ("resolutions", 5), ("seeds", 5), ("images", 10_000), ("classes", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--matrix", action="store_true", help="also every run at every resolution and on less detail")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="large-study-"))
    config = _config(work, given)
    root = work / "study"
    if not (root / "results.json").exists():
        started = time.perf_counter()
        write_images(work / "data", images=given.images, classes=given.classes)
        write_study(config, matrix=given.matrix)
        print(f"written in {time.perf_counter() - started:.0f} s")
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    print(f"{given.models} models x {given.resolutions} resolutions x {given.seeds} seeds x {given.images} images"
          f"{' with matrix' if given.matrix else ''}: {size / 2**20:.0f} MiB")  # fmt: skip
    command = [sys.executable, "-m", "resomap"]
    print(measured("recommend", [*command, "recommend", str(root)]))
    print(measured("report", [*command, "report", str(root)]))
    page = root / "report" / "index.html"
    print(f"page {page.stat().st_size / 2**20:.1f} MiB{opened(page, work)}")


def _config(work: Path, given: argparse.Namespace) -> ResoMapConfig:
    models = ResoMapConfig().sweep.models
    if given.models > len(models) or given.resolutions > len(SIDES):
        sys.exit(f"at most {len(models)} models and {len(SIDES)} resolutions")
    return load_config(
        None,
        [
            f"study.output={work / 'study'}", f"data.source={work / 'data'}", f"data.cache_dir={work / 'cache'}",
            f"sweep.models={models[: given.models]}", f"sweep.resolutions={list(SIDES[: given.resolutions])}",
            f"sweep.seeds={list(range(given.seeds))}", f"analysis.matrix={str(given.matrix).lower()}",
        ],
    )  # fmt: skip


def write_images(root: Path, *, images: int, classes: int) -> None:
    """A folder with train, val and test; the same number of images in val and test."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, _PIXELS, _PIXELS, 3), dtype=np.uint8)
    for split, count in (("train", 2 * classes), ("val", images), ("test", images)):
        for k in range(classes):
            folder = root / split / f"class {k:03d}"
            folder.mkdir(parents=True)
            for i in range(k, count, classes):
                Image.fromarray(pixels[i % len(pixels)]).save(folder / f"{i:06d}.png", compress_level=1)


def write_study(config: ResoMapConfig, *, matrix: bool) -> None:
    """Everything that a run of this configuration would leave behind, except weights."""
    images = build.dataset(config)
    layout = build.layout(config, images)
    cells = build.cells(config)
    ids = {split: np.array([r.image_id for r in images.splits[split]]) for split in ("val", "test")}
    labels = {split: np.array([r.label for r in images.splits[split]]) for split in ("val", "test")}
    for cell in cells:
        sides = config.sweep.resolutions
        conditions = [Condition(split, cell.resolution, cell.resolution) for split in ("val", "test")]
        extra = [Condition("test", side, side) for side in sides if side != cell.resolution]
        extra += [Condition("test", cell.resolution, side) for side in sides if side < cell.resolution]
        metrics = {}
        for condition in conditions + (extra if matrix else []):
            split = condition.split
            answers = drawn(cell, condition, ids[split], labels[split], images.class_names)
            write_predictions(layout.predictions_path(cell, condition), answers, cell=cell, condition=condition)
            if condition in conditions:
                values = classification_metrics(
                    answers.labels, answers.probabilities, class_names=answers.class_names,
                    **build.metric_options(config),
                )  # fmt: skip
                metrics[condition.name] = {**asdict(condition), "images": len(answers.labels), **values}
        family = build.family(config, cell.model)
        write_run(layout.run_record_path(cell, family), _record(cell, family, metrics))
    _write_profiles(config, layout)
    write_text(layout.config_path, f"{dump_config(config)}provenance: {{}}\n")
    about = {
        "name": "large study", "data": images.name, "class_names": images.class_names,
        "images": {split: len(records) for split, records in images.splits.items()}, "bad_files": {},
        "upsampled_share": {}, "notes": [], "metric": build.table_metric(config),
    }  # fmt: skip
    write_results(layout, stored_runs(layout), study=about)


def drawn(
    cell: Cell, condition: Condition, ids: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]
) -> Predictions:
    """Images differ in difficulty, runs in their seed; more pixels help, with diminishing returns."""
    difficulty = np.random.default_rng([7, len(condition.split)]).normal(0, 1.5, len(ids))
    model = sum(cell.model.encode()) % 13
    rng = np.random.default_rng([model, cell.resolution, cell.seed, condition.input_resolution,
                                 condition.information_resolution, len(condition.split)])  # fmt: skip
    sides = (condition.information_resolution, condition.input_resolution)
    skill = 2 + 0.05 * model - 400 / min(sides) + rng.normal(0, 0.05) - abs(np.log2(cell.resolution / sides[1]))
    right_score = skill + difficulty + rng.normal(0, 0.7, len(ids))
    scores = rng.normal(0, 1, (len(ids), len(class_names)))
    scores[np.arange(len(ids)), labels] += right_score
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return Predictions(ids, labels, (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32), class_names)


def _record(cell: Cell, family: str, metrics: dict[str, dict[str, object]]) -> RunRecord:
    epochs = tuple(EpochRecord(e, 1 / e, 0.9, 1e-3, 1.0, 100.0, None, {"loss": 1 / e}) for e in range(1, 31))
    return RunRecord(
        cell=cell, family=family, key=str(cell), determinants={}, status="finished", epochs=epochs, best_epoch=20,
        metrics=metrics, parameters=1_000_000, seconds=30.0, still_improving=False,
        provenance={"device": "cpu", "precision": "no", "python": sys.version.split()[0]},
    )  # fmt: skip


def _write_profiles(config: ResoMapConfig, layout: StudyLayout) -> None:
    """A real profile of a small network, with other names and times."""
    measured_one = profile_model(build.model(config, Cell("tiny_cnn", 32, 0), num_classes=2), resolution=32, runs=5)
    rng = np.random.default_rng(3)
    for position, model in enumerate(config.sweep.models):
        for side in config.sweep.resolutions:
            ms = (1 + position) * (1 + (side / 224) ** 2)
            timed = tuple(_timed(ms, protocol, rng) for protocol in (BATCH_1, SATURATED))
            record = replace(measured_one, model=model, resolution=side, latency=timed, device_name="made up")
            write_json(layout.profile_path(model, side), record)


def _timed(ms: float, protocol: str, rng: np.random.Generator) -> LatencyRecord:
    seconds = ms / 1000 * rng.lognormal(0, 0.03, (50, 4))
    return summarise(seconds, protocol=protocol, mode="eager", batch_size=1 if protocol == BATCH_1 else 8, draws=200)


def measured(name: str, command: list[str]) -> str:
    """Seconds and peak resident memory of a process of its own."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert child.stdout is not None
    first = child.stdout.readline().strip()
    child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"resomap {name} ended with status {os.waitstatus_to_exitcode(status)}")
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{name}: {time.perf_counter() - started:.1f} s, peak {peak / 2**30:.2f} GiB: {first}"


def opened(page: Path, work: Path) -> str:
    """Seconds until a browser has drawn the page's last plot; empty without one."""
    browser = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
    if browser is None:
        return ""
    started = time.perf_counter()
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={work / 'browser'}",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    drawn_plots = done.stdout.count("main-svg")
    return f", opened with {drawn_plots} drawings in {time.perf_counter() - started:.1f} s"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
