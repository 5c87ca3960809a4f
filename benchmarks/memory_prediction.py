"""How close is the predicted peak of memory to the measured one?

    python benchmarks/memory_prediction.py [--resolutions 224,320,512]

Six models x three resolutions, inference and training (an update with AdamW), float32 and bf16, batches of 2:
the peak of live tensor bytes predicted on shapes alone over the one counted while the step really runs. One line a
model and resolution, with the deviation of each of its four cases; at the end the largest one.
"""

from __future__ import annotations

import argparse
from itertools import product

from resomap.models.registry import build_model
from resomap.profiling.memory import measure_memory, predict_memory

MODELS = ("tiny_cnn", "simple_cnn", "resnet18", "mobilenet_v2", "mobilenet_v3_small", "vgg11")
BATCH = 2
CASES = [(kind, precision) for kind in ("inference", "training") for precision in ("no", "bf16")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolutions", default="224,320,512", help="comma-separated sides in pixels")
    sides = [int(side) for side in parser.parse_args().resolutions.split(",")]
    worst = 0.0
    for model, side in product(MODELS, sides):
        shown = []
        for kind, precision in CASES:
            predicted, measured = peaks(model, side, training=kind == "training", precision=precision)
            deviation = predicted / measured - 1
            worst = max(worst, abs(deviation))
            shown.append(f"{kind} {precision.replace('no', 'fp32')} {measured:.1f} MiB {deviation:+.2%}")
        print(f"{model} @{side}: {'; '.join(shown)}", flush=True)
    print(f"largest deviation of {len(MODELS) * len(sides) * len(CASES)} cases: {worst:.2%}")


def peaks(model: str, side: int, *, training: bool, precision: str) -> tuple[float, float]:
    """(predicted, measured) peak in MiB."""
    network = build_model(model, num_classes=3, seed=0)
    shape = (BATCH, 3, side, side)
    options = {"input_shape": shape, "training": training, "precision": precision}
    return predict_memory(network, **options).peak_mib, measure_memory(network, **options).peak_mib


if __name__ == "__main__":
    main()
