"""How long `resomap run` takes before it trains, and how long when nothing is left to do.

    python benchmarks/start_up.py [--repetitions 5]

A study of 2 models x 5 resolutions is run to its end once (explanations, profile, matrix and report included): images
are decoded and tuned settings known from then on. Then, each in a process of its own, in turn:

    first step   the same study in a new folder: seconds from the command to the end of the first optimiser update
    nothing      the same command for the finished study: seconds from the command to its end

Printed: median (lowest to highest), and the modules that a start with nothing to do has loaded of those that are slow.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SLOW = ("torch", "torchvision", "timm", "accelerate", "mlflow", "pandas", "scipy", "matplotlib", "captum")
CHILD = """
import os, sys, time
from resomap.cli import live
from resomap.cli.main import main
if os.environ["UNTIL"] == "first step":
    def update_ended(*_, **__):
        print("seconds", time.time() - float(os.environ["STARTED"]))
        sys.stdout.flush()
        os._exit(0)
    live.PlainProgress.update_ended = update_ended
try:
    main()
finally:
    print("loaded", *[name for name in os.environ["SLOW"].split() if name in sys.modules])
    print("seconds", time.time() - float(os.environ["STARTED"]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--models", default="mobilenet_v3_small,resnet18")
    parser.add_argument("--resolutions", default="64,96,128,160,192")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        arguments = [
            "run", "--data", "acuity", "--models", given.models, "--resolutions", given.resolutions, "--seeds", "0",
            "--epochs", "1", "--set", f"data.cache_dir={root / 'cache'}", "--set", "system.profiling.blocks=5",
            "--set", "system.profiling.max_batch=4", "--set", "explainability.images=8",
            "--set", "data.acuity.train=64", "--set", "data.acuity.val=32", "--set", "data.acuity.test=32",
            "--set", "analysis.matrix=true",
        ]  # fmt: skip
        seconds, _ = start([*arguments, "--output", str(root / "done")], until="the end")
        print(f"the whole study                {seconds:6.2f} s", flush=True)
        found: dict[str, list[float]] = {"first step": [], "nothing": []}
        loaded: list[str] = []
        for i in range(given.repetitions):
            found["first step"].append(start([*arguments, "--output", str(root / f"new{i}")], until="first step")[0])
            seconds, loaded = start([*arguments, "--output", str(root / "done")], until="the end")
            found["nothing"].append(seconds)
        for name, values in found.items():
            print(f"{name:30s} {statistics.median(values):6.2f} s ({min(values):.2f}-{max(values):.2f})")
        print("loaded by 'nothing':", " ".join(loaded) or "none of", "" if loaded else " ".join(SLOW))


def start(arguments: list[str], *, until: str) -> tuple[float, list[str]]:
    """(seconds, slow modules that were loaded) of one start of the command line."""
    environment = os.environ | {"STARTED": repr(time.time()), "UNTIL": until, "SLOW": " ".join(SLOW)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("seconds ", "loaded ")))
    if done.returncode or "seconds" not in lines:
        raise SystemExit(f"{json.dumps(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return float(lines["seconds"]), lines.get("loaded", "").split()


if __name__ == "__main__":
    main()
