"""What keeping freed memory does: speed of training, repeatability of latency, resident memory.

    python benchmarks/keep_memory.py [--repetitions 6]

Each repetition is two processes one after the other, one that keeps freed memory (as the command line does) and one
that does not. In each: one profile of each network, the ratio of latency at 320 px to that at 224 px (first, since
training steps teach glibc to keep blocks of up to 32 MiB anyway); training steps on a constant batch, images a second;
the peak of resident memory. Printed: ratios of speed and memory pair by pair, and the standard deviation of the latency
ratio over the processes of either kind.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np

BATCH, STEPS = 16, 12
LOW, HIGH = 224, 320
JOBS = (("tiny_cnn", 224), ("mobilenet_v3_small", 224), ("resnet18", 224))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=6)
    parser.add_argument("--one", choices=("kept", "default"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(keep=given.one == "kept")))
        return
    found: dict[str, list[dict[str, float]]] = {"kept": [], "default": []}
    for _ in range(given.repetitions):
        for arm, rows in found.items():
            done = subprocess.run([sys.executable, __file__, "--one", arm], capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout))
    for name in found["kept"][0]:
        kept, default = (np.array([row[name] for row in found[arm]]) for arm in ("kept", "default"))
        if name.startswith("latency"):
            spread = ", ".join(
                f"{arm} {np.std(v, ddof=1) / np.mean(v):.1%}" for arm, v in (("kept", kept), ("default", default))
            )
            print(f"{name}: standard deviation {spread}; kept {shown(kept)}; default {shown(default)}")
        else:
            ratios = kept / default
            low, middle, high = ratios.min(), np.median(ratios), ratios.max()
            print(f"{name}: kept / default {middle:.2f} ({low:.2f}-{high:.2f}); kept {shown(kept)}")


def measure(*, keep: bool) -> dict[str, float]:
    """Everything of one process."""
    from resomap.allocator import keep_freed_memory

    if keep:
        keep_freed_memory()
    found: dict[str, float] = {}
    for model, _ in JOBS:
        found[f"latency {model} {HIGH}/{LOW}"] = profiled_ratio(model)
    for model, side in JOBS:
        found[f"training {model} at {side} px, images/s"] = training_rate(model, side)
    found["peak resident memory, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def profiled_ratio(model: str) -> float:
    """Latency at HIGH over latency at LOW, from one profile."""
    from resomap.models.registry import build_model
    from resomap.profiling.latency import BATCH_1, latency_ratio
    from resomap.profiling.profiler import profile_subjects
    from resomap.profiling.records import ProfilingPlan, Rounds, Subject

    network = build_model(model, num_classes=2).eval()
    subjects = [Subject(model, network, side) for side in (LOW, HIGH)]
    plan = ProfilingPlan(protocols=(BATCH_1,), rounds=Rounds(50))
    small, large = (record.at(BATCH_1) for record in profile_subjects(subjects, plan))
    return latency_ratio(large, small).value


def training_rate(model: str, side: int) -> float:
    """Images per second of plain steps on one batch, the median step."""
    import torch

    from resomap.models.registry import build_model

    network = build_model(model, num_classes=2).train().to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % 2
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    seconds = []
    for _ in range(STEPS + 3):
        started = time.perf_counter()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
    return BATCH / float(np.median(seconds[3:]))


def shown(values: np.ndarray) -> str:
    return " ".join(f"{v:.4g}" for v in values)


if __name__ == "__main__":
    main()
