"""How long the profiling stage may time, and when a stored profile is good enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from resomap.config.load import load_config
from resomap.config.schema import ResoMapConfig
from resomap.layout import StudyLayout
from resomap.study import build
from resomap.study.profile import profile_study, profiles_are_current


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
    assert not profiles_are_current(config, layout, training_s=300)
    profile_study(config, layout=layout, training_s=300)  # 30 s
    assert profiles_are_current(config, layout, training_s=300)
    assert profiles_are_current(config, layout, training_s=600)  # 60 s, of which it had half
    assert not profiles_are_current(config, layout, training_s=610)
    assert profiles_are_current(config, layout, training_s=10)
    assert not profiles_are_current(config, layout)  # `resomap profile` was asked for: 120 s
    assert not profiles_are_current(small(tmp_path, "system.profiling.blocks=6"), layout, training_s=300)
