"""Do heat maps lie on the evidence, and fall off it where the evidence is out of reach?

    python benchmarks/acuity_attention.py [--variant standard|shortcut] [--dprime 50] [--work DIR]

tiny_cnn on generated gratings of 27 cycles, 32 to 96 px, two seeds; Grad-CAM's energy inside the known masks over their
share of the area, all images' energy summed: trained; on the masks of other images, which is what the same maps get
because gratings lie more often in the middle; with random weights, 20 initialisations pooled (fresh normalisation
statistics, in brackets those of the images themselves, and then the latter on the masks of other images); and trained
over random. Intervals draw images anew, and initialisations. --dprime sets how far the gratings stand out of the noise:
the ideal observer's d' at native size. Then the shortcut variant, where a tint tells the class at every resolution:
accuracy stays up, and the maps leave the gratings where they cannot be seen. With --work an interrupted benchmark goes
on where it was.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resomap.config.load import load_config
from resomap.config.schema import ResoMapConfig
from resomap.explainability.faithfulness import with_random_weights
from resomap.explainability.gradcam import GradCAM
from resomap.explainability.map_comparisons import energy_of
from resomap.metrics.map_intervals import pooled_energy
from resomap.records import Cell
from resomap.study import build
from resomap.study.explaining.explanations import explain_study, explained_of
from resomap.study.explaining.images import masks_of
from resomap.study.load import load_study
from resomap.study.sweep import run_study

SIDES = (32, 48, 64, 96)
VARIANTS = ("standard", "shortcut")
INITIALISATIONS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=VARIANTS, help="only this one")
    parser.add_argument("--dprime", type=float, default=50.0, help="of the ideal observer at native size")
    parser.add_argument("--work", type=Path, help="folder for the studies; default: a new one")
    given = parser.parse_args()
    chosen = given.variant
    work = given.work or Path(tempfile.mkdtemp(prefix="attention-"))
    for variant in (chosen,) if chosen else VARIANTS:
        config = load_config(
            Path(__file__).parents[1] / "configs" / "demo.yaml",
            [
                f"study.output={work / variant}", f"data.cache_dir={work / 'cache'}", f"data.acuity.variant={variant}",
                "data.acuity.bands=[27]", "sweep.models=[tiny_cnn]", f"sweep.resolutions={list(SIDES)}",
                "sweep.seeds=[0,1]", "mlflow.enabled=false", "explainability.spectral=false",
                f"explainability.random_weights={INITIALISATIONS}", "system.profiling.enabled=false",
                "analysis.matrix=false", f"data.acuity.native_dprime={given.dprime}",
            ],
        )  # fmt: skip
        run_study(config)
        found = explain_study(config)
        results = load_study(work / variant).results
        random = {row["resolution"]: row for row in found["faithfulness"]}
        for row in found["spread"]:
            side = row["resolution"]
            accuracy = results[(results["resolution"] == side) & (results["split"] == "test")]["accuracy"].mean()
            print(
                f"{variant:9s} {side:3d} px: accuracy {accuracy:.3f}, "
                f"energy in mask / area {shown(row['energy_in_mask'])}, "
                f"other images' masks {shown(row['energy_in_other_masks'])}, "
                f"random weights {shown(random[side]['random_weights_energy_in_mask'])} "
                f"[{shown(with_statistics(config, side))}; "
                f"other images' {shown(with_statistics(config, side, shift=1))}], "
                f"trained / random {shown(random[side]['energy_over_random_weights'])}",
                flush=True,
            )


def with_statistics(config: ResoMapConfig, side: int, *, shift: int = 0) -> dict[str, Any]:
    """Energy of random weights whose normalisation has seen the images, as in a first training step.

    Args:
        shift: each image's map on the masks of the image that many places further.
    """
    images = build.dataset(config)
    explained = explained_of(config, images)
    masks = masks_of(images, explained.records, max_pixels=build.max_pixels(config))
    assert masks is not None
    masks = masks[shift:] + masks[:shift]
    recipe = build.preprocessing(config, Cell("tiny_cnn", side, 0))
    _, images_BCHW = next(iter(explained.batches(recipe, batch_size=len(masks))))
    parts = []
    for seed in range(INITIALISATIONS):
        network = with_random_weights(build.model(config, Cell("tiny_cnn", side, 0), num_classes=2), seed=seed)
        network.train()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the mean of what is seen
        with torch.no_grad():
            network(images_BCHW)
        maps = GradCAM(network.eval())(images_BCHW, torch.from_numpy(explained.labels)).maps_Bhw.numpy()
        parts.append(energy_of(maps, explained.boxes, masks))
    return asdict(pooled_energy(np.array([p[0] for p in parts]), np.array([p[1] for p in parts])))


def shown(found: dict[str, float]) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f}-{found['high']:.2f})"


if __name__ == "__main__":
    main()
