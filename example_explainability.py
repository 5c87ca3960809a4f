"""Explain one checkpoint on some images.

python example_explainability.py --checkpoint RUN_FOLDER --method gradcam --num-samples 10 [--data DIR]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import resomap
from resomap.data.decode import decode_rgb
from resomap.models.names import as_listed
from resomap.study.build import dataset


def main() -> int:
    """0, or 2 with one message where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a run's folder or weights file")
    parser.add_argument("--data", help="folder of images, torchvision:NAME, or acuity; default: that of its study")
    parser.add_argument("--model", help="checked against the checkpoint")
    parser.add_argument("--resolution", type=int, help="default: the checkpoint's own")
    parser.add_argument("--method", default="gradcam")
    parser.add_argument("--num-samples", type=int, default=10)
    parser.add_argument("--output", default="explanations")
    given = parser.parse_args()
    try:
        if given.num_samples < 1:
            raise resomap.ResoMapError(f"--num-samples: expected at least 1, got {given.num_samples}")
        checkpoint = resomap.load_checkpoint(given.checkpoint)
        known = checkpoint.metadata
        if given.model and as_listed(given.model, [known.model]) != known.model:
            raise resomap.ResoMapError(f"--model {given.model}: the checkpoint holds {known.model}; leave it out")
        explainer = resomap.ModelExplainer(
            checkpoint.model, class_names=known.class_names, preprocessing=checkpoint.preprocessing
        )
        above = (folder / "study.yaml" for folder in Path(given.checkpoint).resolve().parents)
        study = next((path for path in above if path.is_file()), None)
        images = dataset(resomap.load_config(study, flags={"data.source": given.data} if given.data else {}))
        if images.class_names != tuple(known.class_names):
            raise resomap.ResoMapError(
                f"{images.name}: expected the classes that the checkpoint tells apart, "
                f"{', '.join(known.class_names)}; got {', '.join(images.class_names)}; give --data"
            )
        split = images.splits.get("test") or images.splits["val"]
        chosen = split[:: max(1, len(split) // given.num_samples)][: given.num_samples]
        for number, record in enumerate(chosen):
            path = Path(given.output) / f"{given.method}-{number:03d}-{record.path.stem}.png"
            explainer.visualize_explanation(
                decode_rgb(record.path), resolution=given.resolution, target=record.label, method=given.method,
                save_path=path,
            )  # fmt: skip
            print(path)
    except resomap.ResoMapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
