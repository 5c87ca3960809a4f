"""Runs side by side beside runs one after the other, by the command, on the same cores.

    python benchmarks/runs_at_once.py [--rounds 3] [--jobs tiny_cnn:96,mobilenet_v3_small:96,resnet18:96] [--runs 2]

Each job is a study of four seeds that trains and evaluates; tracking, profiling, explanations and the report are left
out. Both start as new processes, in turn, on images that are decoded already. `--runs` at once have the cores between
them. Whole commands are timed, with their start and that of the helpers.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from functools import partial
from pathlib import Path

from measure import in_turn, photographs, shown
from study_vs_parts import run

SETTINGS = (
    "data.val_fraction=0.2", "data.test_fraction=0.2", "training.batch_size=16", "system.device=cpu",
    "mlflow.enabled=false", "system.profiling.enabled=false", "explainability.enabled=false", "analysis.report=false",
)  # fmt: skip
EPOCHS = {"tiny_cnn": 24, "mobilenet_v3_small": 8, "resnet18": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", default="tiny_cnn:96,mobilenet_v3_small:96,resnet18:96")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--images", type=int, default=400, help="Three fifths of them for training.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs(folder / "images", given.images)
        number = itertools.count()

        def study(model: str, side: str, runs: int) -> None:
            settings = (
                *SETTINGS, f"study.output={folder}/{next(number)}", f"data.cache_dir={folder}/cache",
                f"training.epochs={EPOCHS.get(model, 4)}", f"system.runs_at_once={runs}",
            )  # fmt: skip
            options = [word for setting in settings for word in ("--set", setting)]
            run("-m", "resomap", "run", "--data", str(folder / "images"), "--models", model, "--resolutions", side,
                "--seeds", "0,1,2,3", *options)  # fmt: skip

        for job in given.jobs.split(","):
            model, side = job.split(":")
            arms = {runs: partial(study, model, side, runs) for runs in (1, given.runs)}
            study(model, side, 1)
            seconds = in_turn({str(runs): arm for runs, arm in arms.items()}, given.rounds)
            alone, together = seconds["1"], seconds[str(given.runs)]
            ratios = [one / several for one, several in zip(alone, together, strict=True)]
            print(
                f"{model:20s} {side:>4s} px  one at a time {shown(alone)} s, {given.runs} at once {shown(together)} s: "
                f"{shown(ratios)} times as fast",
                flush=True,
            )


if __name__ == "__main__":
    main()
