"""Training speed beside the peers: images/s in steady state, every loop in a process of its own, in turn.

    python benchmarks/peers.py [--jobs resnet18@224,tiny_cnn@512] [--rounds 3] [--photographs DIR] [--results FILE]
    python benchmarks/peers.py --summary

Peers: a torchvision-style loop, Lightning, timm's loader, optimizer and scheduler (benchmarks/peer_arms.py). Each runs
as its documentation writes it with 2 workers ("default"), and with channels_last, the fused AdamW, logging off, and the
precision and number of workers that a trial with the plain loop finds fastest ("tuned"). ResoMap runs through its own
loaders and Trainer. While one process trains the others are stopped, so that what their workers hold ready is what they
had. The ratio is taken round by round. Results are kept after each job and further rounds added to them, so that jobs
can be run one by one.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import median_interval, photographs, shown

from resomap.serialize import read_json, write_json

JOBS = {
    f"{model}@{side}": (model, side, batch)
    for model in ("tiny_cnn", "mobilenet_v3_small", "mobilenet_v2", "resnet18")
    for side, batch in ((224, 16), (512, 8))
}
PEERS = ("plain", "lightning", "timm")
WINDOW_S = 4.0
"""Of ResoMap's; the others do as many updates."""


class Loop:
    """One training loop in its own process, stopped except while it is asked for updates."""

    def __init__(self, log: Path, **job: Any) -> None:
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("peer_arms.py")), json.dumps(job)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            start_new_session=True, preexec_fn=_die_with_parent,
        )  # fmt: skip
        self._path = log

    def ask(self, updates: int) -> Any:
        """Let it do so many updates; what it answers."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        os.killpg(process.pid, signal.SIGCONT)
        process.stdin.write(f"{updates}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"a loop ended early:\n{self._path.read_text()[-3000:]}")
        os.killpg(process.pid, signal.SIGSTOP)
        return json.loads(line)

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def run_job(
    name: str, before: dict[str, Any], *, images: Path, folder: Path, rounds: int, window_s: float
) -> Iterator[dict[str, Any]]:
    """images/s of every loop, after each round; those of `before`, if any, stay, and so does its trial."""
    model, side, batch = JOBS[name]
    common = {"model": model, "side": side, "batch": batch, "images": str(images), "cache": str(folder)}
    tuned = before.get("tuned") or trial(folder, common)
    best = {"precision": tuned["precision"], "workers": tuned["workers"]}
    best |= {"channels_last": True, "fused": True, "quiet": True}
    arms = {"resomap": common | {"arm": "resomap", "precision": tuned["precision"]}}
    for peer in PEERS:
        arms |= {f"{peer} default": common | {"arm": peer}, f"{peer} tuned": common | {"arm": peer} | best}
    loops: dict[str, Loop] = {}
    rates: dict[str, list[float]] = before.get("rates") or {arm: [] for arm in arms}
    try:
        for arm, job in arms.items():
            loops[arm] = Loop(folder / f"{arm}.log", **job)
        for loop in loops.values():
            loop.ask(2)
        updates = before.get("updates") or min(12, max(2, round(window_s / loops["resomap"].ask(2) * 2)))
        for turn in range(rounds):
            order = list(arms) if turn % 2 == 0 else list(reversed(arms))
            found = {arm: batch * updates / loops[arm].ask(updates) for arm in order}
            for arm, rate in found.items():
                rates[arm].append(rate)
            yield {"rates": rates, "tuned": tuned, "batch": batch, "updates": updates}
    finally:
        for loop in loops.values():
            loop.close()


def trial(folder: Path, common: dict[str, Any]) -> dict[str, Any]:
    tuning = Loop(folder / "tune.log", arm="tune", **common)
    try:
        found: dict[str, Any] = tuning.ask(4 if common["side"] < 512 else 2)
        return found
    finally:
        tuning.close()


def ratios(found: dict[str, Any], arm: str) -> list[float]:
    return [ours / other for ours, other in zip(found["rates"]["resomap"], found["rates"][arm], strict=True)]


def summary(results: dict[str, Any]) -> None:
    for name, found in results.items():
        rates = {arm: median_interval(values)[0] for arm, values in found["rates"].items()}
        print(f"{name}: batch {found['batch']}, {found['updates']} updates a window, trial {found['tuned']['tried']}")
        print(f"    resomap {rates['resomap']:7.1f} images/s")
        for arm in list(rates)[1:]:
            print(f"    {arm:18s} {rates[arm]:7.1f} images/s; resomap is {shown(ratios(found, arm))} times as fast")
    for kind in ("default", "tuned"):
        for peer in PEERS:
            medians = [median_interval(ratios(found, f"{peer} {kind}"))[0] for found in results.values()]
            mean = math.exp(sum(map(math.log, medians)) / len(medians))
            print(f"{peer} {kind}: geometric mean {mean:.2f}, lowest {min(medians):.2f}, {len(medians)} jobs")
    best = [min(median_interval(ratios(f, f"{peer} tuned"))[0] for peer in PEERS) for f in results.values()]
    mean = math.exp(sum(map(math.log, best)) / len(best))
    print(f"best tuned peer of each job: geometric mean {mean:.2f}, lowest {min(best):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("build/peers.json"))
    parser.add_argument("--summary", action="store_true", help="Only print what is there.")
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window-s", type=float, default=WINDOW_S)
    parser.add_argument("--photographs", type=Path, help="A folder of folders, one a class.")
    given = parser.parse_args()
    results = read_json(given.results) if given.results.exists() else {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    if not given.summary:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            folder = Path(name)
            if given.photographs is None:
                photographs(folder / "images", 384)
            for job in given.jobs.split(","):
                started = time.monotonic()
                images = given.photographs or folder / "images"
                found = run_job(
                    job, results.get(job, {}), images=images, folder=folder, rounds=given.rounds,
                    window_s=given.window_s,
                )  # fmt: skip
                for so_far in found:
                    results[job] = so_far
                    write_json(given.results, results)
                print(f"{job}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    summary(results)


if __name__ == "__main__":
    main()
