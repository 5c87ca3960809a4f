"""A real Ray cluster on this machine: a head for the study, two nodes with homes of their own and no shared cache."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.numpy import load_file

pytest.importorskip("ray", reason="Ray is not installed (requirements-dev.txt pins it)")

Make = Callable[..., Path]
Args = Callable[..., list[str]]
Start = Callable[..., subprocess.Popen[str]]

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    # Ray's own sockets and pipes, closed when its processes are collected.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


class Nodes:
    """The cluster; nodes can be lost."""

    def __init__(self, homes: Path) -> None:
        from ray.cluster_utils import Cluster

        self.homes = homes
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
        self.first = self._add("first", cpus=2)
        self.second = self._add("second", cpus=1)

    def _add(self, name: str, *, cpus: int) -> Any:
        home = self.homes / name
        home.mkdir()
        return self.cluster.add_node(num_cpus=cpus, env_vars={"HOME": str(home), "OMP_NUM_THREADS": "1"}, **SMALL)

    def lose_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    made = Nodes(tmp_path_factory.mktemp("homes"))
    try:
        yield made
    finally:
        made.cluster.shutdown()


@pytest.fixture
def start_ray(nodes: Nodes, tmp_path: Path, start: Start) -> Callable[..., subprocess.Popen[str]]:
    """Start a study on the cluster, whose own home is a third one."""

    def begin(arguments: list[str]) -> subprocess.Popen[str]:
        (tmp_path / "home").mkdir(exist_ok=True)
        ray = ["--executor", "ray", "--ray-address", nodes.cluster.address, "--set", "data.cache_dir=~/cache"]
        return start(*arguments, *ray, env=os.environ | {"HOME": str(tmp_path / "home")})

    return begin


def weights(study: Path) -> dict[str, dict[str, bytes]]:
    return {
        str(path.parent.relative_to(study)): {k: v.tobytes() for k, v in load_file(path).items()}
        for path in sorted(study.rglob("best_model.safetensors"))
    }


def scores(study: Path) -> pd.DataFrame:
    """What must not depend on where a run was."""
    columns = ["model", "resolution", "seed", "status", "best_epoch", "split", "accuracy", "log_loss"]
    return pd.read_csv(study / "results.csv")[columns]


def read_until(process: subprocess.Popen[str], condition: Callable[[list[str]], bool]) -> list[str]:
    """Lines of standard error until the condition holds."""
    assert process.stderr is not None
    lines: list[str] = []
    while not condition(lines):
        line = process.stderr.readline()
        assert line, f"ended before: {lines}"
        lines.append(line)
    return lines


def running(lines: list[str]) -> set[str]:
    """Seeds of which an epoch has been told."""
    return {line.split("seed ")[1].split()[0] for line in lines if "seed" in line and ": train loss" in line}


ONE_THREAD = ["--set", "system.threads=1"]


def test_study_on_two_nodes_stopped_gone_on_and_equal_to_local(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., Any], start_ray: Start, nodes: Nodes
) -> None:
    data = make_images(tmp_path / "data", splits={"train": 20, "val": 6, "test": 6})
    grid = ["--seeds", "0,1,2,3", "--epochs", "40", *ONE_THREAD]
    stopped = start_ray(small_run(data, *grid))
    read_until(stopped, lambda lines: len(running(lines)) >= 2)
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate(timeout=120)
    assert stopped.returncode == 130, err
    assert "Run the same command again" in err
    assert "Traceback" not in err
    assert len(list((tmp_path / "study").rglob("last.pt"))) >= 2
    process = start_ray(small_run(data, *grid))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, (out, err)
    assert "going on after update" in err
    assert cli(*small_run(data, *grid, output="local")).status == 0
    assert weights(tmp_path / "study") == weights(tmp_path / "local")
    pd.testing.assert_frame_equal(scores(tmp_path / "study"), scores(tmp_path / "local"))
    shipped = [
        sorted(p.parent.name for p in (nodes.homes / n / "cache" / "pyramid").glob("*/meta.json"))
        for n in ("first", "second")
    ]
    assert all(len(names) == 3 for names in shipped), shipped  # train, val and test came to both homes
    assert not [path for path in (tmp_path / "study" / ".incoming").rglob("*") if path.is_file()]


def test_failed_cell_is_a_row_and_processes_per_run_work_on_a_node(
    tmp_path: Path, make_images: Make, small_run: Args, start_ray: Start
) -> None:
    data = make_images(tmp_path / "data")
    two = start_ray(small_run(data, *ONE_THREAD, "--set", "system.processes_per_run=2", output="two"))
    out, err = two.communicate(timeout=300)
    assert two.returncode == 0, (out, err)
    assert json.loads(next((tmp_path / "two").rglob("run.json")).read_text())["provenance"]["processes"] == 2
    bad = start_ray(small_run(data, *ONE_THREAD, "--set", "training.learning_rate=1e30", output="bad"))
    out, err = bad.communicate(timeout=300)
    assert bad.returncode == 1
    assert "the loss became" in out
    assert "Traceback" not in out + err
    assert scores_of_failed(tmp_path / "bad") == ["failed"]


def scores_of_failed(study: Path) -> list[str]:
    return list(pd.read_csv(study / "results.csv")["status"])


def test_cells_of_a_lost_node_are_run_again(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Callable[..., Any], start_ray: Start, nodes: Nodes
) -> None:
    """Last: the cluster has one node less afterwards."""
    data = make_images(tmp_path / "data", splits={"train": 20, "val": 6, "test": 6})
    grid = ["--seeds", "0,1,2,3", "--epochs", "60", *ONE_THREAD]
    process = start_ray(small_run(data, *grid))
    lines = read_until(process, lambda lines: len(running(lines)) >= 3)  # three slots: the second node is at work
    nodes.lose_second()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, (out, err)
    assert "its worker was lost" in "".join(lines) + err
    assert cli(*small_run(data, *grid, output="local")).status == 0
    assert weights(tmp_path / "study") == weights(tmp_path / "local")


def test_wish_that_no_node_can_fulfil_is_one_line(
    tmp_path: Path, make_images: Make, small_run: Args, start_ray: Start
) -> None:
    started = time.monotonic()
    process = start_ray(small_run(make_images(tmp_path / "data"), "--set", "system.threads=64"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, time.monotonic() - started
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        "error: a run needs 64 CPU(s) on one node, and no node of the Ray cluster has them (the largest has 2 CPU(s)); "
        "lower system.threads or system.processes_per_run"
    ]
