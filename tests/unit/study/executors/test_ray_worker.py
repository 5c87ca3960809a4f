"""What runs on a node, without a cluster: the hub's methods are called as they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from resomap import __version__
from resomap.config.load import load_config
from resomap.data.pyramid import reopen_store
from resomap.layout import StudyLayout
from resomap.lease import Leases
from resomap.records import Cell
from resomap.study.context import StudyContext
from resomap.study.executors.ray_files import commit
from resomap.study.executors.ray_hub import Hub
from resomap.study.executors.ray_worker import Task, _local_store, run_task
from resomap.study.plan import plan_study
from resomap.study.progress import StudyProgress
from resomap.study.runs import read_run
from resomap.training.engine import Engine
from resomap.training.ranks import Ranks

CELL = Cell("tiny_cnn", 32, 0)


@pytest.fixture
def context(tmp_path: Path, make_images: Callable[..., Path]) -> StudyContext:
    flags = {
        "data.source": str(make_images(tmp_path / "data")), "data.cache_dir": str(tmp_path / "cache"),
        "study.output": str(tmp_path / "study"), "sweep.models": ["tiny_cnn"], "sweep.resolutions": [32],
        "sweep.seeds": [0], "training.epochs": 1, "training.batch_size": 8, "system.device": "cpu",
        "system.threads": torch.get_num_threads(),
    }  # fmt: skip
    return plan_study(load_config(flags=flags), progress=StudyProgress(), ranks=Ranks())


@pytest.fixture
def call(context: StudyContext, tmp_path: Path) -> Callable[..., Any]:
    hub = Hub()
    hub.open(str(tmp_path / "incoming"))
    hub.share({store.folder.name: str(store.folder) for store in context.stores.values()})  # type: ignore[attr-defined]
    return lambda method, *arguments: getattr(hub, method)(*arguments)


def test_a_worker_that_runs_out_of_memory_tells_the_limit_and_sends_only_files_of_its_run(
    context: StudyContext, call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Engine.forward

    def limited(self: Engine, images_BCHW: torch.Tensor) -> torch.Tensor:
        if len(images_BCHW) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, images_BCHW)

    monkeypatch.setattr(Engine, "forward", limited)
    result = run_task(context, Task("try", CELL, __version__, has_state=False), call)
    assert (result["status"], result["limit"], result["error"]) == ("finished", 2, None)
    layout = context.layout
    own = (layout.run_dir(CELL, "cnn"), layout.predictions_dir(CELL), layout.summary_dir("tiny_cnn", 32))
    commit(tmp_path / "incoming" / "try", layout.root, allowed=own, listing=result["listing"], replaces=())
    record = read_run(layout.run_record_path(CELL, "cnn"))
    assert record is not None
    assert record.determinants["protocol"]["training"]["micro_batch"] == 2


def test_a_worker_keeps_to_the_limit_of_the_study(context: StudyContext, call: Callable[..., Any]) -> None:
    result = run_task(context, Task("try", CELL, __version__, has_state=False, limit=4), call)
    assert (result["status"], result["limit"]) == ("finished", 4)
    assert not [name for name in result["listing"] if name.startswith("micro_batches")]
    params = [event["params"] for _, (kind, event) in call("take") if kind == "start_run"]
    assert params[0]["micro_batch"] == "4"


def test_a_fetch_waits_for_whoever_builds_the_same_store(
    context: StudyContext, call: Callable[..., Any], tmp_path: Path
) -> None:
    """A study on the node claims the folder, and its unfinished form, as every process does: by a lease."""
    store = context.stores["val"]
    config = context.config.model_copy(
        update={"data": context.config.data.model_copy(update={"cache_dir": str(tmp_path / "node")})}
    )
    root, name = tmp_path / "node" / "pyramid", store.folder.name  # type: ignore[attr-defined]
    builder = Leases(root).acquire(name)
    assert builder is not None
    there = StudyContext(**{f: getattr(context, f) for f in StudyContext.__slots__} | {"config": config})
    fetching = threading.Thread(target=_local_store, args=(there, "val", store, call))
    fetching.start()
    time.sleep(0.3)
    assert fetching.is_alive()
    assert not (root / f"{name}.tmp").exists()
    assert not (root / name).exists()
    builder.release()
    fetching.join(timeout=10)
    assert len(reopen_store(root / name, context.images.splits["val"], store.settings)) == len(store)


def test_a_driver_empties_what_a_killed_one_left_and_leaves_the_living_ones(context: StudyContext) -> None:
    ray = pytest.importorskip("resomap.study.executors.ray_batch", exc_type=Exception)
    first, folder = ray._incoming_folder(context)
    (folder / "0123").mkdir(parents=True)
    second, other = ray._incoming_folder(context)
    assert other != folder
    assert (folder / "0123").exists()
    first.release()  # as its end does
    again, same = ray._incoming_folder(context)
    assert same == folder
    assert not folder.exists()
    for lease in (second, again):
        lease.release()
    assert StudyLayout(context.layout.root) == context.layout
