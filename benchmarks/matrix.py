"""One checkpoint at five resolutions in one pass over the images, beside five separate evaluations.

    python benchmarks/matrix.py [--rounds 5] [--images 96] [--clock cpu] [--threads 1] [--photographs DIR]

Each round starts without decoded images, as a user's first evaluation does. 'plain' is a loop as PyTorch's examples
have it: a DataLoader over the files for each size, the network in its default memory format. 'evaluate' is ResoMap's
own evaluation, unfolded, called once for each size with an empty cache. All in fp32, on the same squares.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measure import in_turn, photographs, shown
from torch import nn
from torch.utils.data import DataLoader, Dataset

from resomap.config.load import load_config
from resomap.config.schema import ResoMapConfig
from resomap.data.decode import decode_rgb
from resomap.data.resize import to_square
from resomap.evaluation.predict import predict
from resomap.models.checkpoints import Checkpoint, make_metadata
from resomap.models.registry import build_model, normalisation_of
from resomap.records import Condition, ImageDataset, Predictions, Preprocessing
from resomap.study import build
from resomap.study.cross_resolution import evaluate_conditions

SIDES = (224, 256, 320, 384, 512)
BATCH = 32
SPLIT = "val"


class Files(Dataset[tuple[torch.Tensor, int]]):
    """What a user's own script reads: a file, the square of one size, normalised."""

    def __init__(self, images: ImageDataset, recipe: Preprocessing) -> None:
        self.records, self.recipe = images.splits[SPLIT], recipe
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (recipe.mean, recipe.std))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        record = self.records[index]
        square = to_square(decode_rgb(record.path), self.recipe.resolution, kernel=self.recipe.kernel)
        return (torch.from_numpy(square).permute(2, 0, 1).float() / 255 - self.mean) / self.std, record.label


def plain(network: nn.Module, images: ImageDataset, recipe: Preprocessing) -> np.ndarray:
    rows = []
    with torch.inference_mode():
        for inputs, _ in DataLoader(Files(images, recipe), batch_size=BATCH):
            rows.append(network(inputs).softmax(dim=1))
    return torch.cat(rows).numpy()


def checkpoint_of(model: str, images: ImageDataset) -> Checkpoint:
    """A network whose BatchNorms have seen the images."""
    network = build_model(model, num_classes=2, seed=0)
    mean, std = normalisation_of(model)
    recipe = Preprocessing(SIDES[0], "bilinear", mean, std)
    with torch.no_grad():
        for inputs, _ in DataLoader(Files(images, recipe), batch_size=BATCH):
            network.train()(inputs)
    about = make_metadata(
        model=model, family="", resolution=SIDES[0], class_names=images.class_names, preprocessing=recipe, seed=0
    )  # fmt: skip
    return Checkpoint(network.eval(), about, Path())


def compare(model: str, config: ResoMapConfig, images: ImageDataset, folder: Path, given: argparse.Namespace) -> None:
    checkpoint = checkpoint_of(model, images)
    unfolded, default = copy.deepcopy(checkpoint.model), copy.deepcopy(checkpoint.model)
    recipes = [replace(checkpoint.preprocessing, resolution=side) for side in SIDES]
    conditions = [Condition(SPLIT, side, side) for side in SIDES]
    caches = (folder / f"{model}-{i}" for i in itertools.count())
    found: dict[str, list[np.ndarray]] = {}

    def empty_cache() -> ResoMapConfig:
        return config.model_copy(
            update={"data": config.data.model_copy(update={"cache_dir": str(next(caches))})}
        )  # fmt: skip

    def five_plain() -> None:
        found["plain"] = [plain(default, images, recipe) for recipe in recipes]

    def five_evaluations() -> None:
        answers: list[Predictions] = []
        for recipe in recipes:
            loader = build.checkpoint_loader(empty_cache(), images, SPLIT, preprocessing=recipe, device="cpu")
            answers.append(predict(unfolded, loader, device="cpu"))
        found["evaluate"] = [each.probabilities for each in answers]

    def together() -> None:
        (answers,) = evaluate_conditions(
            empty_cache(), checkpoint, images, conditions, device="cpu", precision="no"
        )  # fmt: skip
        found["matrix"] = [answers[condition].probabilities for condition in conditions]

    arms = {"plain": five_plain, "evaluate": five_evaluations, "matrix": together}
    in_turn(arms, 1)
    seconds = in_turn(arms, given.rounds, clock=time.process_time if given.clock == "cpu" else time.perf_counter)
    for name in ("plain", "evaluate"):
        pairs = list(zip(found[name], found["matrix"], strict=True))
        same = np.mean([one.argmax(1) == two.argmax(1) for one, two in pairs])
        apart = max(np.abs(one - two).max() for one, two in pairs)
        ratios = [other / ours for other, ours in zip(seconds[name], seconds["matrix"], strict=True)]
        print(
            f"{model:20s} five {name:9s} / matrix: time {shown(ratios)}; equal predictions {same:.4f}, "
            f"largest difference of a probability {apart:.1e}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: time of this process alone.")
    parser.add_argument("--threads", type=int, help="Of torch; one makes the time of the process that of the work.")
    parser.add_argument("--models", default="mobilenet_v3_small,resnet18")
    parser.add_argument("--photographs", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.photographs is None:
            photographs(folder / "images", 2 * given.images)
        config = load_config(
            overrides=[
                f"data.source={given.photographs or folder / 'images'}", f"data.cache_dir={folder / 'cache'}",
                f"training.batch_size={BATCH}", "system.device=cpu", "system.mixed_precision=no",
                "data.val_fraction=0.5", "data.test_fraction=0.0",
            ]
        )  # fmt: skip
        build.settle_process(config)
        if given.threads:
            torch.set_num_threads(given.threads)
        images = build.dataset(config)
        kept = images.splits[SPLIT][: given.images]
        images = replace(images, splits={**images.splits, SPLIT: kept})
        sizes = ", ".join(map(str, SIDES))
        print(f"{len(kept)} images at {sizes} px, {torch.get_num_threads()} threads, {given.clock} time")
        for model in given.models.split(","):
            compare(model, config, images, folder, given)


if __name__ == "__main__":
    main()
