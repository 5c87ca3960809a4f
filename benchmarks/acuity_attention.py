"""Do heat maps lie on the evidence, and fall off it where the evidence is out of reach?

    python benchmarks/acuity_attention.py

tiny_cnn on generated gratings of 27 cycles, 32 to 96 px, two seeds; Grad-CAM's energy inside the known masks over their
share of the area (1 is chance), for trained and for random weights. Then the shortcut variant, where a tint tells the
class at every resolution: accuracy stays up, and the maps leave the gratings where they cannot be seen.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from resomap.config.load import load_config
from resomap.study.explanations import explain_study
from resomap.study.load import load_study
from resomap.study.sweep import run_study

SIDES = (32, 48, 64, 96)


def main() -> None:
    work = Path(tempfile.mkdtemp(prefix="attention-"))
    for variant in ("standard", "shortcut"):
        config = load_config(
            Path(__file__).parents[1] / "configs" / "demo.yaml",
            [
                f"study.output={work / variant}", f"data.cache_dir={work / 'cache'}", f"data.acuity.variant={variant}",
                "data.acuity.bands=[27]", "sweep.models=[tiny_cnn]", f"sweep.resolutions={list(SIDES)}",
                "sweep.seeds=[0,1]", "mlflow.enabled=false", "explainability.spectral=false",
            ],
        )  # fmt: skip
        run_study(config)
        found = explain_study(config)
        results = load_study(work / variant).results
        random = {row["resolution"]: row["random_weights_energy_in_mask"] for row in found["faithfulness"]}
        for row in found["spread"]:
            side = row["resolution"]
            accuracy = results[(results["resolution"] == side) & (results["split"] == "test")]["accuracy"].mean()
            trained = row["energy_in_mask"]
            print(
                f"{variant:9s} {side:3d} px: accuracy {accuracy:.3f}, energy in mask / area {shown(trained)}, "
                f"random weights {shown(random[side])}",
                flush=True,
            )


def shown(found: dict[str, float]) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f}-{found['high']:.2f})"


if __name__ == "__main__":
    main()
