"""What test_distributed.py runs once in one process and once in two; prints nothing, returns plain values.

As a script (under torchrun): `distributed_scenarios.py FOLDER OUTPUT` writes each rank's results as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from resomap.data.augmentation import AugmentationSettings
from resomap.data.loaders import EvalLoader, TrainLoader
from resomap.errors import StorageError, TrainingDivergedError
from resomap.records import ImageRecord
from resomap.training.callbacks import Callback, ModelCheckpoint
from resomap.training.engine import process_ranks
from resomap.training.trainer import Trainer

SIDE, CLASSES = 16, 3
RGB = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


class MemoryStore:
    """An ImageStore of noise whose brightest channel is the class, without files."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        self.images = tuple(ImageRecord(f"{i}.png", Path(f"{i}.png"), i % CLASSES) for i in range(count))
        self.labels = np.array([image.label for image in self.images], dtype=np.int64)
        self.sizes = np.full((count, 2), SIDE, dtype=np.int32)
        self._pixels = rng.integers(0, 156, (count, SIDE, SIDE, 3)).astype(np.uint8)
        self._pixels[np.arange(count), :, :, self.labels] += 100

    def __len__(self) -> int:
        return len(self.images)

    def squares(self, resolution: int, indices: np.ndarray) -> np.ndarray:
        return self._pixels[indices]


def network(*, norm: bool) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.BatchNorm2d(8)] if norm else []
    # A bias before BatchNorm has no gradient but rounding, which Adam would blow up to full steps.
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=not norm), *layers, nn.ReLU(), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, CLASSES),
    )  # fmt: skip


def trainer(model: nn.Module, *, images: int = 27, **options: Any) -> Trainer:
    """Updates of 12 images in micro-batches of 3: windows of 12, 12 and 3, the last for one rank only."""
    rank, world_size = process_ranks(torch.device("cpu"))
    ranks = {"rank": rank, "world_size": world_size}
    train = TrainLoader(
        MemoryStore(images),  # type: ignore[arg-type]
        resolution=SIDE,
        augmentation=AugmentationSettings(crop="center"),
        effective_batch=12,
        micro_batch=3,
        seed=0,
        **RGB,
        **ranks,
    )
    val = EvalLoader(MemoryStore(7), resolution=SIDE, batch_size=2, **RGB, **ranks)  # type: ignore[arg-type]
    defaults = {"device": "cpu", "epochs": 3, "learning_rate": 0.01, "seed": 1}
    return Trainer(model, train, val, **defaults | options)


def _weights(model: nn.Module) -> dict[str, list[float]]:
    return {name: parameter.flatten().tolist() for name, parameter in model.named_parameters()}


def training(folder: Path, *, norm: bool) -> dict[str, Any]:
    """Losses, validation and weights; clipping, smoothing and weights of classes on."""
    model = network(norm=norm)
    keep = ModelCheckpoint(folder / "kept", monitor="loss", mode="min", top_k=2)
    made = trainer(
        model,
        clip_grad_norm=0.5,
        label_smoothing=0.1,
        class_weights=[1.0, 2.0, 0.5],
        callbacks=[keep],
        state_path=folder / "last.pt",
    )
    result = made.fit()
    return {
        "losses": [record.train_loss for record in result.epochs],
        "accuracies": [record.train_accuracy for record in result.epochs],
        "val": [dict(record.val) for record in result.epochs],
        "weights": _weights(model),
        "kept": [kept.epoch for kept in keep.kept],
    }


class StopOneRank(Callback):
    """Only one rank is asked to stop, as when a signal reaches one process."""

    def on_update_end(self, made: Trainer) -> None:
        rank, world_size = process_ranks(torch.device("cpu"))
        if made.update == 4 and rank == world_size - 1:
            made.request_stop()


def stopping_and_resuming(folder: Path) -> dict[str, Any]:
    """All ranks stop at the same update and go on to the weights of a run that was not stopped."""
    path = folder / "last.pt"
    stopped = trainer(network(norm=False), state_path=path, save_every_s=0.0, callbacks=[StopOneRank()])
    try:
        stopped.fit()
        interrupted = False
    except KeyboardInterrupt:
        interrupted = True
    model = network(norm=False)
    resumed = trainer(model, state_path=path, save_every_s=0.0)
    updates = resumed.resume()
    result = resumed.fit()
    whole = network(norm=False)
    trainer(whole).fit()
    return {
        "interrupted": interrupted,
        "stopped_at": stopped.update,
        "resumed_at": updates,
        "losses": [record.train_loss for record in result.epochs],
        "weights": _weights(model),
        "weights_of_whole": _weights(whole),
    }


class PoisonOneRank(Callback):
    """NaN in the inputs of one rank only."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def on_update_end(self, made: Trainer) -> None:
        rank, world_size = process_ranks(torch.device("cpu"))
        if made.update == 1 and rank == world_size - 1:
            self.model[0].register_forward_hook(lambda module, args, out: out * float("nan"))


def failures(folder: Path) -> dict[str, Any]:
    """An error of one rank ends the run on all, and the next run starts on all."""
    model = network(norm=False)
    errors: list[str] = []
    folder.mkdir(exist_ok=True)
    (folder / "file").touch()
    for expected, options in (
        (TrainingDivergedError, {"callbacks": [PoisonOneRank(model)]}),
        (StorageError, {"state_path": folder / "file" / "last.pt"}),
    ):
        try:
            trainer(model if options.get("callbacks") else network(norm=False), **options).fit()
        except expected as error:
            errors.append(type(error).__name__)
    return {"errors": errors, "after": trainer(network(norm=False), epochs=1).fit().epochs[0].train_loss}


def all_scenarios(folder: Path) -> dict[str, Any]:
    return {
        "plain": training(folder / "plain", norm=False),
        "norm": training(folder / "norm", norm=True),
        "resumed": stopping_and_resuming(folder / "resumed"),
        "failures": failures(folder / "failures"),
    }


if __name__ == "__main__":
    results = all_scenarios(Path(sys.argv[1]))
    rank, _ = process_ranks(torch.device("cpu"))
    Path(f"{sys.argv[2]}.{rank}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()
