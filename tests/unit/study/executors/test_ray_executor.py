"""How the executor of a Ray cluster begins; tests/integration/test_ray.py has the cluster."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from resomap import load_config
from resomap.errors import ConfigError

ray = pytest.importorskip("ray", reason="Ray is not installed (requirements-dev.txt pins it)")

LIGHT = """
import sys
from types import SimpleNamespace
from resomap import load_config
from resomap.study import build
from resomap.study.executors.ray_needs import needs_of

config = load_config(overrides=["system.executor=ray", "system.device=cpu", "system.threads=3"])
build.executor(config)
print(needs_of(config), build.grid_size(config) == len(config.sweep.models) * len(config.sweep.resolutions)
      * len(config.sweep.seeds), [name for name in ("torch", "pandas") if name in sys.modules])
"""


def test_the_cluster_is_asked_before_torch_is_there() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout == "Needs(cpus=3, gpus=0, threads=3) True []\n"


def test_a_cluster_that_is_not_there_is_told_when_cells_are_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from resomap.study import build

    def refuse(**_: object) -> NoReturn:
        raise ConnectionError("nobody answers\nat all")

    monkeypatch.setattr(ray, "init", refuse)
    config = load_config(overrides=["system.executor=ray", "system.ray_address=there:6379"])
    work: Any = SimpleNamespace(context=SimpleNamespace(ranks=SimpleNamespace(world_size=1)))
    told = r"^cannot reach a Ray cluster at there:6379: nobody answers$"
    # Not on entering, so that planning can say first what is wrong with the study.
    with build.executor(config) as executor, pytest.raises(ConfigError, match=told):
        next(iter(executor.run(work, [])))
    assert not ray.is_initialized()


def test_a_warm_worker_has_what_a_cell_imports() -> None:
    child = (
        "import sys; from resomap.study.executors.ray_worker import warm; warm(1); import torch;"
        "print(torch.get_num_threads(), 'resomap.training.trainer' in sys.modules, 'accelerate' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert done.stdout == "1 True True\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
@pytest.mark.parametrize("keep", [True, False])
def test_a_warm_worker_keeps_freed_memory_from_before_torch_is_there(keep: bool) -> None:
    child = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': print(os.environ.get('THP_MEM_ALLOC_ENABLE'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from resomap.study.executors.ray import _warm\n"
        f"_warm(1, {keep})\n"
        "from resomap.allocator import keeps_freed_memory\n"
        "print(keeps_freed_memory())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == ("1\nTrue\n" if keep else "None\nFalse\n")


def test_a_cell_waits_in_the_cluster_only_beside_long_ones() -> None:
    from resomap.study.executors.ray_batch import cells_out

    assert cells_out(2, [1.0, 8.0]) == 2
    assert cells_out(2, [25.0, 300.0]) == 3
    assert cells_out(100, [1.0] * 10 + [300.0] * 90) == 101  # some are always new
    assert cells_out(0, []) == 1  # every node is gone: what waits has the cluster get another


def test_of_a_run_that_goes_on_only_what_is_tracked_is_kept() -> None:
    """A run of a million updates tells a million events; those of progress are passed on at once."""
    from resomap.records import Cell
    from resomap.study.executors import ray_batch
    from resomap.study.progress import StudyProgress

    heard: list[int] = []

    class Listener(StudyProgress):
        def update_ended(self, cell: Cell, *, epoch: int, update: int, images: int) -> None:
            heard.append(update)

    updates = [("run", ("update_ended", {"epoch": 1, "update": n, "images": 8})) for n in range(1000)]
    tracked = ("log_metrics", {"metrics": {"loss": 1.0}, "step": 1})
    flight = ray_batch._Flight(SimpleNamespace(name="run", cell=Cell("m", 32, 0)), lease=None, tries=1)  # type: ignore[arg-type]
    batch = object.__new__(ray_batch.Batch)
    batch._flights = {"reference": flight}
    batch._context = SimpleNamespace(progress=Listener())  # type: ignore[assignment]
    batch._call = lambda method: [*updates, ("run", tracked)]  # type: ignore[method-assign]
    batch._pass_on()
    assert heard == list(range(1000))
    assert flight.tracking == [tracked]
    assert flight.has_begun
