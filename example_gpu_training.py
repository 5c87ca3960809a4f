"""Train one model at one resolution with the library, without the command line.

    python example_gpu_training.py --resolution 224 --model VGG11 --epochs 10 [--data DIR]

Uses the accelerator where there is one; the same settings as `resomap train`.
"""

from __future__ import annotations

import argparse
import sys

from resomap import ResoMapError, load_config, run_study
from resomap.cli.live import make_progress
from resomap.cli.tables import results_text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=224, help="side in pixels")
    parser.add_argument("--model", default="VGG11", help="one of `resomap.list_models()`, or any timm name")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--data", default="acuity", help="folder of images; default: generated ones")
    parser.add_argument("--output", default="studies/{data}-example")
    parser.add_argument("--set", action="append", default=[], help="any setting: training.batch_size=16")
    given = parser.parse_args()
    try:
        config = load_config(
            overrides=given.set,
            flags={
                "data.source": given.data,
                "sweep.models": [given.model],
                "sweep.resolutions": [given.resolution],
                "sweep.seeds": [0],
                "training.epochs": given.epochs,
                "study.output": given.output,
            },
        )
        with make_progress() as progress:
            result = run_study(config, progress=progress)
    except ResoMapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(results_text(result, result.read_records(), metric="accuracy"), end="")
    return 1 if result.failed else 0


if __name__ == "__main__":
    sys.exit(main())
