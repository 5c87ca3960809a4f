"""Training speed as a share of pure compute: the real loader beside a constant batch, interleaved.

    python benchmarks/data_share.py [--rounds 7] [--models tiny_cnn,mobilenet_v3_small] [--resolutions 64,224]
                                    [--images 256] [--copies 16] [--precision bf16] [--device cuda] [--workers 0,4]
                                    [--batch 128] [--no-graphs]

Photograph-like images (490 x 380, JPEG) are generated once; both arms run the same Trainer for the same number of
updates, in turn, and the ratio is taken pair by pair. 1.0 means that feeding the images costs nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from measure import CLASSES, photographs

from resomap.allocator import keep_freed_memory
from resomap.data.augmentation import AugmentationSettings
from resomap.data.hashes import content_hashes
from resomap.data.loaders import Batch, TrainLoader, to_model_input
from resomap.data.pyramid import ImageStore, StoreSettings, open_store
from resomap.models.registry import build_model, normalisation_of
from resomap.records import ImageRecord
from resomap.training.device import select_device
from resomap.training.trainer import Trainer

ARMS = {
    "random_resized": AugmentationSettings(),
    "center": AugmentationSettings(crop="center", brightness=0, contrast=0, saturation=0),
}


class ConstantLoader(TrainLoader):
    """The same batch again and again, ready for the model: what is left is compute."""

    ready: Batch | None = None
    device = torch.device("cpu")

    def __iter__(self) -> Iterator[Batch]:
        if self.ready is None:
            first = next(super().__iter__())
            images, labels = to_model_input(first, self.device, channels_last=True)
            self.ready = Batch(images=images, labels=labels, indices=first.indices)
        for _ in range(self.updates_per_epoch):
            yield self.ready


def seconds(trainer: Trainer) -> float:
    """One epoch; what it hands to an accelerator is done when its mean loss is known."""
    started = time.perf_counter()
    trainer.train_epoch()
    return time.perf_counter() - started


@dataclass(frozen=True)
class Settings:
    """Of both arms, but for the loading processes: a constant batch needs none."""

    rounds: int
    precision: str
    device: torch.device
    batch: int
    cuda_graphs: bool


def compare(model: str, resolution: int, store: ImageStore, arm: str, *, workers: int, settings: Settings) -> str:
    mean, std = normalisation_of(model)
    common = {
        "resolution": resolution, "augmentation": ARMS[arm], "effective_batch": settings.batch,
        "micro_batch": settings.batch, "seed": 0, "mean": mean, "std": std,
    }  # fmt: skip
    on_accelerator = settings.device.type != "cpu"
    constant = ConstantLoader(store, **common)
    constant.device = settings.device
    loaders = (
        TrainLoader(store, **common, workers=workers, pin_memory=on_accelerator, persistent_workers=workers > 0),
        constant,
    )
    trainers = [
        Trainer(
            build_model(model, num_classes=2, seed=0), loader, epochs=settings.rounds + 1, device=settings.device,
            mixed_precision=settings.precision, cuda_graphs=settings.cuda_graphs,
        )
        for loader in loaders
    ]  # fmt: skip
    for trainer in trainers:
        seconds(trainer)
    pairs = [tuple(seconds(trainer) for trainer in trainers) for _ in range(settings.rounds)]
    shares = sorted(constant / real for real, constant in pairs)
    rate = len(store) / statistics.median(real for real, _ in pairs)
    return (
        f"{model:20s} {resolution:4d} {arm:15s} {workers} workers {rate:8.0f} images/s   share of compute "
        f"{statistics.median(shares):.3f} ({shares[0]:.3f}-{shares[-1]:.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", default="tiny_cnn,mobilenet_v3_small")
    parser.add_argument("--resolutions", default="64,224")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--precision", default="no", choices=("no", "bf16"), help="of both arms")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", default="0", help="loading processes of the real arm, one line each")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--copies", type=int, default=1, help="each photograph so many times, for longer epochs")
    parser.add_argument("--no-graphs", action="store_true", help="on CUDA launch operations one by one, in both arms")
    given = parser.parse_args()
    keep_freed_memory()  # as the command line does
    common = Settings(given.rounds, given.precision, select_device(given.device), given.batch, not given.no_graphs)
    sides = tuple(int(side) for side in given.resolutions.split(","))
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(Path(folder), given.images)
        records = [
            ImageRecord(f"{copy}-{path.name}", path, i % len(CLASSES))
            for copy in range(given.copies)
            for i, path in enumerate(files)
        ]
        cache = Path(folder) / "cache"
        for arm, augmentation in ARMS.items():
            settings = StoreSettings(
                resolutions=sides, kernel="bilinear", crop=augmentation.crop, min_scale=augmentation.scale[0]
            )
            hashes = content_hashes(records, cache_dir=cache)
            store = open_store(records, settings=settings, cache_dir=cache, cache_gib=40, content_hashes=hashes)
            for model in given.models.split(","):
                for side, workers in product(sides, map(int, given.workers.split(","))):
                    print(compare(model, side, store, arm, workers=workers, settings=common), flush=True)


if __name__ == "__main__":
    main()
