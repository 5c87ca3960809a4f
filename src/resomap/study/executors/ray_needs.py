"""What a cell needs of a node of a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ray

from resomap.config.schema import ResoMapConfig
from resomap.study import build


@dataclass(frozen=True)
class Needs:
    """Of one cell."""

    cpus: int
    gpus: int
    threads: int

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many cells these resources take."""
        by_cpu = int(resources.get("CPU", 0)) // self.cpus
        return min(by_cpu, int(resources.get("GPU", 0)) // self.gpus) if self.gpus else by_cpu

    def slots(self) -> int:
        """How many cells the cluster takes at once."""
        return sum(self.fits(node["Resources"]) for node in ray.nodes() if node["Alive"])


def needs_of(config: ResoMapConfig) -> Needs:
    """CPUs and GPUs of a cell, and the threads of each of its processes: on CPU those that a local run would have.

    Without torch where the configuration says it all.
    """
    processes = build.processes_per_run(config)
    device_type = build.device_type(config)
    if device_type == "cpu":
        threads = build.cpu_threads(config)
        return Needs(threads * processes, 0, threads)
    threads = 1 + build.fewest_workers(config, device_type)
    return Needs(threads * processes, processes, threads)
