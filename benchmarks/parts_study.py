"""The work of a small study, scripted from its parts; benchmarks/study_vs_parts.py times it.

Training and evaluation as torchvision's reference has them, a loader over the files for each size; accuracy and F1 from
scikit-learn; latency from torch.utils.benchmark; operations from torch's counter; heat maps from pytorch-grad-cam.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torchvision import datasets, transforms

from resomap.models.registry import build_model, normalisation_of
from resomap.models.target_layers import get_target_layer

BATCH, WORKERS, EXPLAINED = 16, 2, 64


def loader(folder: Path, model: str, side: int, *, train: bool) -> DataLoader[Any]:
    steps: list[Any] = [transforms.Resize(side), transforms.CenterCrop(side)]
    if train:
        steps = [
            transforms.RandomResizedCrop(side, scale=(0.35, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.2, 0.2, 0.2),
        ]
    steps += [transforms.ToTensor(), transforms.Normalize(*normalisation_of(model))]
    images = datasets.ImageFolder(folder, transforms.Compose(steps))
    return DataLoader(images, batch_size=BATCH, shuffle=train, num_workers=WORKERS)


def evaluate(network: nn.Module, batches: DataLoader[Any]) -> dict[str, float]:
    network.eval()
    labels, predicted = [], []
    with torch.inference_mode():
        for images_BCHW, labels_B in batches:
            predicted.append(network(images_BCHW).argmax(dim=1))
            labels.append(labels_B)
    truth, answers = torch.cat(labels).numpy(), torch.cat(predicted).numpy()
    return {"accuracy": accuracy_score(truth, answers), "f1": f1_score(truth, answers, average="macro")}


def train(data: Path, model: str, side: int, *, epochs: int) -> nn.Module:
    """The epoch that is best on the validation images."""
    network, loss_of = build_model(model, num_classes=2, seed=0), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best, kept = -1.0, network
    batches = loader(data / "train", model, side, train=True)
    validation = loader(data / "val", model, side, train=False)
    for _ in range(epochs):
        network.train()
        for images_BCHW, labels_B in batches:
            loss = loss_of(network(images_BCHW), labels_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        schedule.step()
        accuracy = evaluate(network, validation)["accuracy"]
        if accuracy > best:
            best, kept = accuracy, copy.deepcopy(network)
    return kept


def profile(network: nn.Module, side: int) -> dict[str, float]:
    network.eval()
    found = {}
    with torch.inference_mode():
        for batch in (1, BATCH):
            images = torch.randn(batch, 3, side, side)
            timed = Timer("network(images)", globals={"network": network, "images": images}, num_threads=2)
            found[f"batch {batch}, s"] = timed.blocked_autorange().median
        with FlopCounterMode(display=False) as counter:
            network(torch.randn(1, 3, side, side))
    return found | {"flops": counter.get_total_flops()}


def explain(network: nn.Module, batches: DataLoader[Any]) -> np.ndarray:
    maps: list[np.ndarray] = []
    layer = network.get_submodule(get_target_layer(network))
    with GradCAM(model=network.eval(), target_layers=[layer]) as explainer:
        for images_BCHW, labels_B in batches:
            targets = [ClassifierOutputTarget(label) for label in labels_B.tolist()]
            maps.extend(explainer(input_tensor=images_BCHW, targets=targets))
            if len(maps) >= EXPLAINED:
                break
    return np.stack(maps)


def main() -> None:
    data, models, sides, epochs = json.loads(sys.argv[1])
    rows = []
    for model in models:
        for side in sides:
            network = train(Path(data), model, side, epochs=epochs)
            tests = {tested: loader(Path(data) / "test", model, tested, train=False) for tested in sides}
            rows += [[model, side, tested, evaluate(network, batches)] for tested, batches in tests.items()]
            rows.append([model, side, profile(network, side)])
            rows.append([model, side, explain(network, tests[side]).mean()])
    json.dumps(rows, default=float)


if __name__ == "__main__":
    main()
