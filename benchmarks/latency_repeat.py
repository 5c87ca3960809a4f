"""How repeatable are latency ratios, and is a planted slow-down found?

    python benchmarks/latency_repeat.py [--repetitions 10]

Ten profiles one after the other; each gives the ratio of latency between two resolutions (median of ratios of blocks
timed in the same round). Printed: every ratio, and their spread (largest - smallest) / median. Then the same network
twice, one of them with 5 % of busy waiting added to every call: its ratio must lie above 1 with its interval, and that
of two equal ones must not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from resomap.allocator import keep_freed_memory
from resomap.models.registry import build_model
from resomap.profiling.latency import BATCH_1, Ratio, latency_ratio, summarise
from resomap.profiling.modes import deploy
from resomap.profiling.profiler import ProfilingPlan, Subject, profile_subjects
from resomap.profiling.timing import clock_of, time_in_turn

CPU = torch.device("cpu")
MODELS = ("tiny_cnn", "mobilenet_v3_small", "resnet18")
LOW, HIGH = 224, 320


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10)
    repetitions = parser.parse_args().repetitions
    keep_freed_memory()  # as the command line does
    for model in MODELS:
        ratios = [profiled_ratio(model) for _ in range(repetitions)]
        spread = (max(ratios) - min(ratios)) / np.median(ratios)
        deviation = np.std(ratios, ddof=1) / np.mean(ratios)
        listed = " ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"{model} {HIGH}/{LOW}: {listed}; spread {spread:.1%}, standard deviation {deviation:.1%}", flush=True)
    network = build_model("resnet18", num_classes=2).eval()
    call = deploy(network, "eager", device=CPU)(torch.randn(1, 3, 128, 128))
    found = [planted(call, 1.05) for _ in range(repetitions)]
    equal = [planted(call, 1.00) for _ in range(repetitions)]
    for name, ratios in (("planted 5 %", found), ("planted 0 %", equal)):
        shown = " ".join(f"{r.value:.3f} ({r.low:.3f}-{r.high:.3f})" for r in ratios)
        print(f"{name}: slower in {sum(r.low > 1 for r in ratios)} of {len(ratios)}: {shown}", flush=True)


def profiled_ratio(model: str) -> float:
    """Latency at HIGH over latency at LOW, from one profile."""
    network = build_model(model, num_classes=2).eval()
    subjects = [Subject(model, network, side) for side in (LOW, HIGH)]
    small, large = (record.at(BATCH_1) for record in profile_subjects(subjects, ProfilingPlan(protocols=(BATCH_1,))))
    return latency_ratio(large, small).value


def planted(call: Callable[[], object], factor: float) -> Ratio:
    """The ratio of a call slowed by `factor` to the call itself."""

    def slower() -> None:
        started = time.perf_counter()
        call()
        until = time.perf_counter() + (factor - 1) * (time.perf_counter() - started)
        while time.perf_counter() < until:
            pass

    times = time_in_turn([call, slower], clock=clock_of(CPU), blocks=40)
    plain, slow = (summarise(t, protocol=BATCH_1, mode="eager", batch_size=1) for t in times)
    return latency_ratio(slow, plain)


if __name__ == "__main__":
    main()
