"""A whole small study, from the command to its results, beside the same work scripted from its parts.

    python benchmarks/study_vs_parts.py [--rounds 2] [--models tiny_cnn,mobilenet_v3_small] [--resolutions 64,96,...]

2 models x 5 resolutions, 3 epochs; every network at every resolution; latency and operations; Grad-CAM of 64 images.
Both start as new processes, in turn; ResoMap with an empty cache and study folder. It does more in that time: each
image's predictions and calibration, more conditions that tell detail from size, memory of training and inference,
agreement of the maps across resolutions. Tracking and the report are left out on both sides.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import in_turn, photographs, shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--models", default="tiny_cnn,mobilenet_v3_small")
    parser.add_argument("--resolutions", default="64,96,128,160,192")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=256, help="for training; a quarter as many for each other split")
    parser.add_argument("--set", action="append", default=[], help="More settings of ResoMap's.")
    given = parser.parse_args()
    sides = [int(side) for side in given.resolutions.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, share in {"train": 1, "val": 4, "test": 4}.items():
            photographs(folder / "images" / split, given.images // share)
        runs = (folder / f"round-{i}" for i in itertools.count())

        def ours() -> None:
            fresh = next(runs)
            settings = [
                f"study.output={fresh}/study", f"data.cache_dir={fresh}/cache", "training.batch_size=16",
                "system.device=cpu", "mlflow.enabled=false", "analysis.matrix=true", "analysis.report=false",
                "explainability.spectral=false", "explainability.faithfulness=false", "explainability.gallery=0",
                *given.set,
            ]  # fmt: skip
            options = [word for setting in settings for word in ("--set", setting)]
            run(
                "-m", "resomap", "run", "--data", str(folder / "images"), "--models", given.models, "--resolutions",
                given.resolutions, "--seeds", "0", "--epochs", str(given.epochs), *options,
            )  # fmt: skip

        def parts() -> None:
            job = [str(folder / "images"), given.models.split(","), sides, given.epochs]
            run(str(Path(__file__).with_name("parts_study.py")), json.dumps(job))

        seconds = in_turn({"resomap": ours, "parts": parts}, given.rounds)
    for arm, taken in seconds.items():
        print(f"{arm:8s} {', '.join(f'{each:.1f}' for each in taken)} s")
    pairs = zip(seconds["parts"], seconds["resomap"], strict=True)
    print(f"parts / resomap: {shown([other / own for other, own in pairs])}")


def run(*words: str) -> None:
    outcome = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if outcome.returncode:
        raise SystemExit(f"{' '.join(words[:3])} failed:\n{outcome.stdout[-2000:]}{outcome.stderr[-3000:]}")


if __name__ == "__main__":
    main()
