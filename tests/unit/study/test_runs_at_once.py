"""How many runs go on at once where nobody says, and what each of them is given."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from resomap import load_config
from resomap.layout import StudyLayout
from resomap.lease import Leases
from resomap.profiling.memory import predict_memory
from resomap.records import Cell
from resomap.study import build, runs_at_once
from resomap.study.plan import plan_study
from resomap.study.progress import StudyProgress
from resomap.training.ranks import Ranks

CELLS = 6
OWN_MIB = 500.0


@pytest.fixture
def settled(tmp_path, make_images, monkeypatch):
    """settle_runs_at_once() of a grid of six cells on a machine with that many cores and so much free memory."""
    images = make_images(tmp_path / "data")

    def settle(*settings, cores=8, free_mib=1e6, ranks=None):
        monkeypatch.setattr(build, "usable_cores", lambda: cores)
        monkeypatch.setattr(runs_at_once, "free_memory_mib", lambda device: free_mib)
        monkeypatch.setattr(runs_at_once, "_own_mib", lambda: OWN_MIB)
        config = load_config(
            overrides=[
                f"data.source={images}", f"data.cache_dir={tmp_path}/cache", f"study.output={tmp_path}/study",
                "system.device=cpu", "sweep.models=[tiny_cnn]", "sweep.resolutions=[32,64]", "sweep.seeds=[0,1,2]",
                "training.epochs=1", "training.batch_size=8", *settings,
            ]
        )  # fmt: skip
        context = plan_study(config, progress=StudyProgress(), ranks=Ranks())
        return runs_at_once.settle_runs_at_once(replace(context, ranks=ranks or Ranks()))

    return settle


def test_a_short_study_goes_one_run_after_the_other(settled):
    assert settled() == 1
    # E epochs of 24 images and a third of 12 (E + 1) + 12: 28 E + 8 in each of three runs at 32 and three at 64 px, or
    # 15,360 (28 E + 8) pixels; at 6 million a second that takes 20 s from E = 278.7 on.
    assert settled("training.epochs=278") == 1
    assert settled("training.epochs=279") == 4


@pytest.mark.parametrize(("cores", "runs"), [(1, 1), (2, 2), (3, 3), (64, 4)])
def test_a_long_one_has_as_many_as_there_are_cores_up_to_four(settled, cores, runs):
    assert settled("training.epochs=5000", cores=cores) == runs


def test_memory_bounds_them(settled):
    network = build.model(load_config(), Cell("tiny_cnn", 64, 0), num_classes=2)
    peak = predict_memory(network, input_shape=(8, 3, 64, 64), training=True).peak_mib
    # Half of what is free holds three runs and the libraries of two helpers, not the third helper's.
    three = 3 * peak + 2 * OWN_MIB
    assert settled("training.epochs=5000", free_mib=2 * (three + 1)) == 3
    assert settled("training.epochs=5000", free_mib=2 * (three + peak)) == 3
    assert settled("training.epochs=5000", free_mib=2 * (three - 1)) == 2
    assert settled("training.epochs=5000", free_mib=peak) == 1


def test_a_network_that_shapes_alone_cannot_pass_goes_one_run_after_the_other(settled, monkeypatch):
    def predict(*_, **__):
        raise RuntimeError("data-dependent")

    monkeypatch.setattr(runs_at_once, "predict_memory", predict)
    assert settled("training.epochs=5000") == 1


def test_nothing_is_chosen_where_processes_are_in_use_already(settled):
    assert settled("training.epochs=5000", "system.processes_per_run=2") == 1
    assert settled("training.epochs=5000", "training.successive_halving=true") == 1
    assert settled("training.epochs=5000", ranks=Ranks(rank=0, world_size=2)) == 1


def test_what_is_asked_for_is_done_up_to_the_grid(settled):
    assert settled("system.runs_at_once=3") == 3
    assert settled("system.runs_at_once=12") == CELLS
    assert settled("system.runs_at_once=1", "training.epochs=5000") == 1


def test_a_model_typed_into_a_notebook_stays_in_its_process():
    named = load_config(overrides=["sweep.models=['__main__:Net']", "models.allow_callables=true", "system.device=cpu"])
    assert not build.may_run_side_by_side(named)
    assert build.may_run_side_by_side(load_config(overrides=["system.device=cpu"]))


def test_a_stopped_study_goes_on_with_as_many_as_before(settled, monkeypatch, tmp_path):
    cell = Cell("tiny_cnn", 32, 0)
    stopped = SimpleNamespace(cell=cell, status="running", provenance={"runs_at_once": 3})
    done = SimpleNamespace(cell=cell, status="finished", provenance={"runs_at_once": 4})
    monkeypatch.setattr(runs_at_once, "stored_runs", lambda layout: [done, stopped])
    assert settled("training.epochs=5000", free_mib=1.0) == 3
    assert settled("training.epochs=5000", cores=2) == 2
    layout = StudyLayout(tmp_path / "study")
    with Leases(layout.locks_dir).hold(layout.lease_name(cell)):  # another process does it: that is its own affair
        assert settled("training.epochs=5000", free_mib=1.0) == 1
    monkeypatch.setattr(runs_at_once, "stored_runs", lambda layout: [done])
    assert settled("training.epochs=5000", free_mib=1.0) == 1


def test_threads_are_shared_unless_they_are_given(monkeypatch):
    monkeypatch.setattr("resomap.study.build.training.usable_cores", lambda: 10)
    assert build.threads_of_a_run(load_config(), 4) == 2
    assert build.threads_of_a_run(load_config(), 16) == 1
    assert build.threads_of_a_run(load_config(overrides=["system.threads=5"]), 4) == 5
    before = torch.get_num_threads()
    with build.threads_of_runs(load_config(overrides=["system.threads=1"]), 2):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_each_helper_has_an_accelerator_of_its_own(monkeypatch):
    monkeypatch.setattr("resomap.training.device.select_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    config = load_config(overrides=["system.device=cuda"])
    given = [build.config_of_a_run(config, number, threads=2).system for number in (1, 2, 3, 4)]
    assert [system.device for system in given] == ["cuda:1", "cuda:2", "cuda:3", "cuda:0"]
    assert {system.threads for system in given} == {2}
    monkeypatch.setattr("resomap.training.device.select_device", lambda name: torch.device("cpu"))
    assert build.config_of_a_run(load_config(), 1, threads=2).system.device == "auto"
