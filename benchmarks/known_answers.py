"""Does the verdict recover planted answers?

    python benchmarks/known_answers.py [--replicates 20] [--first 0] [--work DIR] [--results FILE]

Each replicate generates its own images of 128 px (acuity: gratings of 11 and of 27 cycles per image, two orientations
each), trains tiny_cnn at 32, 48 and 64 px with two seeds, times it, and asks for a recommendation with delta 0.05. What
is known beforehand, from the ideal observer:

- the smallest sufficient resolution of all classes together, and of each band's classes;
- below the cost of that option, and with at least 0.9 asked for, no option fits;
- images of 32 px brought to 48 or 64 px do not show the finer band: networks stay at chance (0.5) there;
- of the null variant, whose evidence every resolution shows, the smallest suffices.

Finished replicates are appended to --results as JSON lines; those that it holds are not run again, so that the
replicates can be done in parts. The totals are over all that it holds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from resomap.analysis.records import NONE_FITS, Budget, Recommendation
from resomap.config.load import load_config
from resomap.config.schema import ResoMapConfig
from resomap.data.acuity_render import AcuitySpec
from resomap.evaluation.store import read_predictions
from resomap.metrics.classification import wilson_interval
from resomap.records import Cell, Condition
from resomap.study import build
from resomap.study.costs.profile import profile_study
from resomap.study.cross_resolution import run_conditions
from resomap.study.load import Study, load_study
from resomap.study.sweep import run_study
from resomap.study.verdict import evidence
from resomap.study.verdict.known_answers import band_accuracy
from resomap.study.verdict.verdict import judge

SIDES = (32, 48, 64)
BANDS = (11, 27)
SIZE = 128
DELTA = 0.05
IMAGES = {"train": 600, "val": 400, "test": 400}
EPOCHS = {"standard": 9, "null": 6}
"""With six, networks at 48 px stay .03 behind those at 64, and 3 of 20 verdicts cannot tell."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed of the first replicate")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="known-answers-"))
    results = given.results or work / "results.jsonl"
    observer = AcuitySpec(size=SIZE, bands=BANDS, **IMAGES).observer("lanczos")
    overall = {side: observer.overall(side) for side in SIDES}
    within = {band: {side: observer.within_band(side, band) for side in SIDES} for band in BANDS}
    known = smallest_sufficient(overall)
    print(f"ideal observer, all classes: {shown(overall)}; the answer is {known} px")
    for band, by_side in within.items():
        print(f"ideal observer, {band} cycles: {shown(by_side)}; critical {smallest_sufficient(by_side)} px")
    done = read_results(results)
    for replicate in range(given.first, given.first + given.replicates):
        if replicate not in done:
            done[replicate] = measured(work, replicate, known=known)
            results.parent.mkdir(parents=True, exist_ok=True)
            with results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(done[replicate]) + "\n")
    rows = [done[replicate] for replicate in sorted(done)]
    for row in rows:
        print(
            f"{row['replicate']}: {row['status']} {row['resolution']} ({row['accuracy']}); "
            f"critical {row['critical']}; 32 px of information: {shown(row['blurred'])}; "
            f"null {row['null_status']} {row['null']}"
        )
    for line in totals(rows, known, {band: smallest_sufficient(by_side) for band, by_side in within.items()}):
        print(line)


def read_results(path: Path) -> dict[int, dict[str, Any]]:
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {row["replicate"]: row for row in rows}


def smallest_sufficient(accuracy: dict[int, float]) -> int:
    return next(side for side in sorted(accuracy) if accuracy[side] >= max(accuracy.values()) - DELTA)


def shown(values: dict[Any, float]) -> str:
    return ", ".join(f"{side} px {value:.3f}" for side, value in values.items())


def measured(work: Path, replicate: int, *, known: int) -> dict[str, Any]:
    """Everything that one replicate shows; its folders are deleted."""
    folder = work / f"standard{replicate}"
    study = trained(config_of(folder, seed=replicate, variant="standard"), detail=True)
    found = judge(study, metric="accuracy", delta=DELTA)
    cost = next(o.latency_ms for o in found.options if o.resolution == known)
    budget = Budget(max_latency_ms=cost * 0.9, min_metric=0.9)
    poor = judge(study, metric="accuracy", delta=DELTA, budget=budget)
    critical = {row["name"]: row["critical_resolution"] for row in evidence.classes(study)}
    blurred = {str(side): blurred_accuracy(study, side) for side in SIDES[1:]}
    null_folder = work / f"null{replicate}"
    null = judge(trained(config_of(null_folder, seed=replicate, variant="null")), metric="accuracy", delta=DELTA)
    row = {
        "replicate": replicate, "status": found.status, "resolution": found.resolution, "accuracy": accuracies(found),
        "none_fits": poor.status == NONE_FITS, "critical": critical, "blurred": blurred,
        "null_status": null.status, "null": null.resolution,
        "null_higher": null.options[0].difference.high < 0,  # the smallest "shown" to be worse: it is not
    }  # fmt: skip
    for done in (folder, null_folder):
        shutil.rmtree(done)
    return row


def accuracies(found: Recommendation) -> str:
    return " ".join(f"{o.resolution}:{o.metric.value:.2f}" for o in found.options)


def blurred_accuracy(study: Study, side: int) -> float:
    """Within the finer band, of images reduced to 32 px and brought to `side`; mean over seeds."""
    names = AcuitySpec(size=SIZE, bands=BANDS, **IMAGES).class_names[2:]
    condition = Condition("test", side, SIDES[0])
    _, seeds = study.grid["tiny_cnn"]
    stored = [
        read_predictions(study.layout.predictions_path(Cell("tiny_cnn", side, seed), condition)) for seed in seeds
    ]
    return float(np.mean([band_accuracy(answers, (names[0], names[1])) for answers in stored]))


def config_of(folder: Path, *, seed: int, variant: str) -> ResoMapConfig:
    counts = [f"data.acuity.{split}={count}" for split, count in IMAGES.items()]
    return load_config(
        Path(__file__).parents[1] / "configs" / "demo.yaml",
        [
            f"study.output={folder}/study", f"data.cache_dir={folder}/cache", f"data.acuity.seed={seed}",
            f"data.acuity.variant={variant}", f"data.acuity.bands={list(BANDS)}", f"data.acuity.size={SIZE}", *counts,
            "sweep.models=[tiny_cnn]", f"sweep.resolutions={list(SIDES)}", "sweep.seeds=[0,1]",
            f"training.epochs={EPOCHS[variant]}",
            "mlflow.enabled=false", "system.profiling.blocks=15", "system.profiling.precision=null",
            "system.profiling.max_batch=1", "system.profiling.end_to_end_images=0",
        ],
    )  # fmt: skip


def trained(config: ResoMapConfig, *, detail: bool = False) -> Study:
    """A finished, timed study of generated images."""
    run_study(config)
    profile_study(config)
    images = build.dataset(config)
    root = build.layout(config, images).root
    if detail:
        run_conditions(config, load_study(root), images=images, weights=(), detail=True)
    return load_study(root)


def totals(rows: list[dict[str, Any]], known: int, critical: dict[int, int]) -> list[str]:
    """What the replicates say together."""
    count = len(rows)
    right = sum(row["status"] == "recommend" and row["resolution"] == known for row in rows)
    small = sum((row["resolution"] or 0) < known for row in rows)
    names = AcuitySpec(size=SIZE, bands=BANDS, **IMAGES).class_names
    of_class = {name: critical[BANDS[position // 2]] for position, name in enumerate(names)}
    steps = [
        abs(SIDES.index(row["critical"][name]) - SIDES.index(side)) for row in rows for name, side in of_class.items()
    ]
    null = sum(row["null"] == SIDES[0] for row in rows)
    lines = [
        f"of {count} replicates: the planted answer in {right}, one that is too small in {small}; none fits in "
        f"{sum(row['none_fits'] for row in rows)}; null: the smallest in {null}, "
        f"a false 'higher is better' in {sum(row['null_higher'] for row in rows)}",
        f"critical resolution of {len(steps)} classes: exact in {steps.count(0)}, within a step in "
        f"{sum(step <= 1 for step in steps)}",
    ]
    for side in SIDES[1:]:
        values = [row["blurred"][str(side)] for row in rows]
        images = IMAGES["test"] // 2 * len(values)
        low, high = wilson_interval(float(np.mean(values)) * images, images)
        lines.append(
            f"{SIDES[0]} px of information at {side} px: within the finer band {np.mean(values):.3f} "
            f"({low:.3f} to {high:.3f}; chance 0.5), largest replicate {max(values):.3f}"
        )
    return lines


if __name__ == "__main__":
    main()
