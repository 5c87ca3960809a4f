"""Several processes on one study of ten runs, one of them killed half-way.

    python benchmarks/sharing.py [--processes 2]

tiny_cnn at 32 px with ten seeds, four epochs each, the state saved at every update. When half of the runs are finished,
the first process is killed with SIGKILL. Printed: what each process began, went on with, and finished. No run may be
begun by two (but for one whose first state was not saved yet), and all ten must be finished at the end.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd
from faults import arguments_for, make_images, start


def begun(text: str) -> tuple[list[int], list[int]]:
    """Seeds that a process began, and those that it went on with."""
    lines = re.findall(r"seed (\d+): 4 epochs(, going on)?", text)
    return [int(seed) for seed, going_on in lines if not going_on], [int(seed) for seed, going_on in lines if going_on]


def finished(text: str) -> list[int]:
    return [int(seed) for seed in re.findall(r"seed (\d+): val accuracy", text)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sharing-") as work:
        data, study = make_images(Path(work) / "data"), Path(work) / "study"
        options = arguments_for(data, study)
        options += ["--resolutions", "32", "--seeds", "0,1,2,3,4,5,6,7,8,9", "--epochs", "4"]
        options += ["--set", "system.profiling.enabled=false", "--set", "explainability.enabled=false"]
        running = [start(study, [*options, "--set", "analysis.matrix=false"]) for _ in range(given.processes)]
        done = 0
        while done < 5:
            for attempt in running:
                attempt.look(0.005)
            done = sum(len(finished(attempt.text)) for attempt in running)
        statuses = [running[0].end(signal.SIGKILL), *(attempt.end() for attempt in running[1:])]
        rows = pd.read_csv(study / "results.csv").query("split == 'val'")
    starts: Counter[int] = Counter()
    for number, (attempt, status) in enumerate(zip(running, statuses, strict=True)):
        fresh, gone_on = begun(attempt.text)
        starts.update(fresh)
        print(f"process {number} (status {status}): began seeds {fresh}, went on with {gone_on}, "
              f"saw finished {finished(attempt.text)}")  # fmt: skip
    twice = [seed for seed, count in starts.items() if count > 1]
    print(f"{len(rows)} runs finished, {twice or 'none'} begun twice")
    sys.exit(not (len(rows) == 10 and len(twice) <= 1 and statuses[1:] == [0] * (given.processes - 1)))


if __name__ == "__main__":
    main()
