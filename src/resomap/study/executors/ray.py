"""The cells as tasks of a Ray cluster, without a shared file system: `resomap run --executor ray`.

Without torch until the first cell is run, so that the cluster's workers start while this process still imports it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Self

from resomap.allocator import keep_freed_memory
from resomap.config.schema import ResoMapConfig
from resomap.errors import ConfigError
from resomap.printable import printable
from resomap.records import Cell, RunRecord
from resomap.study import build
from resomap.study.executors.ray_hub import Hub

try:
    import ray
except ImportError as missing:
    raise ConfigError(
        "system.executor is ray, but Ray is not installed; pip install 'resomap[ray]' here and on every node"
    ) from missing
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from resomap.study.executors.ray_needs import Needs, needs_of

if TYPE_CHECKING:
    from resomap.study.claimed_cells import Work


class RayExecutor:
    """See claimed_cells.Executor.

    On entering, a thread connects to the cluster and has the nodes start workers that hold what a cell needs (torch is
    most of it), while the study's process plans and decodes the images.

    Args:
        address: of a running cluster; None: RAY_ADDRESS, else a Ray of this machine's own.
    """

    def __init__(self, config: ResoMapConfig, *, address: str | None) -> None:
        self._config, self._address = config, address or os.environ.get("RAY_ADDRESS") or "local"
        self._is_ours = False
        self._hub: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._prepare, name="resomap ray", daemon=True)

    def __enter__(self) -> Self:
        if self._address.startswith("ray://"):
            raise ConfigError(
                f"--ray-address {printable(self._address)}: the study's machine must be a node of the cluster "
                "(`ray start --address=HOST:6379` there), since its files are handed out from it; give auto then"
            )
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.join()
        if self._hub is not None:
            ray.kill(self._hub)
        if self._is_ours:
            ray.shutdown()

    def run(self, work: Work, cells: Sequence[Cell]) -> Generator[tuple[Cell, RunRecord | None]]:
        """Each cell with its record as it ends, or None where another process has it."""
        from resomap.study.costs.schedule import longest_first
        from resomap.study.executors.ray_batch import Batch

        if work.context.ranks.world_size > 1:
            raise ConfigError("system.executor is ray, but a launcher started several processes; leave one of the two")
        self._thread.join()
        if self._error is not None:
            raise self._error
        hub, self._hub = self._hub or _new_hub(), None
        batch = Batch(work, longest_first(cells, work.cost) if len(cells) > 1 else cells, hub)
        with work.stop.between_updates():
            try:
                yield from batch.run()
            finally:
                batch.close()

    def _prepare(self) -> None:
        """In a thread: whatever goes wrong is told by run(), after what planning finds."""
        try:
            self._connect()
            self._hub = _new_hub()
            _warm_workers(
                needs_of(self._config),
                cells=build.grid_size(self._config),
                keep_freed=build.keeps_memory(self._config),
            )
        except Exception as error:
            self._error = error

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        logging.getLogger("ray").setLevel(logging.ERROR)  # it warns that signals are left alone in a thread
        options: dict[str, Any] = {"include_dashboard": False} if self._address == "local" else {}
        try:
            ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"cannot reach a Ray cluster at {printable(self._address)}: {printable(first)}"
            ) from error
        self._is_ours = True


def _new_hub() -> Any:
    """A hub in a process of its own on the study's node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Hub).options(num_cpus=0, scheduling_strategy=here).remote()


def _warm_workers(needs: Needs, *, cells: int, keep_freed: bool) -> None:
    """Have as many workers started as will run cells; nobody waits for them, nor minds those that fail."""
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            warm = ray.remote(_warm).options(
                num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=0, scheduling_strategy=there
            )
            for _ in range(min(cells, needs.fits(node["Resources"]))):
                warm.remote(needs.threads, keep_freed)


def _warm(threads: int, keep_freed: bool) -> None:
    """Runs on a node: what a cell imports and sets up, before there is one.

    Args:
        keep_freed: whether freed memory stays with the process. Told before anything imports torch, which reads some of
            it at its first allocation.
    """
    if keep_freed:
        keep_freed_memory()
    from resomap.study.executors.ray_worker import warm

    warm(threads)
