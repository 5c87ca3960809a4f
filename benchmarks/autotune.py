"""Does autotune choose well, and does its choice train as well?

    python benchmarks/autotune.py choice [--pairs tiny_cnn:224,...] [--rounds 5]
    python benchmarks/autotune.py accuracy [--seeds 3]

choice: for each model and size autotune searches as for a long training (30 epochs of 1200 images, 3 seeds); then every
setting (precision x memory format x micro-batch) is timed by the real Trainer on whole updates of 32 images, all in
turn, `--rounds` times after one to warm up. Printed: the choice, the best of the exhaustive search, and the time of the
choice over that of the best (medians), with what the search took as a share of that training.

accuracy: two studies of the acuity set (tiny_cnn at 64 and 96 px), one with autotune and one without, all seeds alike:
accuracy on test of each, and their difference beside the standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from resomap import load_config, run_study
from resomap.allocator import keep_freed_memory
from resomap.models.registry import build_model
from resomap.records import Cell
from resomap.training.autotune import Options, Setting, micro_batches, tune
from resomap.training.trainer import Trainer

BATCH, IMAGES = 32, 30 * 1200 * 3
PAIRS = (
    "tiny_cnn:64,tiny_cnn:224,mobilenet_v3_small:128,mobilenet_v3_small:224,mobilenet_v2:128,resnet18:128"
)  # fmt: skip
OPTIONS = Options(precisions=("no", "bf16"), formats=(True, False), micro_batches=micro_batches(BATCH))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choice", "accuracy"))
    parser.add_argument("--pairs", default=PAIRS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    keep_freed_memory()  # as the command line does
    if given.what == "accuracy":
        compare_accuracy(seeds=given.seeds)
        return
    for pair in given.pairs.split(","):
        model, side = pair.split(":")
        compare_choice(model, int(side), rounds=given.rounds)


def compare_choice(model: str, side: int, *, rounds: int) -> None:
    found = tune(
        build_model(model, num_classes=2, seed=0), OPTIONS,
        sides=[side], images=IMAGES, num_classes=2, device=torch.device("cpu"),
    )  # fmt: skip
    chosen = Setting(found.precision, found.channels_last[side], found.micro_batch)
    trainers = {setting: trainer(model, side, setting) for setting in OPTIONS.settings()}
    seconds: dict[Setting, list[float]] = {setting: [] for setting in trainers}
    for round_ in range(rounds + 1):
        for setting, one in trainers.items():
            started = time.perf_counter()
            one.train_epoch()
            if round_:
                seconds[setting].append(time.perf_counter() - started)
    medians = {setting: statistics.median(values) for setting, values in seconds.items()}
    best = min(medians, key=medians.__getitem__)
    ratios = sorted(a / b for a, b in zip(seconds[chosen], seconds[best], strict=True))
    share = found.seconds / (IMAGES * medians[chosen] / BATCH)
    print(
        f"{model:19s} {side:4d}  choice {words(chosen):20s} best {words(best):20s} choice / best "
        f"{medians[chosen] / medians[best]:.3f} ({ratios[0]:.2f}-{ratios[-1]:.2f})  untuned / choice "
        f"{medians[OPTIONS.first] / medians[chosen]:.2f}  worst / choice "
        f"{max(medians.values()) / medians[chosen]:.1f}  {BATCH / medians[chosen]:6.1f} images/s  "
        f"search {found.seconds:4.1f} s = {share:.2%} of the training",
        flush=True,
    )


def trainer(model: str, side: int, setting: Setting) -> Trainer:
    """Trains one update of BATCH images an epoch."""
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.rand(BATCH, 3, side, side, generator=generator)
    labels_B = torch.arange(BATCH) % 2
    micro = setting.micro_batch
    batches = list(zip(images_BCHW.split(micro), labels_B.split(micro), strict=True))
    return Trainer(
        build_model(model, num_classes=2, seed=0), batches, epochs=10_000, device="cpu", schedule="constant",
        mixed_precision=setting.precision, channels_last=setting.channels_last, accumulation_steps=len(batches),
    )  # fmt: skip


def words(setting: Setting) -> str:
    precision = "fp32" if setting.precision == "no" else setting.precision
    return f"{precision} {'NHWC' if setting.channels_last else 'NCHW'} {setting.micro_batch}"


def compare_accuracy(*, seeds: int) -> None:
    values = {}
    with tempfile.TemporaryDirectory() as folder:
        for tuned in (True, False):
            result = run_study(
                load_config(
                    overrides=[
                        "data.source=acuity", "data.kernel=lanczos", "data.augmentation.crop=center",
                        "data.augmentation.brightness=0", "data.augmentation.contrast=0",
                        "data.augmentation.saturation=0", "sweep.models=[tiny_cnn]", "sweep.resolutions=[64, 96]",
                        f"sweep.seeds={list(range(seeds))}", "training.epochs=5", "training.batch_size=32",
                        "training.learning_rate=3e-3", "mlflow.enabled=false", f"system.autotune={str(tuned).lower()}",
                        f"study.output={Path(folder) / str(tuned)}",
                    ]
                )
            )  # fmt: skip
            values[tuned] = table(result.read_records())
    for side in (64, 96):
        with_, without = (np.array([values[tuned][Cell("tiny_cnn", side, s)] for s in range(seeds)], dtype=object)
                          for tuned in (True, False))  # fmt: skip
        a, b = (np.array([float(v[0]) for v in rows]) for rows in (with_, without))
        spread = float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
        print(
            f"tiny_cnn {side} px  {with_[0][1]:12s} {a.mean():.4f} ({shown(a)})  {without[0][1]:12s} {b.mean():.4f} "
            f"({shown(b)})  difference {a.mean() - b.mean():+.4f}, standard deviation over seeds {spread:.4f}  "
            f"training {sum(v[2] for v in without) / sum(v[2] for v in with_):.2f} times as fast"
        )


def table(records) -> dict:  # type: ignore[no-untyped-def,type-arg]
    """cell -> (accuracy on test, how it was trained, seconds of its epochs)."""
    found = {}
    for record in records:
        settings = record.determinants["protocol"]
        how = f"{settings['system']['mixed_precision']} {settings['training']['micro_batch']}"
        test = next(c for c in record.metrics.values() if c["split"] == "test")
        found[record.cell] = (test["accuracy"], how, sum(e.seconds for e in record.epochs))
    return found


def shown(values: np.ndarray) -> str:
    return " ".join(f"{v:.4f}" for v in values)


if __name__ == "__main__":
    main()
