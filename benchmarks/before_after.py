"""What earlier issues measured, with an earlier state of the source and with this one, in turn.

    git worktree add ../earlier COMMIT
    python benchmarks/before_after.py ../earlier/src [--rounds 3] [--only train,gradcam]

Every piece of work is a process of its own, which says how long the work took (imports and preparation excluded, but
for the commands, whose whole time counts). Printed: median of the paired ratios of time, earlier / now, with its 95 %
bootstrap interval. Above 1: faster now.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import photographs, shown

HERE = Path(__file__).parent
NOW = HERE.parent / "src"

PREPARE = """
import sys, time
sys.path.insert(0, {here!r})
from resomap.allocator import keep_freed_memory
keep_freed_memory()
import torch
from resomap.models.registry import build_model
def took(work, rounds):
    work()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    print("seconds", min(times))
"""
TRAIN = """
import data_share
from pathlib import Path
from resomap.data.hashes import content_hashes
from resomap.data.loaders import TrainLoader
from resomap.data.pyramid import StoreSettings, open_store
from resomap.models.registry import normalisation_of
from resomap.records import ImageRecord
from resomap.training.trainer import Trainer
model, side = {model!r}, {side}
paths = sorted(Path({images!r}).rglob("*.jpg"))
records = [ImageRecord(path.name, path, i % 2) for i, path in enumerate(paths)]
cache = Path({cache!r})
crop = data_share.ARMS["random_resized"]
settings = StoreSettings(resolutions=(side,), kernel="bilinear", crop=crop.crop, min_scale=crop.scale[0])
store = open_store(records, settings=settings, cache_dir=cache, cache_gib=4,
                   content_hashes=content_hashes(records, cache_dir=cache))
mean, std = normalisation_of(model)
loader = TrainLoader(store, resolution=side, augmentation=crop, effective_batch=32, micro_batch=32, seed=0,
                     mean=mean, std=std)
trainer = Trainer(build_model(model, num_classes=2, seed=0), loader, epochs=100, device="cpu", mixed_precision="no")
took(trainer.train_epoch, 4)
"""
GRADCAM = """
from resomap.explainability.gradcam import GradCAM
network = build_model("resnet18", num_classes=10, seed=0).eval()
images, targets = torch.randn(64, 3, 224, 224), torch.arange(64) % 10
took(lambda: GradCAM(network, chunk=16)(images, targets), 3)
"""
INTEGRATED = """
from resomap.explainability.integrated_gradients import IntegratedGradients
network = build_model("resnet18", num_classes=10, seed=0).eval()
images, targets = torch.randn(4, 3, 160, 160), torch.arange(4)
took(lambda: IntegratedGradients(network, steps=16, max_error=None, chunk=16)(images, targets), 2)
"""
IMPORT = """
import subprocess, sys, time
started = time.perf_counter()
for _ in range(5):
    subprocess.run([sys.executable, "-c", "import resomap"], check=True)
print("seconds", (time.perf_counter() - started) / 5)
"""
STUDY = "--models tiny_cnn,mobilenet_v3_small --resolutions 64,96 --seeds 0 --epochs 2 --device cpu --batch-size 16"
QUICK = (
    "system.profiling.blocks=5", "system.profiling.max_batch=4", "explainability.images=8", "mlflow.enabled=false",
    "analysis.matrix=true",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("earlier", type=Path, help="The src folder of the earlier state.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="Words, comma-separated: work whose name holds one of them.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs(folder / "images", 256)
        works = {
            f"train {model} {side} px": TRAIN.format(
                model=model, side=side, images=str(folder / "images"), cache=str(folder / "cache")
            )
            for model in ("tiny_cnn", "mobilenet_v3_small") for side in (64, 224)
        }  # fmt: skip
        works |= {"gradcam resnet18 224 px": GRADCAM, "integrated gradients resnet18 160 px": INTEGRATED}
        works["import resomap"] = IMPORT
        words = (given.only or "").split(",")
        chosen = {name: code for name, code in works.items() if any(word in name for word in words)}
        for name, code in chosen.items():
            pairs = [
                [seconds_of(name, code, source) for source in order(given.earlier, turn)]
                for turn in range(given.rounds)
            ]
            tell(name, pairs)
        if any(word in "a study, and its second start" for word in words):
            firsts, seconds = [], []
            numbers = itertools.count()
            (folder / "elsewhere").mkdir()
            for turn in range(given.rounds):
                both = [study(folder, next(numbers), source) for source in order(given.earlier, turn)]
                firsts.append([first for first, _ in both])
                seconds.append([second for _, second in both])
            tell("a study of 4 runs", firsts)
            tell("its second start", seconds)


def order(earlier: Path, turn: int) -> list[Path]:
    """Who goes first changes from round to round; `tell` is told the earlier one first."""
    return [earlier, NOW] if turn % 2 == 0 else [NOW, earlier]


def tell(name: str, pairs: list[list[float]]) -> None:
    straight = [pair if turn % 2 == 0 else pair[::-1] for turn, pair in enumerate(pairs)]
    now = ", ".join(f"{now:.3g}" for _, now in straight)
    print(f"{name:38s} earlier / now {shown([a / b for a, b in straight])}   now {now} s", flush=True)


def seconds_of(name: str, code: str, source: Path) -> float:
    """What the work says that it took."""
    whole = code if name.startswith("import") else PREPARE.format(here=str(HERE)) + code
    done = run([sys.executable, "-c", whole], source)
    return float(done.stdout.rsplit("seconds", 1)[1])


def study(folder: Path, number: int, source: Path) -> tuple[float, float]:
    """Seconds of the whole command on an empty cache, and of the same command again."""
    settings = [f"study.output={folder / f'study{number}'}", f"data.cache_dir={folder / f'cache{number}'}", *QUICK]
    command = [sys.executable, "-m", "resomap", "run", "--data", str(folder / "images"), *STUDY.split()]
    command += [word for setting in settings for word in ("--set", setting)]
    times = []
    for _ in range(2):
        started = time.perf_counter()
        run(command, source, folder / "elsewhere")
        times.append(time.perf_counter() - started)
    return times[0], times[1]


def run(command: list[str], source: Path, where: Path | None = None) -> subprocess.CompletedProcess[str]:
    """In the folder `where`: in one without configs/, since an earlier state does not know today's."""
    environment = os.environ | {"PYTHONPATH": str(source.resolve())}
    done = subprocess.run(command, env=environment, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"with {source}:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return done


if __name__ == "__main__":
    main()
