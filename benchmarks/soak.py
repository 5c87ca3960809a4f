"""Many short runs in one process: does anything grow?

    python benchmarks/soak.py [--cells 200] [--workers 0]

tiny_cnn at 32 and 40 px with as many seeds as it takes, one epoch each. After every run: resident memory (its least
over the last ten runs, since single readings jump), open file handles, threads, child processes, objects that Python
tracks. The last column must not follow the first: the slope is of resident memory over the second half, in KiB a run.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from pathlib import Path

import numpy as np
import psutil
from faults import make_images

from resomap.config.load import load_config
from resomap.records import RunRecord
from resomap.study.progress import StudyProgress
from resomap.study.sweep import run_study

SIDES = (32, 40)


class Meter(StudyProgress):
    """Reads this process after each run."""

    def __init__(self, every: int) -> None:
        self.process, self.every = psutil.Process(), every
        self.rows: list[tuple[float, int, int, int, int]] = []

    def run_ended(self, record: RunRecord) -> None:
        gc.collect()
        self.rows.append((
            self.process.memory_info().rss / 2**20, self.process.num_fds(), self.process.num_threads(),
            len(self.process.children()), len(gc.get_objects()),
        ))  # fmt: skip
        if len(self.rows) % self.every == 0:
            _, handles, threads, children, objects = self.rows[-1]
            least = min(row[0] for row in self.rows[-10:])
            print(f"{len(self.rows):4d} runs  {least:7.1f} MiB  {handles:3d} handles  {threads:3d} threads  "
                  f"{children} children  {objects:7d} objects", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--workers", type=int, default=0, help="data.workers")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as work:
        seeds = list(range(given.cells // len(SIDES)))
        config = load_config(
            overrides=[
                f"data.source={make_images(Path(work) / 'data')}", f"data.cache_dir={work}/cache",
                f"data.workers={given.workers}", f"study.output={work}/study", "mlflow.enabled=false",
                "system.device=cpu", "sweep.models=[tiny_cnn]", f"sweep.resolutions={list(SIDES)}",
                f"sweep.seeds={seeds}", "training.epochs=1", "training.batch_size=8",
            ]
        )  # fmt: skip
        meter = Meter(max(1, given.cells // 10))
        result = run_study(config, progress=meter)
    half = meter.rows[len(meter.rows) // 2 :]
    slope = np.polyfit(np.arange(len(half)), [row[0] * 1024 for row in half], 1)[0]
    print(
        f"{len(result.cells)} runs, {len(result.failed)} failed; "
        f"resident memory {slope:+.1f} KiB a run over the last {len(half)}"
    )


if __name__ == "__main__":
    main()
