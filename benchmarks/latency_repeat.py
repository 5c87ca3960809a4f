"""How repeatable are latency ratios, and is a planted slow-down found?

    python benchmarks/latency_repeat.py command [--repetitions 10] [--results FILE]
    python benchmarks/latency_repeat.py planted [--repetitions 10]

'command': `resomap profile` of three networks at 224 and 320 px, again and again, each time a process of its own with
the settings as they come. Printed: each time's ratios of latency at batch 1 (median of ratios of blocks timed in the
same round) with the rounds that counted, then their spread (largest less smallest, over the median). --results keeps
the ratios in a file, one line a repetition, and goes on from it: ten repetitions need not be done in one go.

'planted': one network against itself with 5 % of busy waiting added to every call, and against itself as it is, by the
same profiler: the first ratio must lie above 1 with its interval, the second must not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from resomap.allocator import keep_freed_memory
from resomap.models.registry import build_model
from resomap.profiling.latency import BATCH_1, Ratio, latency_ratio, paired_ratio
from resomap.profiling.profiler import profile_subjects
from resomap.profiling.records import ProfilingPlan, Rounds, Subject

MODELS = ("tiny_cnn", "mobilenet_v3_small", "resnet18")
LOW, HIGH = 224, 320
FEW_IMAGES = ["--set", "data.acuity.train=8", "--set", "data.acuity.val=8", "--set", "data.acuity.test=8"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("command", "planted"))
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    if given.part == "command":
        repeat_command(given.repetitions, given.results)
    else:
        plant(given.repetitions)


def repeat_command(repetitions: int, results: Path | None) -> None:
    """Part 1."""
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results and results.exists() else []
    with tempfile.TemporaryDirectory(prefix="repeat-") as work:
        while len(rows) < repetitions:
            started = time.perf_counter()
            rows.append(one_command(Path(work)))
            took_s = time.perf_counter() - started
            listed = "; ".join(f"{m} {r['value']:.3f} ({r['rounds']} of {r['of_rounds']})" for m, r in rows[-1].items())
            print(f"{len(rows)}: {listed}; {took_s:.0f} s", flush=True)
            if results:
                results.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for model in MODELS:
        ratios = [row[model]["value"] for row in rows]
        spread = (max(ratios) - min(ratios)) / np.median(ratios)
        deviation = np.std(ratios, ddof=1) / np.mean(ratios)
        listed = " ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"{model} {HIGH}/{LOW}: {listed}; spread {spread:.1%}, standard deviation {deviation:.1%}")


def one_command(work: Path) -> dict[str, dict[str, float]]:
    """model -> its ratio, from one call of the command."""
    found = work / "profile.json"
    subprocess.run(
        [sys.executable, "-m", "resomap", "profile", "--models", ",".join(MODELS), "--resolutions", f"{LOW},{HIGH}",
         "--output", str(work / "study"), "--json", str(found), "--set", f"data.cache_dir={work / 'cache'}",
         *FEW_IMAGES],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    blocks = {
        (record["model"], record["resolution"]): np.array(timed["block_medians_ms"])
        for record in json.loads(found.read_text())
        for timed in record["latency"]
        if timed["protocol"] == BATCH_1
    }
    return {model: asdict(paired_ratio(blocks[model, HIGH], blocks[model, LOW])) for model in MODELS}


class Slowed(nn.Module):
    """A network that takes `factor` times as long."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        started = time.perf_counter()
        answer = self.network(images)
        until = time.perf_counter() + (self.factor - 1) * (time.perf_counter() - started)
        while time.perf_counter() < until:
            pass
        return answer


def plant(repetitions: int) -> None:
    """Part 2."""
    keep_freed_memory()  # as the command line does
    for percent in (5, 0):
        ratios = [planted_ratio(1 + percent / 100) for _ in range(repetitions)]
        shown = " ".join(f"{r.value:.3f} ({r.low:.3f}-{r.high:.3f})" for r in ratios)
        print(f"planted {percent} %: slower in {sum(r.low > 1 for r in ratios)} of {len(ratios)}: {shown}", flush=True)


def planted_ratio(factor: float) -> Ratio:
    """The ratio of a slowed network to the same one as it is, from one profile."""
    network = build_model("resnet18", num_classes=2).eval()
    subjects = [Subject("plain", network, 128), Subject("slowed", Slowed(network, factor), 128)]
    plan = ProfilingPlan(protocols=(BATCH_1,), rounds=Rounds(60))
    plain, slowed = (record.at(BATCH_1) for record in profile_subjects(subjects, plan))
    return latency_ratio(slowed, plain)


if __name__ == "__main__":
    main()
