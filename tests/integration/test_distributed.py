"""Two processes over gloo do what one does with twice the accumulation."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("distributed_scenarios.py")

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def _scenarios() -> ModuleType:
    spec = importlib.util.spec_from_file_location("distributed_scenarios", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> dict[str, Any]:
    """Results of a single process, this one."""
    return json.loads(json.dumps(_scenarios().all_scenarios(tmp_path_factory.mktemp("one"))))


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict[str, Any]]:
    """Results of both ranks of `torchrun --nproc-per-node 2`."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder), str(folder / "result")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"result.{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("scenario", ["plain", "norm"])
def test_two_ranks_have_the_losses_and_weights_of_one(one, two, scenario):
    expected = one[scenario]
    assert len(two) == 2
    assert len(expected["weights"]) > 0
    for rank in two:
        got = rank[scenario]
        assert got["losses"] == pytest.approx(expected["losses"], rel=1e-5)
        assert got["accuracies"] == expected["accuracies"]
        for name, values in expected["weights"].items():
            assert got["weights"][name] == pytest.approx(values, abs=1e-5), name


def test_two_ranks_validate_all_images_once(one, two):
    for ours, theirs in zip(two[0]["plain"]["val"], one["plain"]["val"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert two[0]["norm"]["val"] == two[1]["norm"]["val"]


def test_two_ranks_keep_the_same_epochs(one, two):
    assert two[0]["plain"]["kept"] == two[1]["plain"]["kept"] == one["plain"]["kept"]


def test_two_ranks_stop_together_when_one_is_asked(two):
    assert [rank["resumed"]["interrupted"] for rank in two] == [True, True]
    assert [rank["resumed"]["stopped_at"] for rank in two] == [4, 4]
    assert [rank["resumed"]["resumed_at"] for rank in two] == [4, 4]


def test_two_ranks_resume_to_the_weights_of_an_uninterrupted_run(one, two):
    assert len(two) == 2
    for rank in two:
        resumed = rank["resumed"]
        assert resumed["weights"] == resumed["weights_of_whole"]
        assert resumed["losses"] == pytest.approx(one["resumed"]["losses"], rel=1e-5)


def test_error_of_one_rank_ends_the_run_on_all_and_the_next_starts(one, two):
    for rank in (*two, one):
        assert rank["failures"]["errors"] == ["TrainingDivergedError", "StorageError"]
        assert rank["failures"]["after"] == pytest.approx(one["failures"]["after"], rel=1e-5)
