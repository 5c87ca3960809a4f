"""Twenty short runs on a Ray cluster beside the same twenty without Ray, on as many CPUs and threads.

    python benchmarks/ray_overhead.py [--epochs 30] [--rounds 1]

tiny_cnn at 96 px with 20 seeds, one thread a run, two runs at a time. Local: two `resomap run` on one study directory.
Ray: one `resomap run --executor ray` on a cluster of this machine, a head for the study and two nodes of one CPU each
with caches of their own. What is timed is the whole command, from its start to its tables; profile, explanations and
report are off. The start of the cluster is not counted and is printed. Last: how many calls a second the study's actor
answers, through which every running cell tells its progress twice a second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import ray
from faults import make_images
from measure import in_turn, median_interval
from ray.cluster_utils import Cluster

from resomap.study.executors.ray_hub import Hub

RUNS, AT_ONCE = 20, 2
OFF = ("system.profiling.enabled", "explainability.enabled", "analysis.report", "mlflow.enabled", "system.autotune")


def start_cluster(homes: Path) -> Cluster:
    small = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    for number in range(AT_ONCE):
        home = homes / f"node{number}"
        home.mkdir()
        cluster.add_node(num_cpus=1, env_vars={"HOME": str(home), "OMP_NUM_THREADS": "1"}, **small)
    return cluster


def run_study(work: Path, study: Path, *, epochs: int, processes: int, options: tuple[str, ...] = ()) -> None:
    """Run the study to its end, by that many processes."""
    command = [
        sys.executable, "-m", "resomap", "run", "--data", str(work / "data"), "--models", "tiny_cnn",
        "--resolutions", "96", "--seeds", ",".join(map(str, range(RUNS))), "--epochs", str(epochs),
        "--batch-size", "8", "--device", "cpu", "--output", str(study), "--set", "system.threads=1",
        "--set", "data.cache_dir=~/cache", *(part for name in OFF for part in ("--set", f"{name}=false")), *options,
    ]  # fmt: skip
    environment = os.environ | {"HOME": str(study.with_suffix(".home")), "OMP_NUM_THREADS": "1"}
    Path(environment["HOME"]).mkdir()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    running = [subprocess.Popen(command, **quiet) for _ in range(processes)]
    statuses = [process.wait() for process in running]
    if any(statuses):
        raise SystemExit(f"{study.name}: exit status {statuses}")


def weights(study: Path) -> list[bytes]:
    """Every run's weights, in the order of the seeds; headers hold where and when, so tensors alone."""
    found = sorted(study.rglob("best_model.safetensors"))
    return [data[8 + int.from_bytes(data[:8], "little") :] for data in (path.read_bytes() for path in found)]


def hub_calls_per_s(address: str, *, calls: int = 4000) -> float:
    """Answered calls a second of the study's actor."""
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        with tempfile.TemporaryDirectory() as incoming:
            hub = ray.remote(Hub).options(num_cpus=0).remote()
            ray.get(hub.open.remote(incoming))
            event = ("update_ended", {"epoch": 1, "update": 1, "images": 8})
            ray.get(hub.tell.remote("warm", [event]))
            started = time.perf_counter()
            ray.get([hub.tell.remote(f"run{number % 100}", [event] * 8) for number in range(calls)])
            return calls / (time.perf_counter() - started)
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ray-overhead-") as folder:
        work, studies = Path(folder), []
        make_images(work / "data")
        began = time.perf_counter()
        cluster = start_cluster(work)
        cluster_s = time.perf_counter() - began
        try:
            on_ray = ("--executor", "ray", "--ray-address", cluster.address)

            def run(name: str, processes: int, options: tuple[str, ...]) -> None:
                studies.append(work / f"{name}{len(studies)}")
                run_study(work, studies[-1], epochs=given.epochs, processes=processes, options=options)

            arms = {"local": partial(run, "local", AT_ONCE, ()), "ray": partial(run, "ray", 1, on_ray)}
            taken = in_turn(arms, given.rounds)
            calls = hub_calls_per_s(cluster.address)
        finally:
            cluster.shutdown()
        equal = sum(len(set(of_seed)) == 1 for of_seed in zip(*map(weights, studies), strict=True))
    local, with_ray = (median_interval(taken[name])[0] for name in arms)
    each = local * AT_ONCE / RUNS
    print(f"{RUNS} runs, {AT_ONCE} at a time, one thread each, {each:.1f} s a run; rounds: {given.rounds}")
    for name, seconds in taken.items():
        print(f"{name:6s}" + "".join(f"{one:8.1f} s" for one in seconds))
    ratio = median_interval([b / a for a, b in zip(taken["local"], taken["ray"], strict=True)])[0]
    print(f"ray / local {ratio:.3f}: {with_ray - local:+.1f} s; start of the cluster, not counted: {cluster_s:.1f} s")
    print(f"weights equal bit for bit: {equal} of {RUNS} runs; the study's actor answers {calls:,.0f} calls a second")
    sys.exit(not (equal == RUNS and ratio < 1.1))


if __name__ == "__main__":
    main()
