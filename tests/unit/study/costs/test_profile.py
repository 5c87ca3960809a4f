"""How long the profiling stage may time, and when a stored profile is good enough."""

from __future__ import annotations

import importlib
import linecache
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from resomap.config.load import load_config
from resomap.config.schema import ResoMapConfig
from resomap.layout import StudyLayout
from resomap.profiling.profiler import PROFILE_VERSION, profile_subjects
from resomap.profiling.records import ProfileRecord, Rounds
from resomap.records import ImageDataset
from resomap.serialize import read_json, write_json
from resomap.study import build
from resomap.study.costs.cost import stored_profiles
from resomap.study.costs.profile import profile_study, profiles_are_current


@pytest.mark.parametrize(
    ("training_s", "budget_s"),
    [(None, 120.0), (0.0, 10.0), (50.0, 10.0), (300.0, 30.0), (1200.0, 120.0), (90_000.0, 120.0)],
)
def test_a_run_s_timing_is_held_to_a_tenth_of_its_training(training_s: float | None, budget_s: float) -> None:
    rounds = build.profiling_options(load_config(), training_s=training_s)["rounds"]
    assert rounds.budget_s == budget_s


def test_all_of_the_budget_where_no_share_is_set() -> None:
    config = load_config(overrides=["system.profiling.share_of_training=null", "system.profiling.budget_s=7"])
    assert build.profiling_options(config, training_s=1.0)["rounds"].budget_s == 7.0


def small(tmp_path: Path, *more: str) -> ResoMapConfig:
    return load_config(
        overrides=[
            "data.source=acuity", "data.acuity.train=8", "data.acuity.val=8", "data.acuity.test=8",
            f"data.cache_dir={tmp_path / 'cache'}", f"study.output={tmp_path / 'study'}",
            "sweep.models=[tiny_cnn]", "sweep.resolutions=[32]", "system.device=cpu", "system.profiling.blocks=5",
            "system.profiling.precision=null", "system.profiling.max_batch=1", "system.profiling.end_to_end_images=0",
            *more,
        ]
    )  # fmt: skip


def test_a_profile_is_made_again_only_for_much_more_time(tmp_path: Path) -> None:
    config, layout = small(tmp_path), StudyLayout(tmp_path / "study")
    images = build.dataset(config)
    assert not profiles_are_current(config, images, layout, training_s=300)
    profile_study(config, images=images, layout=layout, training_s=300)  # 30 s
    assert profiles_are_current(config, images, layout, training_s=300)
    assert profiles_are_current(config, images, layout, training_s=600)  # 60 s, of which it had half
    assert not profiles_are_current(config, images, layout, training_s=610)
    assert profiles_are_current(config, images, layout, training_s=10)
    assert not profiles_are_current(config, images, layout)  # `resomap profile` was asked for: 120 s
    assert not profiles_are_current(small(tmp_path, "system.profiling.blocks=6"), images, layout, training_s=300)


OURS = """
from torch import nn
def network(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride={stride}), nn.{act}(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))
"""


@pytest.fixture
def profiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    """A study of tiny_cnn and a network of the user's is profiled; asks whether that holds for other settings."""
    monkeypatch.syspath_prepend(tmp_path)
    write_ours(tmp_path)
    layout, both = StudyLayout(tmp_path / "study"), "sweep.models=[tiny_cnn,'ours_to_profile:network']"
    images = build.dataset(small(tmp_path))
    settings = (both, "models.allow_callables=true", "system.profiling.end_to_end_images=2")
    monkeypatch.setattr(
        "resomap.study.costs.profile.profile_subjects", partial(profile_subjects_once, profile_subjects)
    )
    profile_study(small(tmp_path, *settings), images=images, layout=layout)

    def holds(*more: str, images: ImageDataset = images) -> bool:
        return profiles_are_current(small(tmp_path, *settings, *more), images, layout)

    return holds


def profile_subjects_once(measure: Any, subjects: Any, plan: Any, **options: Any) -> list[ProfileRecord]:
    """One round of batch 1 will do."""
    found: list[ProfileRecord] = measure(subjects, replace(plan, protocols=("batch1",), rounds=Rounds(1)), **options)
    return [replace(record, rounds=plan.rounds) for record in found]


def write_ours(folder: Path, *, stride: int = 1, act: str = "ReLU") -> None:
    (folder / "ours_to_profile.py").write_text(OURS.format(stride=stride, act=act), "utf-8")
    sys.modules.pop("ours_to_profile", None)
    importlib.invalidate_caches()
    linecache.checkcache()


def test_a_profile_holds_for_what_it_was_measured_of(
    profiled: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert profiled()
    assert profiled("training.learning_rate=0.5", "sweep.seeds=[0,1,2]")  # which change no figure
    for changed in (
        "models.tiny_cnn.channels=[16, 32, 128]",
        "system.profiling.max_batch=2",
        "system.profiling.warmup=7",
        "system.profiling.modes=[channels_last]",
        "system.profiling.end_to_end_images=1",
        "training.optimizer=sgd",
        "training.micro_batch=2",
        "system.mixed_precision=bf16",
        "data.kernel=lanczos",
    ):
        assert not profiled(changed), changed
    images = build.dataset(small(tmp_path))
    assert not profiled(images=replace(images, class_names=(*images.class_names, "one more")))
    assert profiled()
    monkeypatch.setattr("resomap.study.costs.profile.PROFILE_VERSION", PROFILE_VERSION + 1)
    assert not profiled()


def test_a_network_of_the_user_s_that_changed_is_measured_again(profiled: Callable[..., bool], tmp_path: Path) -> None:
    write_ours(tmp_path, stride=2)  # as many parameters
    assert not profiled()
    write_ours(tmp_path, act="GELU")  # as many operations
    assert not profiled()
    write_ours(tmp_path)
    assert profiled()


def test_a_profile_of_an_earlier_version_is_read_but_not_current(profiled: Callable[..., bool], tmp_path: Path) -> None:
    layout = StudyLayout(tmp_path / "study")
    path = layout.profile_path("tiny_cnn", 32)
    stored = read_json(path)
    del stored["digest"]
    write_json(path, stored)
    assert not profiled()
    assert len(stored_profiles(layout)) == 2


def test_files_that_cannot_be_read_are_not_counted_as_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "resomap.study.costs.profile.profile_subjects", partial(profile_subjects_once, profile_subjects)
    )
    config = small(tmp_path, "system.profiling.end_to_end_images=3")
    images = build.dataset(config)
    images.splits["test"][0].path.write_bytes(b"no image")
    (record,) = profile_study(config, images=images, layout=StudyLayout(tmp_path / "study"))
    assert record.end_to_end is not None
    assert (record.end_to_end.images, record.end_to_end.mode) == (2, "eager")
