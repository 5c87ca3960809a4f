"""Explain one checkpoint on some images.

python example_explainability.py --checkpoint RUN_FOLDER --data DIR --method gradcam --num-samples 10
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

import resomap


def main() -> int:
    """0, or 2 with one message where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a run's folder or weights file")
    parser.add_argument("--data", required=True, help="folder of images, torchvision:NAME, or acuity")
    parser.add_argument("--model", help="checked against the checkpoint")
    parser.add_argument("--resolution", type=int, help="default: the checkpoint's own")
    parser.add_argument("--method", default="gradcam")
    parser.add_argument("--num-samples", type=int, default=10)
    parser.add_argument("--output", default="explanations")
    given = parser.parse_args()
    try:
        checkpoint = resomap.load_checkpoint(given.checkpoint)
        known = checkpoint.metadata
        if given.model and given.model.lower() != known.model:
            raise resomap.ResoMapError(f"--model {given.model}: the checkpoint holds {known.model}; leave it out")
        explainer = resomap.ModelExplainer(
            checkpoint.model, class_names=known.class_names, preprocessing=checkpoint.preprocessing
        )
        cache = Path(resomap.load_config().data.cache_dir).expanduser()
        images = resomap.open_dataset(given.data, cache_dir=cache)
        split = images.splits.get("test") or images.splits["val"]
        chosen = split[:: max(1, len(split) // given.num_samples)][: given.num_samples]
        for number, record in enumerate(chosen):
            with Image.open(record.path) as picture:
                path = Path(given.output) / f"{given.method}-{number:03d}-{record.path.stem}.png"
                explainer.visualize_explanation(
                    picture.convert("RGB"), resolution=given.resolution, target=record.label, method=given.method,
                    save_path=path,
                )  # fmt: skip
            print(path)
    except resomap.ResoMapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
