"""What ImageNet-1k x 13 models x 5 resolutions x 3 seeds takes: hours, memory, storage, network; and 100 times that.

    python benchmarks/scale_plan.py [--epochs 30] [--batch-size 256] [--gib 24]

The plan's own model (study/costs/forecast.py, schedule.py) on shapes, with one thing assumed instead of timed: the
speed of the GPU. Taken from timm's published table of training throughput at 224 px (IMAGES_PER_S), it is turned into
operations a second by counting the model's operations, and these are held constant over resolutions. Measured here, by
this process's own time: what a core can decode, what a predictions file weighs, what a list of images weighs.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measure import photographs

from resomap.config.load import load_config
from resomap.config.schema import ResoMapConfig
from resomap.data.augmentation import AugmentationSettings
from resomap.data.hashes import content_hashes
from resomap.data.loaders import TrainLoader
from resomap.data.pyramid import StoreSettings, open_store
from resomap.evaluation.store import write_predictions
from resomap.models.registry import count_parameters
from resomap.profiling.complexity import get_model_complexity
from resomap.profiling.memory import largest_micro_batch, predict_memory
from resomap.records import Cell, Condition, ImageRecord, Predictions
from resomap.study import build
from resomap.study.costs.disk import study_bytes
from resomap.study.costs.forecast import SHARE_OF_FREE, run_seconds
from resomap.study.costs.schedule import longest_first, lower_bound, makespan

COUNTS = {"train": 1_231_167, "val": 50_000, "test": 50_000}
"""ILSVRC 2012: 50,000 of the 1,281,167 training images decide, the official validation images test."""
CLASSES, JPEG_BYTES, PIXELS = 1000, 115_000, 500 * 375
"""Mean bytes of a file (the training archive has 147.9 GB), and pixels of a common one."""
IMAGES_PER_S = {
    "vgg11": 954.03, "vgg13": 677.45, "vgg16": 546.06, "resnet18": 3481.78, "resnet34": 2036.51, "resnet50": 1218.01,
    "resnet101": 747.89, "mobilenet_v2": 2313.10, "mobilenet_v2_small": 4051.14, "mobilenet_v3_small": 8035.08,
    "mobilenet_v3_large": 2732.43,
}  # fmt: skip
"""Training at 224 px on one RTX 3090, AMP, channels last: results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv of
github.com/huggingface/pytorch-image-models. Our two small CNNs are not in it: they get mobilenet_v2's share of peak."""
PEAK_FLOPS = 71e12
"""Of that GPU's tensor cores, fp16 with fp32 accumulation, dense."""
WORKERS = (1, 8, 64, 512)


@dataclass(frozen=True)
class Model:
    name: str
    parameters: int
    macs: dict[int, int]
    share: float
    """Of the GPU's peak that training reaches."""
    seconds_per_image: dict[int, float]
    run_s: dict[int, float]
    micro_batch: int | None
    training_mib: float


def planned(config: ResoMapConfig, name: str, *, limit_mib: float, known_share: float | None = None) -> Model:
    """One model at all resolutions; the largest decides the micro-batch, as in the plan."""
    sides, batch = config.sweep.resolutions, config.training.batch_size
    network = build.model_on_meta(config, Cell(name, sides[0], 0), num_classes=CLASSES)
    counted = {side: get_model_complexity(network, (1, 3, side, side)) for side in sides}
    flops = {side: counted[side].flops + counted[side].backward_flops for side in sides}
    share = known_share or IMAGES_PER_S[name] * flops[224] / PEAK_FLOPS
    seconds = {side: flops[side] / (share * PEAK_FLOPS) for side in sides}

    def peak_mib(images: int) -> float:
        optimizer = build.optimizer_factory(config)
        shape = (images, 3, max(sides), max(sides))
        return predict_memory(
            network, input_shape=shape, precision="bf16", training=True, optimizer=optimizer,
            gradients_stay=True,  # of other micro-batches, or of a graph
        ).peak_mib  # fmt: skip

    micro = largest_micro_batch(peak_mib, limit_mib=limit_mib, largest=batch)
    return Model(
        name,
        parameters=count_parameters(network),
        macs={side: counted[side].macs for side in sides},
        share=share,
        seconds_per_image=seconds,
        run_s={side: run_seconds(config, COUNTS, seconds[side]) for side in sides},
        micro_batch=micro,
        training_mib=peak_mib(micro or 1),
    )


def decoded_per_core_s(side: int, folder: Path) -> float:
    """Training images a second that one core reads, decodes and crops, where no cache holds them."""
    paths = photographs(folder / "images", 128)
    records = [ImageRecord(path.name, path, number % 2) for number, path in enumerate(paths)]
    crops = AugmentationSettings()
    settings = StoreSettings(resolutions=(side,), kernel="bilinear", crop=crops.crop, min_scale=crops.scale[0])
    hashes = content_hashes(records, cache_dir=folder)
    store = open_store(records, settings=settings, cache_dir=folder, cache_gib=0, content_hashes=hashes, workers=1)
    loader = TrainLoader(
        store, resolution=side, augmentation=crops, effective_batch=32, micro_batch=32, seed=0,
        mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2),
    )  # fmt: skip
    took = []
    for _ in range(5):
        started = time.process_time()
        for _ in loader:
            pass
        took.append(time.process_time() - started)
    return len(records) / median(took)


def predictions_bytes_per_image(folder: Path) -> float:
    """Of a stored predictions file, with 1000 classes: logits of a trained network's spread."""
    rng, count = np.random.default_rng(0), 2000
    logits = rng.normal(0, 2, (count, CLASSES)).astype(np.float32)
    logits[np.arange(count), rng.integers(0, CLASSES, count)] += 10
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = tuple(f"n{number:08d}" for number in range(CLASSES))
    ids = np.array([f"n01440764/ILSVRC2012_val_{number:08d}.JPEG" for number in range(count)])
    answers = Predictions(ids, rng.integers(0, CLASSES, count), chances, names)
    path = write_predictions(
        folder / "p.parquet", answers, cell=Cell("resnet50", 224, 0), condition=Condition("val", 224, 224)
    )
    return path.stat().st_size / count


def list_bytes_per_image() -> float:
    """Of the list of images as it is sent to a node."""
    names = [f"n01440764/n01440764_{number:05d}.JPEG" for number in range(10_000)]
    return len(pickle.dumps([ImageRecord(name, Path("/data/imagenet/train") / name, 0) for name in names])) / len(names)


def print_models(models: list[Model], sides: list[int]) -> None:
    low, high = min(sides), max(sides)
    print(
        f"{'model':20s}{'M params':>9}{'GMACs':>14}{'share':>7}{'images/s':>13}{'hours a run':>14}{'fits':>6}{'GiB':>6}"
    )
    for model in models:
        macs = f"{model.macs[low] / 1e9:.2f}-{model.macs[high] / 1e9:.1f}"
        rate = f"{1 / model.seconds_per_image[low]:.0f}-{1 / model.seconds_per_image[high]:.0f}"
        hours = f"{model.run_s[low] / 3600:.1f}-{model.run_s[high] / 3600:.1f}"
        print(
            f"{model.name:20s}{model.parameters / 1e6:>9.2f}{macs:>14}{model.share:>7.0%}{rate:>13}{hours:>14}"
            f"{model.micro_batch or '-':>6}{model.training_mib / 1024:>6.1f}"
        )


def print_schedule(models: list[Model], seeds: int) -> None:
    runs = [seconds for model in models for seconds in model.run_s.values() for _ in range(seeds)]
    print(f"\n{len(runs)} runs, {sum(runs) / 3600:,.0f} GPU hours, the longest {max(runs) / 3600:.0f}; hours on GPUs:")
    print(f"{'GPUs':>6}{'1 a run':>10}{'bound':>10}{'8 a run':>10}{'bound':>10}")
    for workers in WORKERS:
        row = f"{workers:>6}"
        for of_a_run in (1, 8):
            costs = [seconds / of_a_run for seconds in runs]
            if workers < of_a_run:
                row += f"{'-':>10}{'-':>10}"
                continue
            slots = workers // of_a_run
            order = longest_first(costs, lambda cost: cost)
            row += f"{makespan(order, slots) / 3600:>10,.0f}{lower_bound(costs, slots) / 3600:>10,.0f}"
        print(row)


def print_amounts(config: ResoMapConfig, models: list[Model], measured: Mapping[str, float]) -> None:
    """Storage and network of the study, of 100 times the runs, and of 100 times the images."""
    seeds, sides = len(config.sweep.seeds), config.sweep.resolutions
    parameters = [model.parameters for model in models for _ in sides]
    hours = sum(sum(model.run_s.values()) for model in models) * seeds / 3600
    images, evaluated = sum(COUNTS.values()), COUNTS["val"] + COUNTS["test"]
    runs, squares = len(parameters) * seeds, images * sum(3 * side**2 for side in sides)
    weights = study_bytes(config, parameters * seeds, at_once=1, answers=0, classes=CLASSES)
    predictions = runs * evaluated * measured["predictions"]
    read = runs * (images - COUNTS["test"]) * config.training.epochs * JPEG_BYTES
    rows = [  # name, unit, value, grows with runs, grows with images
        ("GPU hours", "", hours, 100, 100),
        ("longest run", "h", max(max(model.run_s.values()) for model in models) / 3600, 1, 100),
        ("image files", "GB", images * JPEG_BYTES / 1e9, 1, 100),
        ("decoded, squares of all sides", "GB", squares / 1e9, 1, 100),
        ("decoded, training (levels)", "GB", COUNTS["train"] * PIXELS * 3 * 4 / 3 / 1e9, 1, 100),
        ("weights and a state, saved twice", "GB", weights / 1e9, 100, 1),
        ("predictions", "GB", predictions / 1e9, 100, 100),
        ("largest predictions file", "GB", COUNTS["val"] * measured["predictions"] / 1e9, 1, 100),
        ("probabilities in it / 2^31", "", COUNTS["val"] * CLASSES / 2**31, 1, 100),
        ("list of images, to each node", "GB", images * measured["list"] / 1e9, 1, 100),
        ("image files read in all", "TB", read / 1e12, 100, 100),
        ("read a second by a GPU, mean", "MB", read / hours / 3600 / 1e6, 1, 1),
        ("results sent to the study, a GPU hour", "MB", (weights + predictions) / hours / 1e6, 1, 1),
    ]  # fmt: skip
    print(f"\n{'':40s}{'':3s}{'the study':>14}{'100x runs':>14}{'100x images':>14}")
    for name, unit, value, by_runs, by_images in rows:
        print(f"{name:40s}{unit:3s}" + "".join(f"{shown(value * factor):>14}" for factor in (1, by_runs, by_images)))
    fastest = max(1 / seconds for model in models for seconds in model.seconds_per_image.values())
    mean = runs * (images - COUNTS["test"]) * config.training.epochs / hours / 3600
    low, high = measured["224"], measured["512"]
    print(
        f"\none core decodes {low:.0f} images/s at 224 px, {high:.0f} at 512 px; a GPU takes {mean:.0f} in the mean, "
        f"{fastest:.0f} at most: {mean / high:.0f} to {fastest / low:.0f} cores"
    )


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--gib", type=float, default=24.0, help="Memory of the GPU.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(overrides=[f"training.epochs={given.epochs}", f"training.batch_size={given.batch_size}"])
    limit_mib = given.gib * 1024 * SHARE_OF_FREE
    models = [planned(config, name, limit_mib=limit_mib) for name in IMAGES_PER_S]
    share = next(model.share for model in models if model.name == "mobilenet_v2")
    models += [
        planned(config, name, limit_mib=limit_mib, known_share=share)
        for name in config.sweep.models
        if name not in IMAGES_PER_S
    ]
    with tempfile.TemporaryDirectory() as folder:
        measured = {str(side): decoded_per_core_s(side, Path(folder) / str(side)) for side in (224, 512)}
        measured["predictions"] = predictions_bytes_per_image(Path(folder))
    measured["list"] = list_bytes_per_image()
    print(
        f"{sum(COUNTS.values()):,} images of {CLASSES} classes, {given.epochs} epochs, batch {given.batch_size}, one "
        f"RTX 3090 ({given.gib:g} GiB); 'fits': micro-batch at {max(config.sweep.resolutions)} px in bf16, and its GiB"
    )
    print_models(models, config.sweep.resolutions)
    print_schedule(models, len(config.sweep.seeds))
    print_amounts(config, models, measured)


if __name__ == "__main__":
    main()
