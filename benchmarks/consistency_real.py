"""Is the consistency C what it says on real runs?

    python benchmarks/consistency_real.py

tiny_cnn on generated gratings, one resolution, six seeds. Three of them play one resolution, the other three another:
nothing but seeds differs, so C should be 1 within its interval. Then the second group's maps are those of other images:
C should be 0.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from resomap.config.load import load_config
from resomap.explainability.agreement import consistency
from resomap.explainability.store import read_maps
from resomap.study.explaining.explanations import explain_study
from resomap.study.load import load_study
from resomap.study.sweep import run_study

SIDE = 64


def main() -> None:
    work = Path(tempfile.mkdtemp(prefix="consistency-"))
    config = load_config(
        Path(__file__).parents[1] / "configs" / "demo.yaml",
        [
            f"study.output={work / 'study'}", f"data.cache_dir={work / 'cache'}", "data.acuity.bands=[27]",
            "sweep.models=[tiny_cnn]", f"sweep.resolutions=[{SIDE}]", "sweep.seeds=[0,1,2,3,4,5]",
            "mlflow.enabled=false", "explainability.spectral=false", "explainability.sanity=false",
            "explainability.methods=[gradcam,saliency]",
        ],
    )  # fmt: skip
    run_study(config)
    explain_study(config)
    study = load_study(work / "study")
    other = np.roll(np.arange(64), 7)
    for method in ("gradcam", "saliency"):
        maps = [read_maps(study.layout.maps_path(run.cell, method)) for run in study.runs]
        stored = [m.maps.astype(np.float64) for m in maps if m is not None]
        first = {seed: stored[seed] for seed in range(3)}
        for name, order in (("same images", np.arange(64)), ("other images", other)):
            second = {seed: stored[3 + seed][order] for seed in range(3)}
            found = consistency({0: first, 1: second}, 0, 1)
            c = found.consistency
            shown = "none" if c.value is None else f"{c.value:.3f} ({c.low:.3f} to {c.high:.3f})"
            print(
                f"{method:8s} {name:12s}: floor {found.floor.value:.3f}, across {found.cross.value:.3f}, "
                f"ceiling {found.ceiling.value:.3f}, C {shown}: {found.verdict}"
            )


if __name__ == "__main__":
    main()
