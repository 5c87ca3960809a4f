"""Time per image and memory from a thousand images to a hundred thousand: where does either grow faster than the work?

    python benchmarks/scaling.py [--images 1000,10000,100000] [--study]

Different 64 px JPEGs in two class folders. Each stage of a study, in a process of its own for each count: listing and
splitting (with the search for copies), hashing, decoding into the store, training (tiny_cnn at 64 px, a bounded number
of updates), evaluation with metrics and stored predictions, then listing, hashing and opening the store a second time.
With --study the largest count also goes through `resomap run` for an epoch; the memory of its process is printed over
time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from resomap.config.load import load_config
from resomap.data.loaders import EvalLoader
from resomap.evaluation.predict import predict
from resomap.evaluation.store import write_predictions
from resomap.metrics.classification import classification_metrics
from resomap.records import Cell, Condition
from resomap.study import build
from resomap.training.events import Callback
from resomap.training.ranks import Ranks
from resomap.training.trainer import Trainer

SIDE, BATCH = 64, 64
LONGEST_EPOCH = 300
"""Updates timed."""


def write_images(folder: Path, count: int) -> None:
    """Different smooth pictures, a few tenths of a millisecond each."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (folder / name).mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(folder / "ab"[i % 2] / f"{i}.jpg")


def settings(folder: Path) -> list[str]:
    return [
        f"data.source={folder / 'images'}", f"data.cache_dir={folder / 'cache'}", "sweep.models=tiny_cnn",
        f"sweep.resolutions={SIDE}", "sweep.seeds=0", f"training.batch_size={BATCH}", "training.epochs=1",
        "system.device=cpu", "mlflow.enabled=false", f"study.output={folder / 'study'}",
    ]  # fmt: skip


def measure(folder: Path) -> dict[str, Any]:
    """Microseconds an image of each stage, and the memory after it."""
    found: dict[str, Any] = {}

    def timed(stage: str, images: int, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - started
        found[stage] = {"us": 1e6 * seconds / images, "images": images, **memory_mib("self")}
        return result

    config = load_config(overrides=settings(folder))
    build.settle_process(config)
    every = sum(1 for _ in (folder / "images").rglob("*.jpg"))
    for turn in ("", ", again"):
        images = timed(f"list and split{turn}", every, partial(build.dataset, config))
        timed(f"hash{turn}", every, partial(build.fingerprint, config, images))
        opened = partial(build.stores, config, images, on_progress=lambda *_: None)
        stores = timed(f"store{turn}", every, opened)
        if not turn:
            cell, options = Cell("tiny_cnn", SIDE, 0), {"device_type": "cpu", "ranks": Ranks()}
            network = build.model(config, cell, num_classes=2)
            loader = build.train_loader(config, stores["train"], cell, **options)
            updates = min(LONGEST_EPOCH, loader.updates_per_epoch)
            trainer = build.trainer(config, network, (loader, None), cell=cell, callbacks=[Bounded()])
            timed("train", min(updates * BATCH, len(stores["train"])), partial(train, trainer))
            tested = build.eval_loader(config, stores["test"], cell, **options)
            timed("evaluate", len(stores["test"]), partial(evaluate, network, tested, folder))
    return found


class Bounded(Callback):
    """Stops an epoch that is long."""

    def on_update_end(self, trainer: Trainer) -> None:
        if trainer.update == LONGEST_EPOCH:
            trainer.request_stop()


def train(trainer: Trainer) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        trainer.fit()


def evaluate(network: nn.Module, loader: EvalLoader, folder: Path) -> None:
    answers = predict(network, loader, device="cpu")
    classification_metrics(answers.labels, answers.probabilities, class_names=answers.class_names)
    path = folder / "predictions.parquet"
    write_predictions(path, answers, cell=Cell("tiny_cnn", SIDE, 0), condition=Condition("test", SIDE, SIDE))


def memory_mib(process: str | int) -> dict[str, float]:
    """Resident memory, and what of it is the process's own (the rest are pages of files, which the kernel may drop)."""
    words = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return {name: int(words[key].split()[0]) / 1024 for name, key in (("resident", "VmRSS"), ("own", "RssAnon"))}


def run_study(folder: Path) -> None:
    words = [word for setting in settings(folder) for word in ("--set", setting)]
    command = [sys.executable, "-m", "resomap", "run", *words, "--set", "explainability.spectral=false"]
    started = time.monotonic()
    seen = []
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            seen.append((time.monotonic() - started, memory_mib(process.pid)))
            time.sleep(2)
    if process.returncode:
        raise SystemExit((folder / "log").read_text()[-3000:])
    shown = seen[:: max(1, len(seen) // 12)]
    for at, used in shown:
        print(f"    {at:5.0f} s: resident {used['resident']:6.0f} MiB, own {used['own']:6.0f} MiB")
    peak = {key: max(used[key] for _, used in seen) for key in ("resident", "own")}
    print(f"study: {seen[-1][0]:.0f} s, peak resident {peak['resident']:.0f} MiB, own {peak['own']:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="1000,10000,100000")
    parser.add_argument("--study", action="store_true")
    parser.add_argument("--stages-of", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stages_of:
        print(json.dumps(measure(given.stages_of)))
        return
    counts = [int(count) for count in given.images.split(",")]
    found = []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_images(folder / "images", count)
            words = [sys.executable, __file__, "--stages-of", name]
            found.append(json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout))
            print(f"{count} images: resident {peak_of(found[-1], 'resident'):.0f} MiB", file=sys.stderr, flush=True)
            if given.study and count == counts[-1]:
                run_study(folder)
    print("us an image".ljust(24) + "".join(f"{count:>10}" for count in counts) + "   last / first")
    for stage in found[0]:
        times = [each[stage]["us"] for each in found]
        print(stage.ljust(24) + "".join(f"{us:10.1f}" for us in times) + f"   {times[-1] / times[0]:.2f}")
    for kind in ("resident", "own"):
        print(f"peak {kind}, MiB".ljust(24) + "".join(f"{peak_of(each, kind):10.0f}" for each in found))


def peak_of(found: dict[str, Any], kind: str) -> float:
    return max(stage[kind] for stage in found.values())


if __name__ == "__main__":
    main()
