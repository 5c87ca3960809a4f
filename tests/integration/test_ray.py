"""A real Ray cluster on this machine: two nodes with homes of their own, the study with a third, no shared cache.

Starting processes that import torch is most of the time, so studies run in this process, which after the first stays
connected: the cluster's workers are then those of the study before.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from safetensors.numpy import load_file

from resomap.cli.live import PlainProgress
from resomap.records import Cell, EpochRecord

pytest.importorskip("ray", reason="Ray is not installed (requirements-dev.txt pins it)")

Make = Callable[..., Path]
Args = Callable[..., list[str]]
Cli = Callable[..., Any]

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    # Ray's own sockets and pipes, closed when its processes are collected.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
ALIKE = ["--set", "system.threads=1", "--set", "system.autotune=false"]
"""For equal results: autotune decides by timing."""


class Nodes:
    """The cluster: the study's node with two CPUs, and one with one CPU that can be lost."""

    def __init__(self, homes: Path) -> None:
        from ray.cluster_utils import Cluster

        self.homes = [homes / "first", homes / "second"]
        for home in self.homes:
            home.mkdir()
        first, second = ({"env_vars": {"HOME": str(home), "OMP_NUM_THREADS": "1"}, **SMALL} for home in self.homes)
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **first})
        self._second = self.cluster.add_node(num_cpus=1, **second)
        self._is_lost = False

    def lose_second_at_work(self) -> None:
        """Kill the second node as soon as it trains."""
        if self._is_lost or len(shipped(self.homes[1])) < 3:
            return
        raylet = psutil.Process(self._second.all_processes["raylet"][0].process.pid)
        if any("_remote_task" in " ".join(child.cmdline()) for child in raylet.children()):
            self.cluster.remove_node(self._second, allow_graceful=False)
            self._is_lost = True


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    made = Nodes(tmp_path_factory.mktemp("homes"))
    try:
        yield made
    finally:
        made.cluster.shutdown()


@pytest.fixture(scope="module")
def connection(nodes: Nodes) -> Iterator[None]:
    """This process's, kept from study to study."""
    import ray

    ray.init(address=nodes.cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture
def ray_options(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a study on the cluster; its own home is a third one."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return ["--executor", "ray", "--ray-address", nodes.cluster.address, "--set", "data.cache_dir=~/cache", *ALIKE]


def shipped(home: Path) -> list[Path]:
    """Decoded splits that have come to a node."""
    return [path for path in (home / "cache" / "pyramid").glob("*") if path.is_dir() and path.suffix != ".tmp"]


def weights(study: Path) -> dict[str, dict[str, bytes]]:
    return {
        str(path.parent.relative_to(study)): {k: v.tobytes() for k, v in load_file(path).items()}
        for path in sorted(study.rglob("best_model.safetensors"))
    }


def scores(study: Path) -> pd.DataFrame:
    """What must not depend on where a run was."""
    columns = ["model", "resolution", "seed", "status", "best_epoch", "split", "accuracy", "log_loss"]
    return pd.read_csv(study / "results.csv")[columns]


def after_epochs(monkeypatch: pytest.MonkeyPatch, act: Callable[[Cell], None]) -> None:
    """Call `act` whenever a cell has told an epoch."""
    say = PlainProgress.epoch_ended

    def say_and_act(progress: PlainProgress, cell: Cell, record: EpochRecord) -> None:
        say(progress, cell, record)
        act(cell)

    monkeypatch.setattr(PlainProgress, "epoch_ended", say_and_act)


def test_study_stopped_gone_on_with_a_node_lost_equals_a_local_one(
    tmp_path: Path,
    make_images: Make,
    small_run: Args,
    cli: Cli,
    ray_options: list[str],
    nodes: Nodes,
    request: pytest.FixtureRequest,
) -> None:
    """The cluster has one node less afterwards: the other tests need the first alone."""
    data = make_images(tmp_path / "data")
    study, two, grid = tmp_path / "study", ["--seeds", "0,1"], ["--seeds", "0,1,2", "--epochs", "250"]
    told: set[int] = set()

    def press_ctrl_c_once_two_run(cell: Cell) -> None:
        told.add(cell.seed)
        if len(told) == 2:
            told.add(-1)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        after_epochs(patch, press_ctrl_c_once_two_run)
        stopped = cli(*small_run(data, *grid, *two, *ray_options))
    assert stopped.status == 130, stopped.err
    assert "Run the same command again" in stopped.err
    assert "Traceback" not in stopped.err
    assert len(list(study.rglob("last.pt"))) == 2
    assert not (study / ".incoming").exists()

    request.getfixturevalue("connection")
    with pytest.MonkeyPatch.context() as patch:
        after_epochs(patch, lambda _: nodes.lose_second_at_work())
        outcome = cli(*small_run(data, *grid, *ray_options))
    assert outcome.status == 0, (outcome.out, outcome.err)
    assert "going on after update" in outcome.err
    assert "its worker was lost" in outcome.err
    assert not (study / ".incoming").exists()
    assert cli(*small_run(data, *grid, *ALIKE, output="local")).status == 0
    assert weights(study) == weights(tmp_path / "local")
    pd.testing.assert_frame_equal(scores(study), scores(tmp_path / "local"))
    assert [len(shipped(home)) for home in nodes.homes] == [3, 3]  # train, val and test came to both


@pytest.mark.usefixtures("connection")
def test_processes_per_run_work_on_a_node(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Cli, ray_options: list[str]
) -> None:
    outcome = cli(*small_run(make_images(tmp_path / "data"), *ray_options, "--set", "system.processes_per_run=2"))
    assert outcome.status == 0, (outcome.out, outcome.err)
    assert json.loads(next((tmp_path / "study").rglob("run.json")).read_text())["provenance"]["processes"] == 2


@pytest.mark.usefixtures("connection")
def test_failed_cell_is_a_row(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Cli, ray_options: list[str]
) -> None:
    data = make_images(tmp_path / "data")
    outcome = cli(*small_run(data, *ray_options, "--set", "training.learning_rate=1e30"))
    assert outcome.status == 1
    assert "the loss became" in outcome.out
    assert "Traceback" not in outcome.out + outcome.err
    assert list(pd.read_csv(tmp_path / "study" / "results.csv")["status"]) == ["failed"]
    assert not (tmp_path / "study" / ".incoming").exists()


@pytest.mark.usefixtures("connection")
def test_wish_that_no_node_can_fulfil_is_one_line(
    tmp_path: Path, make_images: Make, small_run: Args, cli: Cli, ray_options: list[str]
) -> None:
    outcome = cli(*small_run(make_images(tmp_path / "data"), *ray_options, "--set", "system.threads=64"))
    assert outcome.status == 2
    assert outcome.error_lines == [
        "error: a run needs 64 CPUs on one node, and no node of the Ray cluster has them (the largest has 2 CPUs); "
        "lower system.threads or system.processes_per_run"
    ]
