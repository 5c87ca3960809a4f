"""The training loops that benchmarks/peers.py compares, each as its own documentation writes it.

One process a loop: `python peer_arms.py '{"arm": "timm", "model": "resnet18", ...}'` trains for ever. A line with a
number on its standard input lets it do so many updates; it answers with the seconds that they took. All train the same
network on the same files with the same batch, augmentation and optimiser.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from resomap.models.registry import build_model, normalisation_of

SCALE, RATIO, JITTER, RATE = (0.35, 1.0), (3 / 4, 4 / 3), 0.2, 1e-3


@dataclass(frozen=True)
class Job:
    """What is trained, and what a user may tune of it."""

    arm: str
    model: str
    side: int
    batch: int
    images: str
    cache: str
    precision: str = "no"
    channels_last: bool = False
    fused: bool = False
    workers: int = 2
    quiet: bool = False
    """Logging, progress bars and checkpoints switched off, where the peer has them."""

    def network(self) -> nn.Module:
        network = build_model(self.model, num_classes=2, resolution=self.side, seed=0)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network

    def laid_out(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW.contiguous(memory_format=torch.channels_last) if self.channels_last else images_BCHW

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def statistics(self) -> dict[str, Any]:
        mean, std = normalisation_of(self.model)
        return {"mean": mean, "std": std}

    @property
    def fused_option(self) -> dict[str, bool]:
        return {"fused": True} if self.fused else {}


class Gate:
    """Between updates: waits for the driver's word, and tells it how long the updates took."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whatever the loops print goes to the log
        self._left = 0
        self._started = 0.0

    def after_update(self) -> None:
        """To be called after each update, and once before the first."""
        self._left -= 1
        if self._left > 0:
            return
        if self._started:
            self.answer(time.perf_counter() - self._started)
        asked = sys.stdin.readline().strip()
        if not asked:
            raise SystemExit
        self._left = int(asked)
        self._started = time.perf_counter()

    def answer(self, value: object) -> None:
        self._answers.write(json.dumps(value) + "\n")
        self._answers.flush()


def plain_loader(job: Job) -> DataLoader[Any]:
    """As torchvision's reference and PyTorch's tutorials write it."""
    from torchvision import datasets, transforms

    steps = [
        transforms.RandomResizedCrop(job.side, scale=SCALE, ratio=RATIO),
        transforms.RandomHorizontalFlip(),
        transforms.ColorJitter(JITTER, JITTER, JITTER),
        transforms.ToTensor(),
        transforms.Normalize(**job.statistics),
    ]
    return DataLoader(
        datasets.ImageFolder(job.images, transforms.Compose(steps)),
        batch_size=job.batch,
        shuffle=True,
        num_workers=job.workers,
        drop_last=True,
    )


def plain_updates(job: Job) -> Iterator[float]:
    """A torchvision-style loop; yields after each update."""
    network, loss_of = job.network().train(), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, **job.fused_option)
    loader = plain_loader(job)
    while True:
        for images_BCHW, labels_B in loader:
            with job.autocast():
                loss = loss_of(network(job.laid_out(images_BCHW)), labels_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()


def run_plain(job: Job, gate: Gate) -> None:
    gate.after_update()
    for _ in plain_updates(job):
        gate.after_update()


def run_tuning(job: Job, gate: Gate) -> None:
    """The fastest precision with channels_last and the fused optimiser, then the fastest number of workers."""
    updates = int(sys.stdin.readline())

    def speed(**chosen: Any) -> float:
        running = plain_updates(Job(**{**job.__dict__, "channels_last": True, "fused": True, **chosen}))
        list(itertools.islice(running, 2))
        started = time.perf_counter()
        list(itertools.islice(running, updates))
        return job.batch * updates / (time.perf_counter() - started)

    found = {("no", 0): speed(precision="no", workers=0), ("bf16", 0): speed(precision="bf16", workers=0)}
    precision = max(found, key=lambda each: found[each])[0]
    found |= {(precision, workers): speed(precision=precision, workers=workers) for workers in (1, 2)}
    best = max(found, key=lambda each: found[each])
    tried = {f"{name}, {workers} workers": round(value, 2) for (name, workers), value in found.items()}
    gate.answer({"precision": best[0], "workers": best[1], "tried": tried})


def run_lightning(job: Job, gate: Gate) -> None:
    import lightning

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.loss_of = job.network(), nn.CrossEntropyLoss()

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            images_BCHW, labels_B = batch
            loss = self.loss_of(self.network(job.laid_out(images_BCHW)), labels_B)
            self.log("train_loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=RATE, **job.fused_option)

    class Ticks(lightning.Callback):
        def on_train_start(self, *_: Any) -> None:
            gate.after_update()

        def on_train_batch_end(self, *_: Any) -> None:
            gate.after_update()

    off = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False} if job.quiet else {}
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        precision="bf16-mixed" if job.precision == "bf16" else "32-true",
        default_root_dir=Path(job.cache) / "lightning",
        callbacks=[Ticks()],
        **off,
    )
    trainer.fit(Classifier(), plain_loader(job))


def run_timm(job: Job, gate: Gate) -> None:
    """The steps of timm's train.py: NativeScaler is for float16, so neither fp32 nor bf16 uses it there."""
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import AverageMeter

    loader = create_loader(
        create_dataset("", root=job.images),
        input_size=(3, job.side, job.side),
        batch_size=job.batch,
        is_training=True,
        scale=SCALE,
        ratio=RATIO,
        color_jitter=JITTER,
        interpolation="bilinear",
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        device=torch.device("cpu"),
        **job.statistics,
    )
    network, loss_of = job.network(), nn.CrossEntropyLoss()
    optimizer = create_optimizer_v2(network, opt="adamw", lr=RATE, weight_decay=0.05, **job.fused_option)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=300, updates_per_epoch=len(loader))
    losses, updates = AverageMeter(), 0
    gate.after_update()
    for epoch in itertools.count():
        network.train()
        for images_BCHW, labels_B in loader:
            with job.autocast():
                loss = loss_of(network(job.laid_out(images_BCHW)), labels_B)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.update(loss.item(), images_BCHW.size(0))
            updates += 1
            scheduler.step_update(num_updates=updates, metric=losses.avg)
            gate.after_update()
        scheduler.step(epoch + 1)


def run_resomap(job: Job, gate: Gate) -> None:
    """The Trainer and loaders that a study would build from its configuration."""
    from resomap.config.load import load_config
    from resomap.records import Cell
    from resomap.study import build
    from resomap.training.events import Callback
    from resomap.training.ranks import Ranks

    class Ticks(Callback):
        def on_fit_start(self, _: Any) -> None:
            gate.after_update()

        def on_update_end(self, _: Any) -> None:
            gate.after_update()

    config = load_config(
        overrides=[
            f"data.source={job.images}", f"data.cache_dir={job.cache}/resomap", "data.val_fraction=0.02",
            "data.test_fraction=0.0", f"sweep.models={job.model}", f"sweep.resolutions={job.side}",
            f"training.batch_size={job.batch}", "training.epochs=100", "system.device=cpu",
            f"system.mixed_precision={job.precision}",
        ]
    )  # fmt: skip
    build.settle_process(config)
    cell, images = Cell(job.model, job.side, 0), build.dataset(config)
    stores = build.stores(config, images, on_progress=lambda *_: None)
    loader = build.train_loader(config, stores["train"], cell, device_type="cpu", ranks=Ranks())
    network = build.model(config, cell, num_classes=images.num_classes)
    build.trainer(config, network, (loader, None), cell=cell, callbacks=[Ticks()]).fit()


ARMS: dict[str, Callable[[Job, Gate], None]] = {
    "resomap": run_resomap,
    "plain": run_plain,
    "lightning": run_lightning,
    "timm": run_timm,
    "tune": run_tuning,
}


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    ARMS[job.arm](job, Gate())


if __name__ == "__main__":
    main()
