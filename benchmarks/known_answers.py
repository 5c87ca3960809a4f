"""Does the verdict recover planted answers?

    python benchmarks/known_answers.py [--replicates 20] [--first 0] [--work DIR]

Each replicate generates its own images (acuity: gratings of 27 cycles per image), trains tiny_cnn at 32, 48 and 64 px
with two seeds, times it, and asks for a recommendation with delta 0.05. The known answer is the smallest resolution
at which the ideal observer is within delta of its best. Then the same with a budget below that option's cost and a
least accuracy of 0.9: no option fits. Then as many replicates of the null variant, whose evidence every resolution
shows: the answer is the smallest.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from resomap.analysis.recommend import NONE_FITS, Budget, Recommendation
from resomap.config.load import load_config
from resomap.data.acuity import ideal_accuracy
from resomap.study.load import Study, load_study
from resomap.study.profile import profile_study
from resomap.study.sweep import run_study
from resomap.study.verdict import judge

SIDES = (32, 48, 64)
BAND = 27
DELTA = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed of the first replicate")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="known-answers-"))
    ideal = {side: ideal_accuracy(side, band=BAND) for side in SIDES}
    known = next(side for side in SIDES if ideal[side] >= max(ideal.values()) - DELTA)
    print(f"ideal observer: {', '.join(f'{side} px {a:.3f}' for side, a in ideal.items())}; the answer is {known} px")
    tally = {"right": 0, "too small": 0, "none fits": 0, "null: smallest": 0, "null: higher is better": 0}
    for replicate in range(given.first, given.first + given.replicates):
        study = trained(work / f"standard{replicate}", seed=replicate, variant="standard")
        found = judge(study, metric="accuracy", delta=DELTA)
        tally["right"] += found.resolution == known
        tally["too small"] += (found.resolution or 0) < known
        cost = next(o.latency_ms for o in found.options if o.resolution == known)
        budget = Budget(max_latency_ms=cost * 0.9, min_metric=0.9)
        tally["none fits"] += judge(study, metric="accuracy", delta=DELTA, budget=budget).status == NONE_FITS
        null = judge(trained(work / f"null{replicate}", seed=replicate, variant="null"), metric="accuracy", delta=DELTA)
        tally["null: smallest"] += null.resolution == SIDES[0]
        tally["null: higher is better"] += larger_shown(null)
        print(f"{replicate}: {found.status} {found.resolution} ({shown(found)}); null {null.status} {null.resolution} "
              f"({shown(null)})", flush=True)  # fmt: skip
    print(f"of {given.replicates}: {', '.join(f'{name} {count}' for name, count in tally.items())}")


def shown(found: Recommendation) -> str:
    return " ".join(f"{o.resolution}:{o.metric.value:.2f}" for o in found.options)


def larger_shown(found: Recommendation) -> bool:
    """Whether the smallest resolution was shown to be worse than the best one, which it is not."""
    smallest = found.options[0]
    return smallest.difference.high < 0


def trained(folder: Path, *, seed: int, variant: str) -> Study:
    """A finished, timed study of generated images."""
    config = load_config(
        Path(__file__).parents[1] / "configs" / "demo.yaml",
        [
            f"study.output={folder}", f"data.acuity.seed={seed}", f"data.acuity.variant={variant}",
            f"data.acuity.bands=[{BAND}]", "data.acuity.train=600", "data.acuity.val=400", "data.acuity.test=400",
            "sweep.models=[tiny_cnn]", f"sweep.resolutions={list(SIDES)}", "sweep.seeds=[0,1]", "training.epochs=6",
            f"data.cache_dir={folder}/cache", "mlflow.enabled=false", "system.profiling.blocks=15",
            "system.profiling.max_batch=1", "system.profiling.end_to_end_images=0",
        ],
    )  # fmt: skip
    run_study(config)
    profile_study(config)
    return load_study(folder)


if __name__ == "__main__":
    main()
